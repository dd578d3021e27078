"""Hand-made PACSOR installations, as its versions left them on a disk. Source: contract §2.

2.4: two cores by their old names, the filter.cfg of 1.0 with a number twice in it.
2.8: HL7 by old names, the callback added with each run of the wizard, a template and a
configuration of the site's own, reports of other providers that the wizard forgot in `.env`.
2.11: filters with `$$`, the wizard's `.config` damaged by a shell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECRET, SECOND_SECRET = "mlv_5f1c-very-secret", "mlv_77aa-also-secret"
PEERS = {"API_URL": "https://predict.milvue.com", "PACS_IP": "10.20.0.5", "PACS_PORT": "11112",
         "PACS_AET": "CHUPACS"}  # fmt: skip
FILTERS = json.dumps(
    [
        {"tag": {"group": "0008", "element": "0060"}, "pattern": "^(CR|DX)$", "should_match": True},
        {"tag": {"group": "0010", "element": "0010"}, "pattern": "^TEST", "should_match": False},
    ],
    separators=(",", ":"),
)
#: as a shell leaves it that runs it without quotes: no quotes, its number for `$$`
DAMAGED = FILTERS.replace('"', "").replace("$", "48213")
TEMPLATE = '''\
"""The site's own: the report's OBX is named after the site."""
SEG_OBX_B64 = "OBX||{obx_2}|{section}^CHU||Text^^Base64^{content}||||||F"
'''


def pacsor_2_4(root: Path, peers: Mapping[str, str] = PEERS) -> Path:
    """Two cores."""
    client = "fr.milvue.chu.north.1"
    env = f"""\
# PACSOR
DOCKER_IMAGE_TAG=v2.4.0
COMPOSE_PROJECT_NAME=pacsor-fr-milvue-chu-north-1

# core
API_URL={peers["API_URL"]}
TOKEN={SECRET}
SIGNED_URL=True
NO_DUPLICATE_UPLOAD=true
CALLBACK_URLS=http://storescu:8000
POSTGRES_HOST=core-db
POSTGRES_DB=gorm
POSTGRES_USER=postgres
POSTGRES_PASSWORD=postgres
GOMAXPROCS=0
PROFILER=true
# second core
INTEGRATOR_URL_2={peers.get("API_URL_1", "https://beta.predict.milvue.com")}
TOKEN_2={SECOND_SECRET}
INFERENCE_COMMANDS_1=
CALLBACK_URLS_1=

# storescp
PORT=1040
CONFIG_PROFILE=WithSCRF
PACSOR_LOG_LEVEL=warn

# storescu
PACS_IP={peers["PACS_IP"]}
PACS_PORT={peers["PACS_PORT"]}
PACS_AET="{peers["PACS_AET"]}"
MILVUE_AET=MILVUE
"""
    compose = """\
include:
  - compose/compose.pacsor.yaml
  - compose/compose.multicore.yaml
  # - compose/compose.localor.yaml
"""
    config = f"CLIENT={client}\nAPI_URL={peers['API_URL']}\nTOKEN={SECRET}\nSYMLINK=Yes\n"
    _write(root, client, env, config, compose)
    (root / "conf" / "filter.cfg").write_text(filter_cfg_of_1_0())
    return root


def pacsor_2_8(root: Path, peers: Mapping[str, str] = PEERS) -> Path:
    """HL7, and reports of other providers."""
    client = "fr.milvue.clinic.west.2"
    ris = {"RIS_HOST_IP": "10.20.0.6", "RIS_HOST_PORT": "2575", **peers}
    env = f"""\
DOCKER_IMAGE_TAG=v2.8.0
COMPOSE_PROJECT_NAME=pacsor-fr-milvue-clinic-west-2
API_URL={peers["API_URL"]}
TOKEN={SECRET}
TOKEN={SECRET}
SIGNED_URL=true
INFERENCE_COMMANDS=smarturgences, "smartxpert"
CALLBACK_URLS=http://storescu:8000,http://hl7:8000,http://hl7:8000
USE_PREDICTION_ID=false
PORT=1040
CONFIG_PROFILE=WithSC
PACS_IP={peers["PACS_IP"]}
PACS_PORT={peers["PACS_PORT"]}
PACS_AET={peers["PACS_AET"]}
MILVUE_AET=MILVUE

