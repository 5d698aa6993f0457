#!/bin/sh
# A job from a shell: submit it, follow it until it has ended, take its results.
# FLEET_API_URL=... FLEET_API_KEY=... sh curl.sh
set -eu

ask() {
  path=$1
  shift
  curl --silent --show-error --fail-with-body --header "Authorization: Bearer $FLEET_API_KEY" "$FLEET_API_URL$path" "$@"
}

# Sent twice under one key it is one job, so that this may be tried again after a lost answer.
job=$(ask /v1/jobs --header "Content-Type: application/json" --header "Idempotency-Key: topics-$(date +%s)-$$" --data '{
  "name": "topics",
  "items": [{"id": "T1", "text": "I was charged twice."}, {"id": "T2", "text": "The app crashes with an error."}],
  "steps": [{
    "id": "topic", "each": "items", "tier": "nano", "prompt": "Topic of this ticket? {{ item.text }}",
    "output": {"type": "object", "required": ["topic"],
               "properties": {"topic": {"enum": ["billing", "bug", "other"]}}}
  }]
}' | sed 's/.*"id":"\([^"]*\)".*/\1/')

ask "/v1/jobs/$job/events" --no-buffer
ask "/v1/jobs/$job/results"
