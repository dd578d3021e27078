"""The products a gateway is set up for, and the environments each is offered.

Source: contract §2.6 (variants of PACSOR's wizard), §1 (base URLs).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Environment:
    """Where an AI service runs."""

    key: str
    title: str
    #: empty: it is asked for
    url: str
    #: on the machine itself: no signed URLs, and a Docker network shared with the service
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """What a site has bought: what is asked of the AI, where, and how."""

    key: str
    title: str
    #: the first is the one proposed
    environments: tuple[Environment, ...]
    is_signed: bool
    commands: tuple[str, ...]
    #: DETECTION_INFERENCE_COMMAND; empty: the default is right
    detection: str
    has_measures: bool


LOCALOR = Environment("localor", "localor, on this machine", "http://integrator:8080", True)
OTHER = Environment("other", "another address", "")

SUITE = Product(
    key="suite",
    title="Milvue Suite",
    environments=(
        Environment("prod", "Azure, production", "https://predict.milvue.com"),
        Environment("preprod", "Azure, pre-production", "https://preprod.predict.milvue.com"),
        Environment("beta", "Azure, beta", "https://beta.predict.milvue.com"),
        Environment("precert", "GCP, pre-certification", "https://precert.predict.milvue.com"),
        LOCALOR,
        OTHER,
    ),
    is_signed=True,
    commands=("smarturgences", "smartxpert"),
    detection="",
    has_measures=True,
)
SMARTTRAUMA = Product(
    key="smarttrauma",
    title="SmartTrauma",
    environments=(LOCALOR, OTHER),
    is_signed=False,
    commands=("detection",),
    detection="detection",
    has_measures=False,
)
TECHCARE_TRAUMA = Product(
    key="techcare-trauma",
    title="TechCare Trauma",
    environments=(
        Environment("vmazure-us", "Azure, United States", "https://tctus.predict.milvue.com"),
        OTHER,
    ),
    is_signed=False,
    commands=("trauma",),
    detection="trauma",
    has_measures=False,
)
PRODUCTS = {product.key: product for product in (SUITE, SMARTTRAUMA, TECHCARE_TRAUMA)}
#: What a new configuration begins with.
COMMON = {
    "DOCKER_IMAGE_TAG": "latest",
    "PORT": "1040",
    "CONFIG_PROFILE": "WithSC",
    "CALLBACK_URLS": "http://storescu:8000",
    "MILVUE_AET": "MILVUE",
}
