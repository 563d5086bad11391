#!/usr/bin/env bash
# From nothing to a table: installs, teaches a tiny policy to copy, has reinforcement
# learning mend its gates, and asks it held-out questions before and after: as MemAgent,
# without exit gate and with exit gate.
#
#   bash launch/quickstart.sh [--out DIR] [--gin.NAME=VALUE ...]
#
# 2 CPU cores, at most 20 minutes. Leaves in runs/quickstart: warm_start/ and policy/
# (Hugging Face directories), rl/ (a run folder), results.json, report.html and plots. A
# second run uses what is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env ""
cd "$ROOT"
exec "$VENV/bin/gru-mem" quickstart "$@"
