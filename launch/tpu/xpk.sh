#!/usr/bin/env bash
# Runs a command on all hosts of a slice of a GKE cluster, through xpk.
#
#   CLUSTER=mine ZONE=us-central2-b TYPE=v5litepod-16 NAME=train IMAGE=REGISTRY/NAME:TAG \
#     launch/tpu/xpk.sh python launch/train_switcher.py … --distributed --platform=tpu
#
# IMAGE is built from launch/tpu/Dockerfile. A slice that is taken back is started
# RESTARTS times again.
set -euo pipefail
: "${CLUSTER:?is the cluster}" "${ZONE:?is its zone}" "${NAME:?is a name for the job}"
: "${TYPE:?is the accelerator type, as v5litepod-16}" "${IMAGE:?is the image to run}"
test $# -gt 0 || { echo "error: name a command, as python launch/…" >&2; exit 2; }

line=$(printf '%q ' "$@")
xpk workload create --cluster="$CLUSTER" --zone="$ZONE" --workload="$NAME" \
  --tpu-type="$TYPE" --num-slices=1 --docker-image="$IMAGE" \
  --max-restarts="${RESTARTS:-20}" --command="${line% }"
