#!/usr/bin/env bash
# Ways of reading on the synthetic world, by three tables: one question's latency and
# score in each mode; training in mode parallel beside sequential training, seed by seed;
# and the bridge gap, two hops of which the second is read first.
#
#   bash launch/reading.sh [--quickstart DIR] [--out DIR]
#
#   --quickstart DIR   what launch/quickstart.sh made: policy/ answers the first table,
#                      warm_start/ is trained for the others; default runs/quickstart
#   --out DIR          default runs/reading
#   --parts LIST       of one, training and bridge; default all
#   --modes LIST       that are trained; default with_exit_gate,parallel
#   --seeds N          of each mode's training, default 3
#   --steps N          of each run, default 24
#   --questions N      of each task, default 64; half as many of each gap
#   --reversed SHARE   of the chains in training in modes reread and parallel: their
#                      second hop comes first; default 0, the same questions in all modes
#   --chains           each seed has a start of its own, which is taught scans and chains
#                      in any order (gin/runs/chains.gin), in place of warm_start/
#   --estimate         measures, tells the minutes and ends
#   --quick            a few of everything: shows that all stages work
#   -- --gin.NAME=VALUE ...   settings of gin/experiments/reading.gin, for all runs
#
# 2 CPU cores: hours, which are told before the first of them. The same command goes on
# where it was stopped, and repeats nothing. Writes OUT/runs, OUT/policies,
# OUT/evaluation and OUT/tables.md.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

VALUES="quickstart out parts modes seeds steps questions reversed"
SWITCHES="chains estimate quick"
quickstart=runs/quickstart out=runs/reading parts=one,training,bridge
modes=with_exit_gate,parallel seeds=3 steps="" questions="" reversed=0
chains="" estimate="" quick=""
parse_flags "$@"
steps="${steps:-$((quick ? 1 : 24))}" questions="${questions:-$((quick ? 2 : 64))}"
for name in seeds steps questions; do
  [[ ${!name} =~ ^[1-9][0-9]*$ ]] || refuse "--$name is a whole number from 1"
done
[[ $reversed =~ ^(0|1|0?\.[0-9]+)$ ]] || refuse "--reversed is a share, such as 0.5"
IFS=, read -ra part_list <<<"$parts"
for part in "${part_list[@]}"; do
  [[ $part =~ ^(one|training|bridge)$ ]] \
    || refuse "--parts has one, training and bridge, not $part"
done
IFS=, read -ra trained <<<"$modes"
for mode in "${trained[@]}"; do
  [[ $mode =~ ^(with_exit_gate|without_exit_gate|reread|parallel)$ ]] \
    || refuse "--modes has with_exit_gate, without_exit_gate, reread, parallel, not $mode"
done
for word in ${words[@]+"${words[@]}"}; do
  [[ $word == --gin.*=* ]] || refuse "after -- come settings, --gin.NAME=VALUE; got $word"
done
for name in policy warm_start; do
  [ -d "$quickstart/$name" ] || refuse "there is no $quickstart/$name: run" \
    "launch/quickstart.sh, or say where with --quickstart"
done
quickstart="$(realpath "$quickstart")"
has() { [[ ",$parts," == *",$1,"* ]]; }

if [ -z "${GRU_MEM:-}" ]; then
  use_env ""
  GRU_MEM="$VENV/bin/gru-mem"
fi
helper=("$(dirname "$GRU_MEM")/python" "$ROOT/launch/reading.py")
mkdir -p "$out"
cd "$out"
mkdir -p runs policies evaluation

# What decides the runs and their questions; a folder of other ones is left alone.
settings="$quickstart $seeds $steps $questions $reversed $chains $quick ${words[*]+${words[*]}}"
if [ -e settings ] && [ "$(cat settings)" != "$settings" ]; then
  refuse "$out holds results of other settings; give another --out"
fi
printf '%s' "$settings" >settings

# How many, and how long.
long=uniform:64,uniform:128 long_chunks=192 alone=8 gaps=0,8,32,128 bridge_chunks=136
if [ -n "$quick" ]; then
  long=uniform:6,uniform:8 long_chunks=14 alone=1 gaps=0,2 bridge_chunks=6
