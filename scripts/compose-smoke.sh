#!/usr/bin/env bash
# The Compose deployment for real: build, up, all healthy, a study through, both workers killed at
# work and restarted, a relaunch, down. Needs an engine with Compose v2, dcmtk's storescu, curl and
# the project's .venv (`make install`); the kill needs root on the engine's host. About two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
UP_TIMEOUT_S=150 STUDY_TIMEOUT_S=90
work=$(mktemp -d)
started=$SECONDS
summary=()

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

build_and_start() {
  local at=$SECONDS
  compose build --quiet
  measured "image built in" "$((SECONDS - at)) s"
  measured "image size" "$(docker image inspect -f '{{.Size}}' "pacsor-tasks:$TAG" | awk '{printf "%d MB", $1 / 1e6}')"
  at=$SECONDS
  compose up -d --wait --wait-timeout $UP_TIMEOUT_S --scale worker=2 > "$work/up" 2>&1 \
    || { tail -n 3 "$work/up"; fail "not everything became healthy"; }
  measured "all healthy after" "$((SECONDS - at)) s"
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

ended() { # study_uid number-of-runs: whether so many runs are done and delivered everywhere
  api "/api/studies/$1" > "$work/study.json" || return 1
  "$PYTHON" - "$work/study.json" "$2" <<'EOF'
import json, sys
from pathlib import Path
study = json.loads(Path(sys.argv[1]).read_text())
runs = study.get("runs", [])
if bad := [run for run in runs if run["state"] in ("failed", "cancelled", "filtered")]:
    print(json.dumps(bad, indent=1))
sys.exit(not (len(runs) == int(sys.argv[2]) and all(
    run["state"] == "done"
    and [d["state"] for d in run["deliveries"]] == ["delivered"] * 3
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
build_and_start
doors
a_study_through
killed_workers
a_relaunch
down
printf '\ncompose smoke passed in %d s\n' $((SECONDS - started))
printf '  %s\n' "${summary[@]}"
