#!/bin/sh
# Prints the Secrets that the manifests refer to, with passwords that are made here and shown to nobody:
#   kubectl apply -f k8s/base/namespace.yaml
#   OPENAI_API_KEY=... sh k8s/secrets.sh | kubectl create -f -
# `create` refuses what is there already: a new set would lock the fleet out of its store until everything has restarted.
set -eu

key=${OPENAI_API_KEY:-}
case $key in
  "") echo "OPENAI_API_KEY is not set: workers and coordinator need a key, or the component simulated." >&2 ;;
  *[!A-Za-z0-9_-]*) echo "OPENAI_API_KEY has characters other than letters, digits, - and _." >&2; exit 2 ;;
esac

word() { od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n'; }
secret() { printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: tierfleet}\nstringData:\n' "$1"; }
entry() { printf '  %s: "%s"\n' "$1" "$2"; }

api=$(word) coordinator=$(word) worker=$(word) flower=$(word) operator=$(word) scaler=$(word) broker=$(word)

# Of the store itself: what config/valkey.sh is told.
secret tierfleet-valkey
entry FLEET_STORE_PASSWORD_ADMIN "$(word)"
entry FLEET_STORE_PASSWORD_API "$api"
entry FLEET_STORE_PASSWORD_COORDINATOR "$coordinator"
entry FLEET_STORE_PASSWORD_FLOWER "$flower"
entry FLEET_STORE_PASSWORD_HEALTH "$(word)"
entry FLEET_STORE_PASSWORD_OPERATOR "$operator"
entry FLEET_STORE_PASSWORD_SCALER "$scaler"
entry FLEET_STORE_PASSWORD_WORKER "$worker"

# Of the fleet's processes. With a store or a broker of your own, put their addresses in.
store=valkey.tierfleet.svc:6379/0
secret tierfleet
entry store-url-api "redis://fleet-api:$api@$store"
entry store-url-coordinator "redis://fleet-coordinator:$coordinator@$store"
entry store-url-flower "redis://fleet-flower:$flower@$store"
entry store-url-operator "redis://fleet-operator:$operator@$store"
entry store-url-worker "redis://fleet-worker:$worker@$store"
entry scaler-username fleet-scaler
entry scaler-password "$scaler"
entry broker-url "amqp://fleet:$broker@rabbitmq.tierfleet.svc:5672/"
entry broker-username fleet
entry broker-password "$broker"
entry flower-basic-auth "fleet:$(word)"
if [ -n "$key" ]; then entry openai-api-key "$key"; fi