fi
bridge_questions=$(((questions + 1) / 2))
start_steps=0
if [ -n "$chains" ]; then start_steps=$((quick ? 20 : 6500)); fi # a row of metrics every 20
IFS=, read -ra gap_list <<<"$gaps"
[ -e bench.json ] || "$GRU_MEM" bench sampling --policy "$quickstart/policy" --batch 32 \
  --prompt_tokens 110 --new_tokens 24 --repeats 3 --json bench.json
"${helper[@]}" estimate bench.json --parts "$parts" --modes "$modes" --seeds "$seeds" \
  --steps "$steps" --questions "$questions" --long_chunks "$long_chunks" --alone "$alone" \
  --bridge_questions "$bridge_questions" --gaps "${#gap_list[@]}" \
  --bridge_chunks "$bridge_chunks" --start_steps "$start_steps" >&2
if [ -n "$estimate" ]; then exit 0; fi

since=$SECONDS
took() { # took NAME: minutes since the last one
  say "$1: $(((SECONDS - since + 30) / 60)) min"
  since=$SECONDS
}
# learn RUN COMMAND STEPS WORDS...: a run to its end, and its policy.
learn() {
  local run="$1" command="$2" count="$3"
  shift 3
  if [ -d "policies/$run" ]; then return 0; fi
  "$GRU_MEM" "$command" "$@" --gin.NUM_STEPS="$count" --run_dir "runs/$run"
  "${helper[@]}" finished "runs/$run" "$count" || {
    say "stopped; the same command goes on from here"
    exit 130
  }
  "$GRU_MEM" export "runs/$run" --out "policies/$run"
  took "$run"
}
# ask NAME WORDS...: an evaluation, gone on with where it was stopped.
ask() {
  "$GRU_MEM" eval "${@:2}" --out "evaluation/$1" >"evaluation/$1.txt"
  took "$1"
}
trap 'exit 130' INT
trap 'exit 143' TERM

if has one; then
  ask one --policy "$quickstart/policy" --suite tiny --contexts "$long" --slots 32 \
    --num_questions "$questions" --time_alone "$alone" \
    --modes memagent,without_exit_gate,with_exit_gate,reread,parallel
fi
if has training || has bridge; then
  start="$quickstart/warm_start" starts=()
  for seed in $(seq 0 $((seeds - 1))); do
    if [ -n "$chains" ]; then
      learn "start_$seed" sft "$start_steps" --gin.SEED="$seed" \
        --gin_file="$ROOT/gin/runs/chains.gin"
      start="$PWD/policies/start_$seed"
    fi
    if [ -n "$chains" ] || [ "$seed" = 0 ]; then starts+=(--policy "$start"); fi
    for mode in "${trained[@]}"; do
      share="$reversed"
      case "$mode" in *_exit_gate) share=0 ;; esac # they read once
      learn "${mode}_$seed" train "$steps" --gin.POLICY="'$start'" --gin.SEED="$seed" \
        --gin_file="$ROOT/gin/experiments/reading.gin" --gin.MODE="'$mode'" \
        --gin.REVERSED="$share" ${words[@]+"${words[@]}"}
    done
  done
  for arm in start "${trained[@]}"; do
    policies=()
    for seed in $(seq 0 $((seeds - 1))); do policies+=(--policy "policies/${arm}_$seed"); done
    if [ "$arm" = start ]; then policies=("${starts[@]}"); fi
    if has training; then
      ask "tasks_$arm" "${policies[@]}" --suite tiny --contexts uniform:8 --slots 32 \
        --num_questions "$questions" --modes without_exit_gate,with_exit_gate,reread,parallel
    fi
    if has bridge; then
      ask "bridge_$arm" "${policies[@]}" --suite bridge --source tiny --gaps "$gaps" \
        --lengths "$bridge_chunks" --num_questions "$bridge_questions" --slots 32 \
        --modes without_exit_gate,reread,parallel
    fi
  done
fi
"${helper[@]}" tables . | tee tables.md
say "tables: $PWD/tables.md; pages: gru-mem report $PWD/evaluation/NAME --out PAGE"
