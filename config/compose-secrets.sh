#!/bin/sh
# Puts into .env, for docker-compose.yml, what nobody but this machine should know: a random word for each name that is not
# there yet. Safe to repeat; what stands there stays. To change one, delete its line, repeat, and `docker compose up -d`.
set -eu
umask 077
cd "$(dirname "$0")/.."
touch .env
chmod 600 .env

word() { od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n'; }
missing() { grep -q "^$1=" .env || echo "$1=$2$(word)" >> .env; }

for role in ADMIN API COORDINATOR FLOWER HEALTH OPERATOR SCALER WORKER; do missing "FLEET_STORE_PASSWORD_$role" ""; done
missing FLEET_FLOWER_BASIC_AUTH fleet:
missing FLEET_GRAFANA_PASSWORD ""
missing FLEET_RABBITMQ_PASSWORD ""
echo "The passwords are in $(pwd)/.env, for its owner alone to read."