# hl7
SEN_APP=MILVUE_GATEWAY
SENDING_FACILITY=MILVUE
RECEIVING_APPLICATION=XPLORE
RECEIVING_FACILITY=CLINIC
RIS_HOST_IP={ris["RIS_HOST_IP"]}
RIS_HOST_PORT={ris["RIS_HOST_PORT"]}
HL7_LANGUAGE=FR
INCLUDEREPORT=false
REPORT_URL=https://app.report.milvue.com/report
OBXUPPERCASE=False
INCLUDE_SMARTU_FINDINGS=true
MEASURE_INFERENCE_COMMAND=measures
HL7_LOG_LEVEL=WARN
GCP_LOGS=true
WORKERS=5
LOAD_TEMPLATE_AT_INIT=template
LOAD_CONFIG_AT_INIT=config
PUBSUBOR_URL=https://pubsubor.milvue.com
SITE_NOTE=ask Ms Martin
"""
    config = f"""\
CLIENT={client}
API_URL={peers["API_URL"]}
TOKEN={SECRET}
HL7_ENABLE=true
HL7_RECEIVING_APPLICATION=XPLORE
WEBPS_ENABLE={peers.get("WEBPS_ENABLE", "true")}
WEBPS_PROVIDERS=radio-a,radio-b
"""
    compose = "include:\n  - compose/compose.pacsor.yaml\n  - compose/compose.hl7.yaml\n"
    _write(root, client, env, config, compose)
    (root / "conf" / "template.py").write_text(TEMPLATE)
    (root / "conf" / "config.json").write_text('{"REPORT_FORMAT": "HTML", "REC_FAC": "EDL"}\n')
    (root / "conf" / "README.txt").write_text("of the site\n")
    (root / "conf" / "old.py").write_text("import os\nSEG_PID = os.environ['X']\n")
    return root


def pacsor_2_11(root: Path, peers: Mapping[str, str] = PEERS) -> Path:
    """Filters."""
    client = "be.partner.imaging.south.3"
    env = f"""\
DOCKER_IMAGE_TAG=v2.11.0
COMPOSE_PROJECT_NAME=pacsor-be-partner-imaging-south-3
API_URL={peers["API_URL"]}
TOKEN={SECRET}
SIGNED_URL=true
INFERENCE_COMMANDS=smarturgences,smartxpert
DICOM_FILTERS={FILTERS.replace("$", "$$")}
NO_DUPLICATE_UPLOAD=true
CALLBACK_URLS=http://storescu:8000
API_URL_1=
TOKEN_1=
CALLBACK_URLS_1=
INFERENCE_COMMANDS_1=
PORT=1040
CONFIG_PROFILE=WithSC
PACSOR_LOG_LEVEL=warn
PACS_IP={peers["PACS_IP"]}
PACS_PORT={peers["PACS_PORT"]}
PACS_AET={peers["PACS_AET"]}
MILVUE_AET=MILVUE
TEMPLATES_ACCESS_TOKEN=
"""
    config = (
        f"CLIENT={client}\nAPI_URL={peers['API_URL']}\nTOKEN={SECRET}\nDICOM_FILTERS={DAMAGED}\n"
    )
    compose = "include:\n  - compose/compose.pacsor.yaml\n#  - compose/compose.hl7.yaml\n"
    _write(root, client, env, config, compose)
    return root


def filter_cfg_of_1_0() -> str:
    """As 1.0 had it: of two contexts with the number 5 DCMTK takes one."""
    text = (ROOT / "conf" / "filter.cfg").read_text()
    head, section, tail = text.partition("[CR_DX_SC_RF]")
    tail = tail.replace("PresentationContext6", "PresentationContext5", 1)
    return head + section + tail.replace("PresentationContext7", "PresentationContext6", 1)


def _write(root: Path, client: str, env: str, config: str, compose: str) -> None:
    for name in ("conf", "env-files", "scripts", "compose"):
        (root / name).mkdir(parents=True)
    (root / "env-files" / f".env.{client}").write_text(env)
    (root / ".env").symlink_to(Path("env-files") / f".env.{client}")
    (root / "scripts" / f"{client}.config").write_text(config)
    (root / "compose.yaml").write_text(compose)
    (root / "conf" / "filter.cfg").write_text((ROOT / "conf" / "filter.cfg").read_text())
