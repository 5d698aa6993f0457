#!/bin/sh
# Starts Valkey as a fleet needs it, with the users of valkey.acl (beside this file); their passwords are in the environment:
#   FLEET_STORE_PASSWORD_ADMIN, _API, _COORDINATOR, _FLOWER, _HEALTH, _OPERATOR, _SCALER, _WORKER   letters, digits, - and _
#   VALKEY_RUN      a folder in memory that the server alone can read (default /run/valkey)
#   VALKEY_SERVER   the server (default valkey-server)
# Arguments go to the server behind our own. Its data is in the folder that this is started in.
set -eu
umask 077
run=${VALKEY_RUN:-/run/valkey}

passwords=$(
  for role in ADMIN API COORDINATOR FLOWER HEALTH OPERATOR SCALER WORKER; do
    eval "password=\${FLEET_STORE_PASSWORD_$role:-}"
    case $password in
      "") echo "FLEET_STORE_PASSWORD_$role is not set, so the store does not start; \`make compose-secrets\` makes one." >&2; exit 2 ;;
      *[!A-Za-z0-9_-]*) echo "FLEET_STORE_PASSWORD_$role has characters other than letters, digits, - and _." >&2; exit 2 ;;
    esac
    echo "s/@$role@/$password/"
  done
)
# The server wants a line for each user, without comments. Passwords go through a pipe: arguments are for everybody to see.
grep -v '^#' "$(dirname "$0")/valkey.acl" | awk '$1 == "user" && NR > 1 { print "" } { $1 = $1; printf "%s ", $0 } END { print "" }' \
  > "$run/users"
printf '%s\n' "$passwords" | sed -f /dev/stdin "$run/users" | sed 's/ *$//' > "$run/users.acl"
rm "$run/users"

# A job id that was given out, and what was paid for, must outlive the power: everysec forgets up to two seconds. A full
# store refuses, it does not forget.
exec "${VALKEY_SERVER:-valkey-server}" --aclfile "$run/users.acl" --appendonly yes --appendfsync always --save "" \
  --maxmemory-policy noeviction "$@"
