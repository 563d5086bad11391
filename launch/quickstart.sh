#!/usr/bin/env bash
# From nothing to a table: installs, trains a tiny policy, and asks it held-out
# questions as MemAgent, without exit gate and with exit gate.
#
#   bash launch/quickstart.sh [--out DIR] [--gin.NAME=VALUE ...]
#
# 2 CPU cores, at most 15 minutes. Leaves in runs/quickstart: policy/ (a Hugging Face
# directory), results.json, and a plot of memory size over turns. A second run uses the
# policy that is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env ""
cd "$ROOT"
exec "$VENV/bin/gru-mem" quickstart "$@"
