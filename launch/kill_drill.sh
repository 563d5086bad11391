#!/usr/bin/env bash
# Compares a run that is killed at N random moments with an uninterrupted one.
#
#   bash launch/kill_drill.sh [--command train|sft] [--kills N] [--signal KILL|TERM]
#                             [--processes N] [--devices D] [--seed S] [--policy DIR]
#                             [--out DIR] [--gin_file FILE ...] [--gin.NAME=VALUE ...]
#
# Trains once without interruption, then again with the process ended at random moments
# (while compiling, sampling, updating, evaluating, saving, writing rows) and resumed by
# the same command. Compares metrics row by row (without times), and the last checkpoint
# bit for bit. Ends with status 0 and "equal: ..." or with the first difference. With
# TERM, each ended process must have status 0 too.
#
# With --processes both runs are of several processes (launch/local_multi.sh) of D devices
# (default 1), and the signal goes to one of them, chosen at random, once the run has
# started. After KILL the others must end by themselves with status 1, within three times
# --heartbeat_seconds (default 5); after TERM all must end with 0.
#
# 2 CPU cores, about (N / 2 + 2) times a whole run. `train` begins with the warm start
# that launch/quickstart.sh leaves, unless --policy names another; `sft` from scratch.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

command=train kills=5 signal=KILL seed=0 out="" policy="" gin_files=() more=()
processes=1 devices=1 heartbeat_seconds=5
while [ $# -gt 0 ]; do
  case "$1,${2:-}" in
    --gin.*) ;;
    --*,) say "kill_drill.sh: $1 is unknown or needs a value"; exit 2 ;;
  esac
  case "$1" in
    --command) command="$2"; shift 2 ;;
    --kills) kills="$2"; shift 2 ;;
    --signal) signal="$2"; shift 2 ;;
    --processes) processes="$2"; shift 2 ;;
    --devices) devices="$2"; shift 2 ;;
    --heartbeat_seconds) heartbeat_seconds="$2"; shift 2 ;;
    --seed) seed="$2"; shift 2 ;;
    --policy) policy="$2"; shift 2 ;;
    --out) out="$2"; shift 2 ;;
    --gin_file) gin_files+=(--gin_file="$2"); shift 2 ;;
    --gin.*) more+=("$1"); shift ;;
    *) say "kill_drill.sh: unknown argument $1"; exit 2 ;;
  esac
done
case "$signal" in
  KILL | TERM) ;;
  *) say "kill_drill.sh: --signal is KILL or TERM, not $signal"; exit 2 ;;
esac
[[ $processes =~ ^[1-9][0-9]*$ && $devices =~ ^[1-9][0-9]*$ ]] \
  || { say "kill_drill.sh: --processes and --devices are whole numbers from 1"; exit 2; }

case "$command" in
  train)
    default=gin/experiments/tiny.gin
    policy="${policy:-runs/quickstart/warm_start}"
    settings=(--gin.NUM_STEPS=12 --gin.SAVE_EVERY=3)
    ;;
  sft)
    default=gin/runs/sft.gin
    settings=(--gin.NUM_STEPS=240 --gin.SAVE_EVERY=60 --gin.LoopConfig.eval_every=120
      --gin.SFTConfig.short_steps=100)
    ;;
  *) say "kill_drill.sh: --command is train or sft, not $command"; exit 2 ;;
