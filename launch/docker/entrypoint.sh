#!/usr/bin/env bash
# In the container: runs gru-mem, and says by its status whether the run is over.
#
# A run that SIGTERM stops saves and ends with status 0. What started the container would
# take that for the end of the run; so after SIGTERM the status is 143, and a JobSet or
# Docker starts it again.
set -uo pipefail
# Memory of the host that a TPU reads from is locked. Allowed to root only.
ulimit -l unlimited 2>/dev/null || true
asked=0
gru-mem "$@" &
pid=$!
trap 'asked=1; kill -TERM "$pid" 2>/dev/null' TERM
trap 'asked=1; kill -INT "$pid" 2>/dev/null' INT
while :; do # a signal ends `wait`, not gru-mem
  status=0
  wait "$pid" || status=$?
  kill -0 "$pid" 2>/dev/null || break
done
[ "$asked$status" != 10 ] || status=143
exit "$status"
