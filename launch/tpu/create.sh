#!/usr/bin/env bash
# Asks for a TPU slice in the queue, and waits until it is there.
#
#   NAME=mine ZONE=us-central2-b TYPE=v4-32 launch/tpu/create.sh
#
# SPOT=1 takes a slice that may be taken back, at a lower price: see until_done.sh.
# RUNTIME is the system image; the one of the type is taken if it is not set.
set -euo pipefail
: "${NAME:?is the name of the slice}" "${ZONE:?is its zone}"
: "${TYPE:?is the accelerator type, as v4-32}"
SECONDS_BETWEEN_LOOKS=${SECONDS_BETWEEN_LOOKS:-30}

case "$TYPE" in
  v5litepod-*) image=v2-alpha-tpuv5-lite ;;
  v5p-*) image=v2-alpha-tpuv5 ;;
  v6e-*) image=v2-alpha-tpuv6e ;;
  *) image=tpu-ubuntu2204-base ;;
esac

gcloud compute tpus queued-resources create "$NAME" --zone="$ZONE" \
  --node-id="$NAME" --accelerator-type="$TYPE" \
  --runtime-version="${RUNTIME:-$image}" ${SPOT:+--spot}

while true; do
  state=$(gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
    --format="value(state.state)")
  case "$state" in
    ACTIVE) echo "$NAME is there" && exit 0 ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      echo "error: $NAME is $state; delete it with launch/tpu/delete.sh" >&2
      exit 1
      ;;
  esac
  echo "$NAME is $state"
  sleep "$SECONDS_BETWEEN_LOOKS"
done
