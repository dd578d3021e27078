#!/usr/bin/env bash
# Are the compose files right? By their schema, and by Compose itself where the plugin is there; no
# engine is needed.
set -euo pipefail
cd "$(dirname "$0")/.."

schema() { .venv/bin/check-jsonschema --quiet --default-filetype yaml --builtin-schema vendor.compose-spec "$@"; }
# Compose's own tags are none of the schema's.
for file in docker-compose.yml docker-compose.*.yml; do
  case $file in docker-compose.override.yml) continue ;; esac
  sed 's/!reset //' "$file" | schema - || { echo "$file: not a compose file" >&2; exit 1; }
done
if ! docker compose version >/dev/null 2>&1; then
  echo "compose files: match the schema; no Compose plugin here to read them with"
  exit 0
fi
# Nothing of the caller's: a variable of the shell wins over a file's.
unset COMPOSE_FILE COMPOSE_PROFILES COMPOSE_PROJECT_NAME ENV_FILE
docker compose --env-file .env.demo --profile '*' config --quiet
site=$(mktemp)
trap 'rm -f "$site"' EXIT
sed -E 's/^(API_URL|TOKEN|PACS_[A-Z]+)=$/\1=1/' .env.example > "$site"
ENV_FILE=$site docker compose --env-file "$site" --profile '*' config --quiet
# What the overrides ask for besides.
for name in RIS_HOST_IP RIS_HOST_PORT RECEIVING_APPLICATION RECEIVING_FACILITY PACS_IP_2 PACS_PORT_2 \
  PACS_AET_2 API_URL_1 TOKEN_1 WEBPS_PROVIDERS TCR_API_URL PROVIDER_TOKEN ORGANIZATION_ID; do
  echo "$name=1" >> "$site"
done
overrides=()
for file in docker-compose.*.yml; do
  case $file in docker-compose.override.yml) continue ;; esac
  ENV_FILE=$site docker compose --env-file "$site" -f docker-compose.yml -f "$file" --profile '*' \
    config --quiet || { echo "$file: wrong" >&2; exit 1; }
  overrides+=(-f "$file")
done
ENV_FILE=$site docker compose --env-file "$site" -f docker-compose.yml "${overrides[@]}" \
  --profile '*' config --quiet
echo "compose files: right with .env.demo, with .env.example filled in, and with each override"
