#!/usr/bin/env bash
# Gives a slice back, with its place in the queue.
#
#   NAME=mine ZONE=us-central2-b launch/tpu/delete.sh
set -euo pipefail
: "${NAME:?is the name of the slice}" "${ZONE:?is its zone}"
gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
