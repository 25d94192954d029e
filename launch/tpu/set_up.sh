#!/usr/bin/env bash
# Brings the committed state of this repository to all hosts of a slice and installs it.
#
#   NAME=mine ZONE=us-central2-b launch/tpu/set_up.sh
#
# Again after a commit: what is installed already stays, and all hosts have one state.
# The images have Python 3.10, so uv fetches 3.12.
set -euo pipefail
: "${NAME:?is the name of the slice}" "${ZONE:?is its zone}"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

archive=$(mktemp -d)/jax_switchgen.tar.gz
trap 'rm -r "$(dirname "$archive")"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$NAME": --zone="$ZONE" --worker=all

# Expanded on the hosts:
# shellcheck disable=SC2016
steps='set -e
mkdir -p jax_switchgen
tar -xzf jax_switchgen.tar.gz -C jax_switchgen
cd jax_switchgen
python3 -m pip install --quiet --user uv
test -x .venv/bin/python || python3 -m uv venv --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv -r requirements.txt "jax[tpu]" gcsfs
python3 -m uv pip install --quiet --python .venv --no-deps -e .
echo "$(hostname) is set up"'
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$steps"
