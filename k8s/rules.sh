#!/bin/sh
# The alert rules of config/alerts.yml as the Prometheus Operator wants them; kustomize cannot put one file into another:
#   sh k8s/rules.sh > k8s/components/monitoring/rules.yaml
set -eu
cat <<'HEAD'
# Made of config/alerts.yml by k8s/rules.sh.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tierfleet
  labels: {app.kubernetes.io/name: tierfleet}
spec:
HEAD
sed -e '/^#/d' -e 's/^./  &/' "$(dirname "$0")/../config/alerts.yml"
