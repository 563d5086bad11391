#!/usr/bin/env bash
# Installs, trains a tiny policy to copy, corrects its gates by reinforcement learning, and
# evaluates it on held-out questions before and after: as MemAgent, without exit gate and
# with exit gate.
#
#   bash launch/quickstart.sh [--out DIR] [--gin.NAME=VALUE ...]
#
# 2 CPU cores, at most 12 minutes. Writes into runs/quickstart: warm_start/ and policy/
# (Hugging Face directories), rl/ (a run folder), results.json, report.html and plots. A
# second run does not repeat finished stages.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env ""
cd "$ROOT"
exec "$VENV/bin/gru-mem" quickstart "$@"
