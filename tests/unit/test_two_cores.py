"""Two cores and one study: each has its own runs, filters, limits and results, and its own end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import guard, wiring
from pacsor_tasks.core_plugins import BUILT_IN
from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.limits import SharedPause, SharedRate
from pacsor_tasks.models import DeliveryState, DestinationKind, Run, RunState, Step
from pacsor_tasks.outcomes import RetryPolicy
from pacsor_tasks.ports import Ports
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.steps.cleanup import apply_retention, cleanup
from pacsor_tasks.steps.filter import filter_instances
from pacsor_tasks.steps.ingest import ingest
from pacsor_tasks.steps.upload import upload
from tests.conftest import Clock
from tests.support.bench import Bench, FakeApi
from tests.support.ledgers import bring_to, existing
from tests.support.packages import add_package

NO_DX: Any = {"tag": {"group": "0008", "element": "0060"}, "pattern": "DX", "should_match": False}
MINIMAL = {
    "API_URL": "https://one.example", "TOKEN": "k0", "PACS_IP": "192.0.2.1", "PACS_PORT": "104",
    "PACS_AET": "PACS",
}  # fmt: skip
SECOND = {"ADDITIONAL_CORES": "core1", "API_URL_1": "https://two.example", "TOKEN_1": "k1"}


class Site:
    """A bench with a second core, `core1`, and a study that came in."""

    def __init__(self, root: Path, ledger: Ledger, **core1: Any) -> None:
        self.bench, self.api1, self.ledger = Bench(root, ledger), FakeApi(), ledger
        core = self.bench.ports.cores["core"]
        client: Any = self.api1
        cores = {"core": core, "core1": replace(core, name="core1", client=client, **core1)}
        to = [("storescu", DestinationKind.STORESCU)]
        self.ports: Ports = replace(
            self.bench.ports,
            cores=cores,
            targets=[Target(core=name, destinations=to) for name in cores],
        )
        self.study_uid, _ = self.bench.study()
        paths = self.ports.spool.instance_paths(self.study_uid, "t1")
        found = [existing(ledger, r) for r in ingest(self.study_uid, paths, self.ports)]
        self.runs = {run.core: run for run in found}

    def do(self, core: str, action: Any) -> Run:
        """One step of a core's run."""
        run = existing(self.ledger, self.runs[core].id)
        guard.run_step(
            self.ledger, RetryPolicy(), run.id, run.step, lambda r: action(r, self.ports)
        )
        return existing(self.ledger, run.id)

    def over(self, core: str, state: DeliveryState = DeliveryState.DELIVERED) -> Run:
        """A core's run, its one delivery ended so, and the run with it."""
        run = bring_to(self.ledger, self.runs[core], Step.DELIVER)
        (delivery,) = self.ledger.deliveries.of_run(run.id)
        claimed = self.ledger.deliveries.claim(delivery.id, "w", 10)
        assert claimed is not None
        self.ledger.deliveries.finish(claimed, state, "test")
        if self.ledger.runs.settle(run.id):
            return self.do(core, cleanup)
        return existing(self.ledger, run.id)

    def holds_pixels(self) -> bool:
        """Whether what was received is still there."""
        return self.ports.spool.revision_dir(self.study_uid, "t1").exists()


def test_each_core_gets_a_run_of_its_own_with_its_own_filters(
    sqlite_ledger: Ledger, tmp_path: Path
):
    site = Site(tmp_path, sqlite_ledger, filters=[FilterRule(**NO_DX)])
    assert set(site.runs) == {"core", "core1"}
    assert site.do("core1", filter_instances).state is RunState.FILTERED
    assert site.do("core", filter_instances).step is Step.UPLOAD
    assert site.do("core", upload).step is Step.POLL
    assert (len(site.bench.api.uploaded), site.api1.uploaded) == (2, [])


def test_what_one_core_has_the_other_is_sent_all_the_same(sqlite_ledger: Ledger, tmp_path: Path):
    site = Site(tmp_path, sqlite_ledger)
    for core in ("core", "core1"):
        site.do(core, filter_instances)
        assert site.do(core, upload).step is Step.POLL
    assert site.bench.api.uploaded == site.api1.uploaded
    assert len(site.api1.uploaded) == 2


def test_a_core_that_is_done_removes_its_own_results_only(sqlite_ledger: Ledger, tmp_path: Path):
    site = Site(tmp_path, sqlite_ledger)
    kept = site.ports.spool.results_dir(site.runs["core1"].id, "smarturgences")
    gone = site.ports.spool.results_dir(site.runs["core"].id, "smarturgences")
    assert site.over("core").state is RunState.DONE
    apply_retention(site.ports)
    assert (gone.exists(), kept.exists()) == (False, True)


@pytest.mark.parametrize("done_first", ["core", "core1"])
def test_pixels_stay_until_the_last_core_needs_them_no_more(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, done_first: str
):
    site = Site(tmp_path, sqlite_ledger)
    (other,) = {"core", "core1"} - {done_first}
    assert site.over(done_first).state is RunState.DONE
    clock.tick(site.ports.retention_s + 1)
    assert apply_retention(site.ports) == 0
    assert site.holds_pixels()
    site.over(other)
    assert apply_retention(site.ports) == 1
    assert not site.holds_pixels()


