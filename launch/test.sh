#!/usr/bin/env bash
# Lints, checks types and runs all tests, in an environment that it makes itself.
#
#   bash launch/test.sh [pytest arguments]      e.g. -k parser, tests/agent, --run_slow
#
# 2 CPU cores, a few minutes of installation the first time. Torch is the reference
# for parity with Hugging Face: the exact version below is installed if it can be had;
# GRU_MEM_TORCH=0 leaves it out. Without it, parity is tested against golden files.
# In CI (CI=true) torch must be there.
set -euo pipefail
TORCH=2.13.0

. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env test

if [ "${GRU_MEM_TORCH:-1}" != 0 ] \
  && ! "$VENV/bin/python" -c "
from importlib.metadata import version
raise SystemExit(version('torch').split('+')[0] != '$TORCH')" 2>/dev/null; then
  say "installing torch $TORCH, the reference for parity (GRU_MEM_TORCH=0 to leave it out)"
  if ! "$VENV/bin/python" -m pip install --quiet "torch==$TORCH" >&2; then
    if [ -n "${CI:-}" ]; then
      say "torch $TORCH could not be installed, and CI needs it"
      exit 1
    fi
    say "torch $TORCH could not be installed: live parity tests will be skipped"
  fi
fi

cd "$ROOT"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
exec "$VENV/bin/python" -m pytest -n "${GRU_MEM_TEST_WORKERS:-2}" --durations=25 "$@"
