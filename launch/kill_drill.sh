#!/usr/bin/env bash
# Compares a run that is killed at N random moments with an uninterrupted one.
#
#   bash launch/kill_drill.sh [--command train|sft] [--kills N] [--signal KILL|TERM]
#                             [--seed S] [--policy DIR] [--out DIR] [--gin_file FILE]
#                             [--gin.NAME=VALUE ...]
#
# Trains once without interruption, then again with the process ended at random moments
# (while compiling, sampling, updating, evaluating, saving, writing rows) and resumed by
# the same command. Compares metrics row by row (without times), and the last checkpoint
# bit for bit. Ends with status 0 and "equal: ..." or with the first difference. With
# TERM, each ended process must have status 0 too.
#
# 2 CPU cores, about (N / 2 + 2) times a whole run. `train` begins with the warm start
# that launch/quickstart.sh leaves, unless --policy names another; `sft` from scratch.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

command=train kills=5 signal=KILL seed=0 out="" gin_file="" policy="" more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --command) command="$2"; shift 2 ;;
    --kills) kills="$2"; shift 2 ;;
    --signal) signal="$2"; shift 2 ;;
    --seed) seed="$2"; shift 2 ;;
    --policy) policy="$2"; shift 2 ;;
    --out) out="$2"; shift 2 ;;
    --gin_file) gin_file="$2"; shift 2 ;;
    --gin.*) more+=("$1"); shift ;;
    *) say "kill_drill.sh: unknown argument $1"; exit 2 ;;
  esac
done
case "$signal" in
  KILL | TERM) ;;
  *) say "kill_drill.sh: --signal is KILL or TERM, not $signal"; exit 2 ;;
esac

case "$command" in
  train)
    gin_file="${gin_file:-gin/experiments/tiny.gin}"
    policy="${policy:-runs/quickstart/warm_start}"
    settings=(--gin.NUM_STEPS=12 --gin.SAVE_EVERY=3)
    ;;
  sft)
    gin_file="${gin_file:-gin/runs/sft.gin}"
    settings=(--gin.NUM_STEPS=240 --gin.SAVE_EVERY=60 --gin.LoopConfig.eval_every=120
      --gin.SFTConfig.short_steps=100)
    ;;
  *) say "kill_drill.sh: --command is train or sft, not $command"; exit 2 ;;
esac
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

train() {
  exec "$GRU_MEM" "$command" --gin_file="$gin_file" "${settings[@]}" --run_dir "$1"
}

say "kill_drill.sh: the uninterrupted run"
start=$(date +%s.%N)
since() { awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { print b - a }'; }
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
  [ "$signal" = TERM ] && from=0 # it waits below until the run has started
  moment=$(awk -v r="$RANDOM" -v f="$from" -v w="$whole" -v s="$first" -v i="$i" \
    'BEGIN { r /= 32768; print i % 3 == 0 ? 0.2 + s * r : f + 0.7 * (w - s) * r }')
  (train "$out/ended") >"$out/ended.$i.log" 2>&1 &
  pid=$!
  if [ "$signal" = TERM ]; then # before a run has started there is nothing to save
    while kill -0 "$pid" 2>/dev/null && [ ! -e "$out/ended/lock" ]; do sleep 0.1; done
  fi
  sleep "$moment"
  if { [ "$signal" = KILL ] || [ -e "$out/ended/lock" ]; } \
    && kill -"$signal" "$pid" 2>/dev/null; then
    ended=$((ended + 1))
  fi
  status=0
  wait "$pid" 2>/dev/null || status=$?
  newest=$(ls "$out/ended/checkpoints" 2>/dev/null | grep -E '^[0-9]+$' \
    | sort -n | tail -n 1) || newest=none
  say "kill_drill.sh: SIG$signal $i after $moment s: status $status," \
    "newest checkpoint: $newest"
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