def test_pixels_stay_while_one_core_s_delivery_is_quarantined(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    site = Site(tmp_path, sqlite_ledger)
    site.over("core")
    assert site.over("core1", DeliveryState.QUARANTINED).state is RunState.FAILED
    clock.tick(site.ports.retention_s + 1)
    assert apply_retention(site.ports) == 0
    assert site.holds_pixels()


def test_a_study_is_not_forgotten_while_one_core_is_at_it(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    site = Site(tmp_path, sqlite_ledger)
    site.over("core")
    clock.tick(1000)
    assert sqlite_ledger.forgetting.old(500) == []


# --- what the settings make of it


def settings(**more: str) -> Settings:
    return load(MINIMAL | SECOND | more, dotenv=None)


def test_limits_are_a_core_s_own_and_inherited_unless_said():
    found = settings(
        UPLOAD_RATE="5", UPLOAD_RATE_1="0.5", UPLOAD_PARALLEL="6", UPLOAD_PARALLEL_1="1",
        ADDITIONAL_CORES="core1,core2", API_URL_2="https://three.example", TOKEN_2="k2",
    ).cores  # fmt: skip
    assert [(c.upload_rate, c.upload_parallel) for c in found.values()] == [
        (5, 6),
        (0.5, 1),
        (5, 6),
    ]


@pytest.mark.parametrize(
    ("given", "slots"),
    [
        # one core alone takes what there is
        ({"ADDITIONAL_CORES": ""}, [0]),
        # all others together leave one slot of WORKER_CONCURRENCY
        ({}, [3, 3]),
        ({"WORKER_CONCURRENCY": "1"}, [1, 1]),
        ({"ADDITIONAL_CORES": "core1,core2", "API_URL_2": "http://x", "TOKEN_2": "k"}, [1, 1, 1]),
        ({"CORE_CONCURRENCY": "8", "CORE_CONCURRENCY_1": "2"}, [8, 2]),
        ({"CORE_CONCURRENCY": "0"}, [0, 0]),
    ],
)
def test_with_several_cores_each_has_a_share_of_the_slots(given: dict[str, str], slots: list[int]):
    assert [core.concurrency for core in settings(**given).cores.values()] == slots


@pytest.mark.parametrize(
    ("name", "value"),
    [("UPLOAD_RATE_1", "-1"), ("UPLOAD_PARALLEL_1", "0"), ("CORE_CONCURRENCY_1", "many")],
)
def test_a_wrong_limit_of_one_core_is_named(name: str, value: str):
    with pytest.raises(ConfigError, match=name):
        settings(**{name: value})


def test_the_wiring_gives_each_core_its_own_limit(tmp_path: Path):
    found = wiring.build(
        settings(DATA_DIR=str(tmp_path), BROKER_URL="redis://127.0.0.1:9", UPLOAD_RATE_1="2")
    )
    limits = {name: core.upload_limit for name, core in found.cores.items()}
    assert isinstance(limits["core"], SharedPause)
    assert isinstance(limits["core1"], SharedRate)
    assert [found.slots_of_core(name) for name in ("core", "core1", "never")] == [3, 3, 0]


# --- a core from a package


@pytest.fixture
def _packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from pacsor_tasks.errors import ConfigError\n"
        "class Core:\n"
        "    def upload(self, uid, items, on_uploaded, before_put): ...\n"
        "    def status(self, uid): ...\n"
        "    def results(self, uid, command, into, params): ...\n"
        "    def check(self): ...\n"
        "    def close(self): ...\n"
        "def make(config):\n"
        "    if 'refuse' in config.options: raise ConfigError(f'{config.name}: refused')\n"
        "    return Core()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    add_package(tmp_path / "site", "two-cores".replace("-", "_"), source)


PLUGGED = {"ADDITIONAL_CORES": "core1", "CORE_TYPE_1": "Two_Cores"}


@pytest.mark.usefixtures("_packages")
def test_a_package_s_core_inherits_filters_but_no_address_token_or_commands():
    found = load(
        MINIMAL | PLUGGED | {"INFERENCE_COMMANDS": "trauma", "NO_DUPLICATE_UPLOAD": "false"},
        dotenv=None,
    ).cores["core1"]
    assert (found.type, found.api_url, found.token.get_secret_value()) == ("two_cores", "", "")
    assert found.inference_commands == ("results",)
    assert not found.no_duplicate_upload
    assert found.type not in BUILT_IN


@pytest.mark.usefixtures("_packages")
def test_a_package_s_core_may_be_the_first_and_needs_no_api_url_and_token():
    pacs = {k: v for k, v in MINIMAL.items() if k.startswith("PACS")}
    given = {"CORE_TYPE": "two_cores", "CORE_TWO_CORES_API_KEY": "k3y", "CORE_TWO_CORES_PLACE": "x"}
    found = load(pacs | given, dotenv=None)
    core = found.cores["core"]
    assert (core.api_url, core.options["place"]) == ("", "x")
    assert "k3y" not in f"{core!r}{found!r}"


@pytest.mark.usefixtures("_packages")
def test_a_package_s_core_that_cannot_be_made_any_more_leaves_the_others_working(tmp_path: Path):
    given = {"CORE_TWO_CORES_REFUSE_1": "1", "BROKER_URL": "redis://127.0.0.1:9"}
    found = load(MINIMAL | PLUGGED | given | {"DATA_DIR": str(tmp_path)}, dotenv=None)
    cores = wiring.build(found).cores
    assert set(cores) == {"core", "core1"}
    with pytest.raises(Exception, match="core1: refused"):
        cores["core1"].client.check()
