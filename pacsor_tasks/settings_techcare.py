"""The settings of TechCare Report: its API, a provider's core, reports from elsewhere.

Paths are settings because no public description of the API exists: docs/techcare-report.md has
the contract that the defaults mean.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from pacsor_tasks.routes import ORGANIZATION, PROVIDERS, STUDY, Route
from pacsor_tasks.settings_types import CommaList, CoreType, Seconds

OF_A_STUDY = frozenset({STUDY, ORGANIZATION})
OF_PUBSUB = frozenset({PROVIDERS, ORGANIZATION})


def _of_a_study(text: str) -> str:
    return Route.parse(text, OF_A_STUDY, frozenset({STUDY})).text


def _of_an_upload(text: str) -> str:
    return Route.parse(text, OF_A_STUDY).text


def _of_pubsub(text: str) -> str:
    return Route.parse(text, OF_PUBSUB).text


StudyPath = Annotated[str, AfterValidator(_of_a_study)]
UploadPath = Annotated[str, AfterValidator(_of_an_upload)]
PubSubPath = Annotated[str, AfterValidator(_of_pubsub)]
Group = Annotated[str, Field(pattern=r"^[^{}]*\{provider\}[^{}]*$")]
Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class TechCareSettings(BaseModel):
    """Everything of TechCare Report but INCLUDE_TECHCARE_REPORT and the form of its OBX."""

    CORE_TYPE: CoreType = Field(
        "milvue",
        description="What a core talks to: `milvue`; `tcr` for a provider of TechCare Report (its"
        " studies go to TCR_API_URL and only HL7 destinations get something); or the name that an"
        " installed package gives to its own (docs/cores.md)",
    )
    PROVIDER_TOKEN: SecretStr | None = Field(
        None, description="Token of a core of type `tcr`; its API_URL and TOKEN are not needed"
    )
    ORGANIZATION_ID: str = Field("", description="Organization of a core of type `tcr`")
    TCR_AUTH_HEADER: Header = Field(
        "x-goog-meta-owner",
        description="Header of the token; `Authorization` gets it as a bearer token",
    )
    TCR_REPORT_PATH: StudyPath = Field(
        "/report?study_instance_uid={study_instance_uid}", description="Where a report is"
    )
    TCR_UPLOAD_PATH: UploadPath = Field(
        "/studies?organizationId={organization_id}", description="Where a provider sends studies"
    )
    TCR_STATUS_PATH: StudyPath = Field(
        "/studies/{study_instance_uid}/status", description="How far a provider's study is"
    )
    TCR_REPORT_PATIENCE: Seconds = Field(
        60,
        description="Seconds that a message waits for a report that the API does not know yet;"
        " at most HTTP_TIMEOUT",
    )
    WEBPS_ENABLE: bool = Field(
        False, description="Take reports of other providers by Azure Web PubSub"
    )
    WEBPS_PROVIDERS: CommaList = Field((), description="Whose reports, comma-separated")
    WEBPS_ACCESS_PATH: PubSubPath = Field(
        "/webpubsub/access?providers={providers}",
        description="Where TCR_API_URL hands out the URL of Web PubSub",
    )
    WEBPS_GROUP: Group = Field(
        "{provider}", description="Group of Web PubSub that a provider's reports come by"
    )
    WEBPS_DESTINATIONS: CommaList = Field(
        (), description="HL7 destinations that get them; unset: every one in use, else `hl7`"
    )
