#!/usr/bin/env bash
# Runs a command on all hosts of a slice to its end, however often the slice is taken
# back: then another one is asked for, and the same line goes on where it stopped.
#
#   NAME=mine ZONE=us-central2-b TYPE=v4-32 SPOT=1 launch/tpu/until_done.sh \
#     python launch/train_switcher.py … --distributed --platform=tpu
#
# What the job has done must be where it survives the slice: gs:// or a mounted disk.
set -euo pipefail
: "${NAME:?is the name of the slice}" "${ZONE:?is its zone}"
here=$(dirname "${BASH_SOURCE[0]}")

while true; do
  "$here/create.sh"
  "$here/set_up.sh"
  code=0
  "$here/on_all_workers.sh" "$@" || code=$?
  state=$(gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
    --format="value(state.state)") || state=gone
  "$here/delete.sh"
  # A slice that is still there did not end the job: its own last lines say what did.
  if [ "$code" = 0 ] || [ "$state" = ACTIVE ]; then
    exit "$code"
  fi
  echo "$NAME was taken back ($state); asking for another" >&2
done
