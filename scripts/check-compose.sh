#!/usr/bin/env bash
# Is the compose file right? By its schema, and by Compose itself where the plugin is there; no
# engine is needed.
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
if ! docker compose version >/dev/null 2>&1; then
  echo "compose file: matches the schema; no Compose plugin here to read it with"
  exit 0
fi
docker compose --env-file .env.demo --profile '*' config --quiet
site=$(mktemp)
trap 'rm -f "$site"' EXIT
sed -E 's/^(API_URL|TOKEN|PACS_[A-Z]+)=$/\1=1/' .env.example > "$site"
ENV_FILE=$site docker compose --env-file "$site" --profile '*' config --quiet
echo "compose file: right with .env.demo and with .env.example filled in"
