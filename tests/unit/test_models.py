"""Words and orders that other programs depend on."""

from __future__ import annotations

from pacsor_tasks import pipeline
from pacsor_tasks.models import RunState, Step


def test_the_states_are_the_public_ones():
    assert " ".join(RunState) == (
        "queued filtering uploading predicting downloading delivering done filtered failed"
        " cancelled"
    )


def test_each_step_is_followed_by_the_next_and_the_end_by_itself():
    walked = [Step.FILTER]
    while walked[-1] is not Step.END:
        walked.append(walked[-1].following)
    assert walked == list(Step)
    assert Step.END.following is Step.END


def test_the_canvas_names_the_steps_in_order():
    positions = [step.position for step in pipeline.STEPS]
    assert positions == sorted(positions)
    assert positions == list(range(len(positions)))