esac
# All devices of all processes.
[ "$processes" = 1 ] || settings+=(--gin.MeshConfig.data=$((processes * devices)))
[ ${#gin_files[@]} -gt 0 ] || gin_files=(--gin_file="$default")
[ -z "$policy" ] || settings+=(--gin.POLICY="\"$policy\"")
settings+=(${more[@]+"${more[@]}"})

if [ -z "${GRU_MEM:-}" ]; then
  use_env ""
  GRU_MEM="$VENV/bin/gru-mem"
fi
cd "$ROOT"
if [ -n "$policy" ] && [ ! -d "$policy" ]; then
  say "kill_drill.sh: no policy in $policy; run launch/quickstart.sh, or give --policy"
  exit 2
fi
out="${out:-runs/kill_drill}"
if [ -e "$out" ]; then
  say "kill_drill.sh: $out is there already; give --out, or remove it"
  exit 2
fi
mkdir -p "$out"

# train RUN: `exec`s the command that trains in RUN; logs of processes go to RUN.logs.
train() {
  local words=("$command" "${gin_files[@]}" "${settings[@]}" --run_dir "$1")
  [ "$processes" -gt 1 ] || exec "$GRU_MEM" "${words[@]}"
  export GRU_MEM
  exec bash "$ROOT/launch/local_multi.sh" --processes "$processes" \
    --devices "$devices" --log_dir "$1.logs" "${words[@]}" \
    --heartbeat_seconds "$heartbeat_seconds"
}

# one_ended_well VICTIM SECONDS: whether the other processes ended as they must after
# KILL, SECONDS after it.
one_ended_well() {
  local i status
  for ((i = 0; i < processes; i++)); do
    status="$(cat "$out/ended.logs/process_$i.status")"
    if [ "$i" != "$1" ] && [ "$status" != 1 ]; then
      say "kill_drill.sh: process $i must end with status 1 after process $1 was killed," \
        "not with $status"
      return 1
    fi
  done
  awk -v s="$2" -v h="$heartbeat_seconds" 'BEGIN { exit !(s <= 3 * h) }' || {
    say "kill_drill.sh: the others ended $2 s after the kill, with a heartbeat of" \
      "$heartbeat_seconds s"
    return 1
  }
}

say "kill_drill.sh: the uninterrupted run"
start=$(date +%s.%N)
since() { awk -v a="${1:-$start}" -v b="$(date +%s.%N)" 'BEGIN { print b - a }'; }
(train "$out/whole") >"$out/whole.log" 2>&1 &
pid=$!
while kill -0 "$pid" 2>/dev/null && [ ! -s "$out/whole/metrics.jsonl" ]; do sleep 0.1; done
first=$(since)
wait "$pid" || {
  say "kill_drill.sh: it failed; the end of $out/whole.log:"
  tail -n 5 "$out/whole.log" >&2
  exit 1
}
whole=$(since)
say "kill_drill.sh: $whole s, the first row after $first s"

ended=0
RANDOM=$seed
for i in $(seq "$kills"); do
  # Every third signal comes during start-up, the others later.
  from="$first"
  waits="" victim=0
  if [ "$signal" = TERM ] || [ "$processes" -gt 1 ]; then
    # Before a run has started there is nothing to save, and no other process to end.
    waits=1 from=0
    rm -f "$out/ended/lock" # of a process that was killed
    touch "$out/began"
  fi
  moment=$(awk -v r="$RANDOM" -v f="$from" -v w="$whole" -v s="$first" -v i="$i" \
    'BEGIN { r /= 32768; print i % 3 == 0 ? 0.2 + s * r : f + 0.7 * (w - s) * r }')
  (train "$out/ended") >"$out/ended.$i.log" 2>&1 &
  pid=$!
  if [ -n "$waits" ]; then
    while kill -0 "$pid" 2>/dev/null && [ ! -e "$out/ended/lock" ]; do sleep 0.1; done
    # Of several processes every third is met at its start, the others after a row.
    while [ "$processes" -gt 1 ] && [ $((i % 3)) != 0 ] && kill -0 "$pid" 2>/dev/null \
      && ! { [ -s "$out/ended/metrics.jsonl" ] \
        && [ "$out/ended/metrics.jsonl" -nt "$out/began" ]; }; do sleep 0.1; done
  fi
  sleep "$moment"
  target="$pid" hit=""
  if [ "$processes" -gt 1 ]; then
    victim=$((RANDOM % processes))
    target="$(cat "$out/ended.logs/process_$victim.pid")"
  fi
  sent=$(date +%s.%N)
  if { [ -z "$waits" ] || [ -e "$out/ended/lock" ]; } \
    && kill -"$signal" "$target" 2>/dev/null; then
    ended=$((ended + 1)) hit=1
  fi
  status=0
  wait "$pid" 2>/dev/null || status=$?
  seconds=$(since "$sent")
  newest=none
  for folder in "$out"/ended/checkpoints/*; do
    step="${folder##*/}"
    [[ $step =~ ^[0-9]+$ ]] || continue
    if [ "$newest" = none ] || [ "$step" -gt "$newest" ]; then newest="$step"; fi
  done
  whom="" later=""
  if [ "$processes" -gt 1 ]; then
    whom=" to process $victim" later=" $seconds s later"
  fi
  say "kill_drill.sh: SIG$signal $i$whom after $moment s: status $status$later," \
    "newest checkpoint: $newest"
  if [ "$processes" -gt 1 ] && [ "$signal$hit" = KILL1 ] \
    && ! one_ended_well "$victim" "$seconds"; then
    exit 1
  fi
  if [ "$signal" = TERM ] && [ "$status" -ne 0 ]; then
    say "kill_drill.sh: a run that is asked to stop must end with status 0:"
    tail -n 5 "$out/ended.$i.log" >&2
    exit 1
  fi
done

say "kill_drill.sh: to the end ($ended of $kills signals found it running)"
(train "$out/ended") >"$out/ended.last.log" 2>&1 || {
  say "kill_drill.sh: it cannot be resumed; the end of $out/ended.last.log:"
  tail -n 5 "$out/ended.last.log" >&2
  exit 1
}
python="$(dirname "$GRU_MEM")/python"
JAX_PLATFORMS=cpu "$python" -m gru_mem_jax.testing.compare_runs "$out/whole" "$out/ended"
