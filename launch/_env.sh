#!/usr/bin/env bash
# Sourced by the other launch scripts: makes a virtual environment in .venv if it is
# missing, and installs the package into it if its recipe has changed.
#
#   use_env EXTRAS    e.g. use_env "" or use_env test
#
# Needs Python >= 3.11 with venv, and nothing else. PYTHON=/path/to/python chooses one.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

say() { printf '%s\n' "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  say "no Python >= 3.11 with the venv module was found; set PYTHON=/path/to/python"
  return 1
}

# Identifies an installation: the recipe files, the interpreter, and the extras.
recipe_hash() {
  "$VENV/bin/python" - "$ROOT" "$1" <<'PY'
import hashlib, pathlib, sys
root, extras = pathlib.Path(sys.argv[1]), sys.argv[2]
digest = hashlib.sha256(f"{sys.version} {sys.prefix} {root} {extras}".encode())
for name in ("setup.cfg", "pyproject.toml"):
    digest.update((root / name).read_bytes())
print(digest.hexdigest())
PY
}

use_env() {
  local extras="$1" python hash stamp target
  if [ ! -e "$VENV" ]; then
    python="$(find_python)" || return 1
    say "making .venv with $("$python" --version 2>&1)"
    "$python" -m venv "$VENV" || {
      say "could not make $VENV (on Debian: apt-get install python3-venv)"
      rm -rf "$VENV"
      return 1
    }
  fi
  if ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "$VENV is not a working Python >= 3.11 environment; remove it and try again"
    return 1
  fi
  hash="$(recipe_hash "$extras")" || return 1
  stamp="$VENV/.gru_mem_installed_${extras:-base}"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$hash" ]; then
    target="."
    [ -n "$extras" ] && target=".[$extras]"
    say "installing gru_mem_jax $target into .venv (once; minutes)"
    (cd "$ROOT" && "$VENV/bin/python" -m pip install --quiet --editable "$target") >&2 \
      || return 1
    printf '%s\n' "$hash" >"$stamp"
    # Every set of extras includes the base.
    [ -z "$extras" ] || recipe_hash "" >"$VENV/.gru_mem_installed_base"
  fi
}
