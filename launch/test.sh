#!/usr/bin/env bash
# Lints, checks types and runs all tests, in an environment that it makes itself.
#
#   bash launch/test.sh [pytest arguments]      e.g. -k parser, tests/agent, --run_slow
#
# 2 CPU cores, 15 minutes, and a few of installation the first time: three tests at a time
# (GRU_MEM_TEST_WORKERS), for some wait for processes. What the library does not need is
# installed in the exact versions below, if it can be had:
# - torch, the reference for parity with Hugging Face; without it, parity is tested against
#   golden files. In CI (CI=true) it must be there. GRU_MEM_TORCH=0 leaves it out.
# - libtpu, to compile for TPUs that nobody holds; without it, those tests are skipped.
#   GRU_MEM_LIBTPU=0 leaves it out.
# - chromium (Debian's package, where root runs this), to test the page of a report in a
#   browser; without it, those tests are skipped. GRU_MEM_CHROMIUM=0 leaves it out.
set -euo pipefail
TORCH=2.13.0
LIBTPU=0.0.42.1

. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env test

# want NAME VERSION: installs it if it is not there; status 1 if it cannot be had.
want() {
  if "$VENV/bin/python" -c "
from importlib.metadata import version
raise SystemExit(version('$1').split('+')[0] != '$2')" 2>/dev/null; then
    return 0
  fi
  say "installing $1 $2 for tests (GRU_MEM_${1^^}=0 to leave it out)"
  "$VENV/bin/python" -m pip install --quiet "$1==$2" >&2
}

if [ "${GRU_MEM_TORCH:-1}" != 0 ] && ! want torch "$TORCH"; then
  if [ -n "${CI:-}" ]; then
    say "torch $TORCH could not be installed, and CI needs it"
    exit 1
  fi
  say "torch $TORCH could not be installed: live parity tests will be skipped"
fi
if [ "${GRU_MEM_LIBTPU:-1}" != 0 ] && ! want libtpu "$LIBTPU"; then
  say "libtpu $LIBTPU could not be installed: nothing will be compiled for TPUs"
fi

# want_chromium: as want, of Debian's browser.
want_chromium() {
  command -v chromium >/dev/null && return 0
  [ "$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release || return 1
  say "installing chromium for tests (GRU_MEM_CHROMIUM=0 to leave it out)"
  apt-get update -qq >&2 &&
    apt-get install -qq -y --no-install-recommends chromium >&2
}

if [ "${GRU_MEM_CHROMIUM:-1}" != 0 ] && ! want_chromium; then
  say "chromium could not be installed: the page of a report will not be tested"
fi

cd "$ROOT"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
exec "$VENV/bin/python" -m pytest -n "${GRU_MEM_TEST_WORKERS:-3}" \
  --dist worksteal --durations=25 "$@"
