#!/usr/bin/env bash
# Runs one command on all hosts of a slice at once, in the repository, and waits.
#
#   NAME=mine ZONE=us-central2-b launch/tpu/on_all_workers.sh \
#     python launch/train_switcher.py --config=configs/tpu_v4.py:v4-32 \
#     --distributed --platform=tpu --config.training.output=/mnt/shared/training
#
# Every host runs the same line; --distributed lets them find each other. The output of
# all hosts comes here. Where the connection may break, run this in tmux on a machine
# that stays: a broken one ends the job, and the same line goes on with it.
set -euo pipefail
: "${NAME:?is the name of the slice}" "${ZONE:?is its zone}"
test $# -gt 0 || { echo "error: name a command, as python launch/…" >&2; exit 2; }

line=$(printf '%q ' "$@")
# Expanded on the hosts:
# shellcheck disable=SC2016
place='cd jax_switchgen && PATH="$PWD/.venv/bin:$PATH"'
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all \
  --command="$place ${line% }"
