#!/usr/bin/env bash
# The Compose deployment for real: build, up over the volumes of an older version, all healthy, what
# that one left goes on, a study through, both workers killed at work and restarted, a relaunch, then
# the same containers with PACSOR's overrides, down. Needs an engine with Compose v2, dcmtk's
# storescu, curl and the project's .venv (`make install`); the kill needs root on the engine's host.
# About four minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
UP_TIMEOUT_S=150 STUDY_TIMEOUT_S=90
work=$(mktemp -d)
started=$SECONDS
summary=() made_network=''

say() { printf '[%4ds] %s\n' $((SECONDS - started)) "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }
measured() { summary+=("$(printf '%-34s %s' "$1" "$2")"); say "$1: $2"; }
compose() { docker compose --env-file "$work/.env" "$@"; }
# Standard output of `compose` without the progress of containers it had to look for.
ask() { compose "$@" 2>>"$work/errors"; }
secret() { "$PYTHON" -c 'import secrets; print(secrets.token_urlsafe(24))'; }
free_port() {
  "$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
api() { curl -sS --max-time 10 -H "Authorization: Bearer $ADMIN_TOKEN" "http://127.0.0.1:$ADMIN_PORT$1"; }
http_status() { curl -sS --max-time 10 -o "$work/body" -w '%{http_code}' "$@"; }
containers() { ask ps -q "$@"; }

wait_for() { # what seconds command…: until the command succeeds
  local what=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@"; do
    [ $SECONDS -lt $deadline ] || fail "$what: not within the time"
    sleep 0.5
  done
}

finish() {
  local status=$?
  trap - EXIT INT TERM
  if [ $status -ne 0 ]; then
    mkdir -p "${SMOKE_LOGS:=$(mktemp -d)}"
    compose ps -a > "$SMOKE_LOGS/ps" 2>&1 || true
    compose logs --no-color --timestamps > "$SMOKE_LOGS/logs" 2>&1 || true
    cp "$work/errors" "$SMOKE_LOGS/" 2>/dev/null || true
    cat "$SMOKE_LOGS/ps"
    tail -n 60 "$SMOKE_LOGS/logs"
    echo "the containers' logs are in $SMOKE_LOGS"
  fi
  compose --profile '*' down -v --remove-orphans --timeout 20 > "$work/down" 2>&1 || cat "$work/down"
  [ -z "$made_network" ] || docker network rm "$made_network" > /dev/null
  docker image rm "pacsor-tasks:$TAG" >/dev/null 2>&1 || true
  rm -rf "$work"
  exit $status
}

settings() {
  ADMIN_TOKEN=$(secret) FLOWER_PASSWORD=$(secret) TAG=smoke-$$
  PORT=$(free_port) ADMIN_PORT=$(free_port) FLOWER_PORT=$(free_port)
  grep -v -E '^(ENV_FILE|COMPOSE_PROJECT_NAME|ADMIN_TOKEN|FLOWER_BASIC_AUTH|STUDY_QUIET)' .env.demo \
    > "$work/.env"
  # A filter that keeps what is sent, written as PACSOR's documentation writes it for Compose.
  cat >> "$work/.env" <<EOF
ENV_FILE=$work/.env
COMPOSE_PROJECT_NAME=pacsor-smoke-$$
DOCKER_IMAGE_TAG=$TAG
LOG_LEVEL=info
STUDY_QUIET_SECONDS=1
DICOM_FILTERS=[{"tag":{"group":"0008","element":"0060"},"pattern":"^DX\$\$","should_match":true}]
PORT=$PORT
ADMIN_PORT=$ADMIN_PORT
FLOWER_PORT=$FLOWER_PORT
ADMIN_TOKEN=$ADMIN_TOKEN
FLOWER_BASIC_AUTH=smoke:$FLOWER_PASSWORD
EOF
}

build() {
  local at=$SECONDS
  compose build --quiet
  measured "image built in" "$((SECONDS - at)) s"
  measured "image size" "$(docker image inspect -f '{{.Size}}' "pacsor-tasks:$TAG" | awk '{printf "%d MB", $1 / 1e6}')"
}

# The volumes as an older version left them: its ledger, held studies, a message of its in Redis,
# PACSOR's directories beside. It is stopped as one stops it: down, without -v.
older_volumes() {
  local at=$SECONDS
  # shellcheck disable=SC2016
  tar c tests/__init__.py tests/support/*.py \
    | ask run --rm -T worker sh -c 'tar x -C /tmp && cd /tmp && python -m tests.support.old_release' \
    > "$work/left.json"
  compose down --timeout 10 > "$work/down" 2>&1 || { cat "$work/down"; fail "down"; }
  measured "an older version's volumes made in" "$((SECONDS - at)) s"
}

up() { # option…
  local at=$SECONDS
  compose up -d --wait --wait-timeout $UP_TIMEOUT_S "$@" > "$work/up" 2>&1 \
    || { tail -n 3 "$work/up"; fail "not everything became healthy"; }
  took=$((SECONDS - at))
}

start() {
  up --scale worker=2
  measured "all healthy after" "$took s"
  [ "$(containers worker | wc -l)" -eq 2 ] || fail "no two workers"
  wait_for "/healthz" 30 is_well
}

is_well() { [ "$(http_status "http://127.0.0.1:$ADMIN_PORT/healthz")" = 200 ]; }

doors() {
  local url=http://127.0.0.1
  [ "$(http_status "$url:$ADMIN_PORT/api/studies")" = 401 ] || fail "the API answers without a token"
  [ "$(http_status "$url:$FLOWER_PORT/workers")" = 401 ] || fail "Flower answers without a password"
  [ "$(http_status -u "smoke:$FLOWER_PASSWORD" "$url:$FLOWER_PORT/workers")" = 200 ] \
    || fail "Flower refuses its password"
  [ -z "$(docker port "$(containers redis)")" ] || fail "Redis is published"
  [ "$(ask exec -T worker id -u)" = 10001 ] || fail "the worker is not uid 10001"
  if ask exec -T worker touch /app/written; then fail "the root file system can be written"; fi
  say "doors: token, password, no Redis outside, uid 10001, read-only root"
}

send() { # directory: makes a study there and sends it; its UID
  "$PYTHON" - "$1" <<'EOF'
import sys
from pathlib import Path
from tests.support.studies import make_study, study_uid_of
print(study_uid_of(make_study(Path(sys.argv[1]), 4, side=512)))
EOF
  storescu -aec MILVUE --scan-directories 127.0.0.1 "$PORT" "$1" >&2
}

# study_uid number-of-runs number-of-deliveries-of-each: whether so many runs are done and delivered
ended() {
  api "/api/studies/$1" > "$work/study.json" || return 1
  "$PYTHON" - "$work/study.json" "$2" "${3:-3}" <<'EOF'
import json, sys
from pathlib import Path
study = json.loads(Path(sys.argv[1]).read_text())
runs = study.get("runs", [])
if bad := [run for run in runs if run["state"] in ("failed", "cancelled", "filtered")]:
    print(json.dumps(bad, indent=1))
sys.exit(not (len(runs) == int(sys.argv[2]) and all(
    run["state"] == "done"
    and [d["state"] for d in run["deliveries"]] == ["delivered"] * int(sys.argv[3])
    for run in runs
)))
EOF
}

journal() { ask exec -T "$1" cat /tmp/journal.jsonl; }

count() { # service pattern: how many of its events match
  journal "$1" | grep -c -E "$2" || true
}

arrived() { # study_uid: what the simulated peers themselves saw
  local service n
  for service in pacs pacs-2; do
    n=$(journal "$service" | grep '"kind": "store"' | grep -c -F "$1" || true)
    [ "$n" -gt 0 ] || fail "$service has no instance of $1"
    say "$service received $n instances"
  done
  [ "$(count ris '"kind": "message"')" -gt 0 ] || fail "the RIS has no message"
}

left() { # name: a study of the older version
  "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/left.json" "$1"
}

what_was_left() {
  local name
  # At its upload then, for two destinations; the others are new to the ledger.
  wait_for "the older version's upload" $STUDY_TIMEOUT_S ended "$(left uploading)" 1 2
  wait_for "the older version's outbox" $STUDY_TIMEOUT_S ended "$(left unrecorded)" 1
  wait_for "the study it was receiving" $STUDY_TIMEOUT_S ended "$(left incoming)" 1
  for name in 'done' quarantined filtered failed; do
    [ "$(http_status -H "Authorization: Bearer $ADMIN_TOKEN" \
      "http://127.0.0.1:$ADMIN_PORT/api/studies/$(left $name)")" = 200 ] || fail "$name: not found"
  done
  ask exec -T worker test -e /data/inputs/1.2.3/0001.dcm || fail "PACSOR's files were touched"
  say "an older version's volumes: migrated, and its work done"
}

a_study_through() {
  local at=$SECONDS
  study=$(send "$work/first")
  wait_for "the first study" $STUDY_TIMEOUT_S ended "$study" 1
  measured "study through (quiet 1 s) in" "$((SECONDS - at)) s"
  arrived "$study"
}

pid_of() { docker inspect -f '{{.State.Pid}}' "$1"; }
restarts_of() { docker inspect -f '{{.RestartCount}}' "$1"; }
is_storing() { [ "$(count pacs '"kind": "association')" -gt "$1" ]; }
is_healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = healthy ]; }

killed_workers() {
  local at before worker pid
  # Each C-STORE takes 2 s now, so that the kill comes in the middle of a delivery.
  ask exec -T pacs sh -c 'echo "{\"delay_s\": 2}" > /tmp/switches.json'
  before=$(count pacs '"kind": "association')
  second=$(send "$work/second")
  wait_for "a delivery under way" 60 is_storing "$before"
  for worker in $(containers worker); do
    pid=$(pid_of "$worker")
    kill -9 "$pid" 2>/dev/null || sudo -n kill -9 "$pid" || fail "cannot kill process $pid"
  done
  at=$SECONDS
  say "both workers killed (SIGKILL) during a delivery"
  ask exec -T pacs sh -c 'echo "{}" > /tmp/switches.json'
  third=$(send "$work/third")
  for worker in $(containers worker); do
    wait_for "the restart of a worker" 60 is_healthy "$worker"
    [ "$(restarts_of "$worker")" -ge 1 ] || fail "a worker was not restarted"
  done
  measured "both workers healthy again after" "$((SECONDS - at)) s"
  wait_for "the study under way at the kill" $STUDY_TIMEOUT_S ended "$second" 1
  measured "its study delivered after" "$((SECONDS - at)) s"
  wait_for "the study sent after the kill" $STUDY_TIMEOUT_S ended "$third" 1
  arrived "$second"
  arrived "$third"
}

a_relaunch() {
  ask exec -T worker celery -A pacsor_tasks call pacsor.relaunch --args="[\"$study\"]" > /dev/null
  wait_for "the relaunch" $STUDY_TIMEOUT_S ended "$study" 2
  say "relaunched by celery call: a second run, delivered"
}

# --- the overrides, as a site chooses them: by COMPOSE_FILE

# The image has no websockets, which the simulated Web PubSub needs: this machine's.
simulated_tcr() {
  local websockets
  websockets=$("$PYTHON" -c 'import pathlib, websockets; print(pathlib.Path(websockets.__file__).parent)')
  cat > "$work/tcr.yml" <<EOF
services:
  tcr:
    extends: {file: $PWD/docker-compose.yml, service: ris}
    command:
      [python, -m, simulators, tcr, --host, 0.0.0.0, --port, "8000", --pubsub-port, "8001",
       --journal, /tmp/journal.jsonl]
    environment: {PYTHONPATH: /opt/more}
    volumes: ["$websockets:/opt/more/websockets:ro"]
    healthcheck: {test: [CMD, python, -m, pacsor_tasks.healthcheck, tcp, "127.0.0.1:8000"]}
EOF
}

with_overrides() { # name…
  local name files=docker-compose.yml
  for name in "$@"; do files+=:docker-compose.$name.yml; done
  sed -i '/^COMPOSE_FILE=/d' "$work/.env"
  echo "COMPOSE_FILE=$files:$work/tcr.yml" >> "$work/.env"
  up --scale worker=1 --remove-orphans
  measured "healthy with $* after" "$took s"
}

overrides_together() {
  local at study before
  sed -i '/^DESTINATIONS=/d' "$work/.env"
  cat >> "$work/.env" <<EOF
CALLBACK_URLS=http://storescu:8000
API_URL_1=http://milvue:8000
TOKEN_1=demo-token
PACS_IP_3=pacs
PACS_PORT_3=11112
PACS_AET_3=PACS
WEBPS_PROVIDERS=radio-a
TCR_API_URL=http://tcr:8000
EOF
  simulated_tcr
  with_overrides hl7 multicore multi-scu webps debug
  at=$SECONDS
  study=$(send "$work/fourth")
  wait_for "a study on two cores" $STUDY_TIMEOUT_S ended "$study" 2 4
  arrived "$study"
  measured "two cores, three PACS and a RIS in" "$((SECONDS - at)) s"
  before=$(count ris '"kind": "message"')
  wait_for "a report published" 60 is_published
  wait_for "another provider's report" 60 has_messages "$((before + 1))"
  ask logs --no-log-prefix worker > "$work/worker.log"
  grep -q '"level": "debug"' "$work/worker.log" || fail "nothing of debug's"
  ask rm -sf webps > /dev/null
}

is_published() { # to somebody who listens
  ask exec -T tcr python - <<'EOF' | grep -q '"listeners": *1'
import json, urllib.request
report = {"id": "r-1", "study": {"StudyInstanceUID": "1.2.840.99.8", "PatientID": "P", "AccessionNumber": "A"},
          "report": {"title": "Hand", "conclusion": "No fracture."}}
request = urllib.request.Request("http://127.0.0.1:8000/_simulator/publish/radio-a", method="POST",
    data=json.dumps(report).encode(), headers={"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=5).read().decode())
EOF
}

has_messages() { [ "$(count ris '"kind": "message"')" -ge "$1" ]; }

a_provider_s_core() {
  local study network=milvue-net
  if ! docker network inspect $network > /dev/null 2>&1; then
    docker network create $network > /dev/null
    made_network=$network
  fi
  printf '%s\n' PROVIDER_TOKEN=demo-provider ORGANIZATION_ID=7 >> "$work/.env"
  with_overrides tcr-core localor
  study=$(send "$work/fifth")
  wait_for "a provider's study" $STUDY_TIMEOUT_S ended "$study" 1 1
  journal tcr | grep '"kind": "received"' | grep -q -F "$study" || fail "TechCare Report has no $study"
  docker inspect -f '{{json .NetworkSettings.Networks}}' "$(containers worker)" | grep -q "\"$network\"" \
    || fail "the worker is not in $network"
  say "a provider's core: TechCare Report has the study, the RIS its report"
}

down() {
  local at=$SECONDS
  compose --profile '*' down -v --timeout 20 > "$work/down" 2>&1 || { cat "$work/down"; fail "down"; }
  [ -z "$(docker ps -aq --filter "label=com.docker.compose.project=pacsor-smoke-$$")" ] \
    || fail "containers are left"
  [ -z "$(docker volume ls -q --filter "label=com.docker.compose.project=pacsor-smoke-$$")" ] \
    || fail "volumes are left"
  measured "down in" "$((SECONDS - at)) s"
}

for program in docker curl storescu "$PYTHON"; do
  command -v "$program" >/dev/null || { echo "compose-smoke: $program is missing" >&2; exit 1; }
done
settings
trap finish EXIT
trap 'exit 130' INT TERM
build
older_volumes
start
doors
what_was_left
a_study_through
killed_workers
a_relaunch
overrides_together
a_provider_s_core
down
printf '\ncompose smoke passed in %d s\n' $((SECONDS - started))
printf '  %s\n' "${summary[@]}"
