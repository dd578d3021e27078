"""The two ways of uploading.

Direct: one STOW-RS request with every instance. Signed: a request with pruned copies, answered by a
URL per instance, each then PUT whole to the storage. The prediction starts by itself afterwards.

Source: contract §1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from pacsor_tasks.errors import BadResponse, Rejected
from pacsor_tasks.milvue.bodies import FileBody, RelatedBody, batches
from pacsor_tasks.milvue.outcomes import UnknownStudy, UploadItem
from pacsor_tasks.milvue.pool import BoundedPool
from pacsor_tasks.milvue.pruning import pruned
from pacsor_tasks.milvue.refusals import clean
from pacsor_tasks.milvue.schemas import PostedStudy, validated
from pacsor_tasks.milvue.transport import Answer, Transport, parse_object

log = structlog.get_logger(__name__)

BATCH_BYTES = 8 * 1024 * 1024
_DICOM = "application/dicom"
_DICOM_REPLIES = frozenset({"application/dicom+xml", "application/dicom+json"})


def upload_directly(
    transport: Transport,
    study_uid: str,
    items: Sequence[UploadItem],
    on_uploaded: Callable[[UploadItem], None],
    before_put: Callable[[], None] | None,
) -> None:
    """Send all instances in one request; they count as uploaded when it is answered."""
    body = RelatedBody([FileBody.whole(item) for item in items], before_put)
    _post(transport, study_uid, body, is_signed=False)
    log.info("upload.posted", study_uid=study_uid, n_instances=len(items), n_bytes=len(body))
    for item in items:
        on_uploaded(item)


class SignedUpload:
    """Asks for URLs, then PUTs a few instances at a time.

    Args:
        transport: To the API and the storage.
        study_uid: The study of all items.
        parallel: PUTs at once.
    """

    def __init__(self, transport: Transport, study_uid: str, parallel: int) -> None:
        self._transport = transport
        self._study_uid = study_uid
        self._parallel = parallel
        self._urls: dict[str, str] = {}

    def run(
        self,
        items: Sequence[UploadItem],
        on_uploaded: Callable[[UploadItem], None],
        before_put: Callable[[], None] | None,
    ) -> None:
        """Upload the instances; `on_uploaded` runs after each, in this thread."""
        self._urls = self._ask(items)
        pool = BoundedPool[UploadItem, None](
            self._put,
            parallel=self._parallel,
            before_each=before_put,
            on_done=lambda item, _: on_uploaded(item),
        )
        pool.run(items)
        log.info("upload.put", study_uid=self._study_uid, n_instances=len(items))

    def _ask(self, items: Sequence[UploadItem]) -> dict[str, str]:
        """The URL of each instance.

        Raises:
            BadResponse: The API left some out.
        """
        urls: dict[str, str] = {}
        for batch in batches((pruned(item) for item in items), BATCH_BYTES):
            posted = _post(self._transport, self._study_uid, RelatedBody(batch), is_signed=True)
            if posted.signed_urls is None:
                raise BadResponse(
                    f"upload of {self._study_uid}: the answer has no signed URLs; "
                    "SIGNED_URL=false is for an API without them"
                )
            urls |= {uid: url for uid, url in posted.signed_urls.items() if url}
        missing = [i.sop_instance_uid for i in items if i.sop_instance_uid not in urls]
        if missing:
            more = ", …" if len(missing) > 3 else ""
            raise BadResponse(
                f"upload of {self._study_uid}: no signed URL for {len(missing)} of {len(items)} "
                f"instances: {', '.join(missing[:3])}{more}"
            )
        return urls

    def _put(self, item: UploadItem) -> None:
        body = FileBody.whole(item)
        headers = {"Content-Type": _DICOM, "Accept": "*/*", "x-ms-blob-type": "BlockBlob"}
        what = f"upload of instance {item.sop_instance_uid}"
        url = self._urls[item.sop_instance_uid]
        with self._transport.signed("PUT", url, what, headers=headers, data=body) as answer:
            answer.drain()


def _post(
    transport: Transport, study_uid: str, body: RelatedBody, *, is_signed: bool
) -> PostedStudy:
    what = f"upload of {study_uid}"
    try:
        with transport.api(
            "POST",
            ("studies",),
            what,
            params={"signed_url": "true" if is_signed else "false"},
            headers={"Content-Type": body.content_type},
            data=body,
        ) as answer:
            posted = _posted(answer)
    except UnknownStudy as exc:
        raise Rejected(f"{exc}: there is no upload at this address; check API_URL") from exc
    if posted.StudyInstanceUID not in {"", study_uid}:
        raise BadResponse(f"{what}: the answer is about study {posted.StudyInstanceUID[:64]!r}")
    return posted


def _posted(answer: Answer) -> PostedStudy:
    """The body of a success; the XML and JSON forms of STOW-RS are taken as a bare yes.

    Anything else, such as a proxy's page, is no proof that the study arrived.
    """
    body = answer.body()
    if answer.media.name in _DICOM_REPLIES or not body:
        return PostedStudy()
    if not answer.media.is_json:
        named = clean(answer.media.name) or "no media type"
        raise BadResponse(f"{answer.what}: answered with {named}")
    return validated(PostedStudy, parse_object(body, answer.what), answer.what)
