#!/usr/bin/env bash
# Runs gru-mem in several processes on this machine, as it runs on several hosts.
#
#   bash launch/local_multi.sh --processes 2 --devices 4 \
#     train --gin_file=gin/experiments/tiny.gin --run_dir runs/two ...
#
#   --processes N     default 2
#   --devices D       of each process: GPUs where this machine has any, else virtual
#                     devices on the CPU; default: the GPUs divided by N, or 1
#   --log_dir DIR     what processes 1 to N-1 print: DIR/process_1.log, ...; also each
#                     one's .pid, and .status when it has ended; default: a new folder
#   --grace_seconds S a process that has failed makes the others end by themselves; any
#                     left after so long are killed; default 120
#   --dry-run         prints the commands
#
# What process 0 prints is shown. A SIGTERM or Ctrl-C is passed on to each process: the
# run is saved. Status 0 if all end with 0, else that of the first that failed, with its
# last lines. JAX_PLATFORMS=cpu leaves the GPUs out.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

processes=2 devices="" log_dir="" grace_seconds=120
VALUES="processes devices log_dir grace_seconds" SWITCHES=""
own=()
while [ $# -gt 0 ]; do # its own flags come first
  case "$1" in
    --) shift; break ;;
    --help | -h | --dry-run | --*=*) own+=("$1"); shift ;;
    --*) own+=("$1" "${2:-}"); shift; [ $# = 0 ] || shift ;;
    *) break ;;
  esac
done
parse_flags ${own[@]+"${own[@]}"}
case "${1:-}" in
  train | sft | eval) ;;
  "") refuse "nothing to run: train, sft or eval comes after the flags" ;;
  *) refuse "runs train, sft or eval in several processes, not $1" ;;
esac
[[ $processes =~ ^[1-9][0-9]*$ && ${devices:-1} =~ ^[1-9][0-9]*$ ]] \
  || refuse "--processes and --devices are whole numbers from 1"
[[ $grace_seconds =~ ^[0-9]+$ ]] || refuse "--grace_seconds is a number"

# The numbers of the GPUs that may be used, one a line.
list_gpus() {
  [ "${JAX_PLATFORMS:-}" != cpu ] || return 0
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true
  fi
}
gpus=()
while read -r gpu; do gpus+=("$gpu"); done < <(list_gpus)
if [ ${#gpus[@]} -gt 0 ]; then
  devices="${devices:-$((${#gpus[@]} / processes))}"
  [ "$devices" -gt 0 ] && [ $((processes * devices)) -le ${#gpus[@]} ] \
    || refuse "$processes processes need $processes or more GPUs, and $devices each;" \
      "there are ${#gpus[@]} (JAX_PLATFORMS=cpu: virtual devices)"
fi
devices="${devices:-1}"

if [ -z "${GRU_MEM:-}" ]; then
  [ -n "$dry_run" ] || use_env ""
  GRU_MEM="$VENV/bin/gru-mem"
fi

# A port that nobody listens on.
find_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%s' "$port"
}
coordinator="127.0.0.1:$(find_port)"

# command_of I: sets `command` to that of process I.
command_of() {
  local flags
  if [ ${#gpus[@]} -gt 0 ]; then
    command=(env "CUDA_VISIBLE_DEVICES=$(
      IFS=,
      printf '%s' "${gpus[*]:$1*devices:devices}"
    )")
  else
    flags="$(sed -E 's/--xla_force_host_platform_device_count=[0-9]+ ?//' \
      <<<"${XLA_FLAGS:-}")"
    command=(env JAX_PLATFORMS=cpu
      "XLA_FLAGS=${flags:+${flags% } }--xla_force_host_platform_device_count=$devices")
  fi
  command+=("$GRU_MEM" "${@:2}" --coordinator "$coordinator"
    --num_processes "$processes" --process_id "$1")
}

if [ -n "$dry_run" ]; then
  for ((i = 0; i < processes; i++)); do
    command_of "$i" "$@"
    printf '%s\n' "$(quoted "${command[@]}")"
  done
  exit
fi

log_dir="${log_dir:-$(mktemp -d "${TMPDIR:-/tmp}/gru_mem_processes.XXXXXX")}"
mkdir -p "$log_dir"
say "$SCRIPT: $processes processes of $devices devices; their output: $log_dir"

pids=() statuses=() running=0 asked=""
send() { # to each process that has not ended; KILL to what it has started, too
  local i group=""
  [ "$1" != KILL ] || group=-
  for ((i = 0; i < ${#pids[@]}; i++)); do
    [ -n "${statuses[$i]}" ] || kill -"$1" -- "$group${pids[$i]}" 2>/dev/null || true
  done
}
trap 'asked=TERM; send TERM' TERM
trap 'asked=INT; send INT' INT
trap 'send KILL' EXIT # none is left behind

# Each process has a group of its own: a Ctrl-C reaches it once, by us.
set -m
for ((i = 0; i < processes && ${#asked} == 0; i++)); do
  command_of "$i" "$@"
  if [ "$i" = 0 ]; then
    "${command[@]}" </dev/null &
  else
    "${command[@]}" </dev/null >"$log_dir/process_$i.log" 2>&1 &
  fi
  statuses+=("") pids+=($!) running=$((running + 1))
  printf '%s\n' "$!" >"$log_dir/process_$i.pid"
  rm -f "$log_dir/process_$i.status"
done
set +m
if [ "$running" -lt "$processes" ]; then # the others would wait for those in vain
  say "$SCRIPT: stopped before all processes had been started"
  exit 143
fi

failed="" deadline=""
while [ "$running" -gt 0 ]; do
  for ((i = 0; i < processes; i++)); do
    if [ -n "${statuses[$i]}" ] || kill -0 "${pids[$i]}" 2>/dev/null; then continue; fi
    status=0
    wait "${pids[$i]}" 2>/dev/null || status=$?
    statuses[i]=$status running=$((running - 1))
    printf '%s\n' "$status" >"$log_dir/process_$i.status"
    if [ "$status" != 0 ] && [ -z "$failed" ]; then
      failed="$i" deadline=$((SECONDS + grace_seconds))
    fi
  done
  if [ -n "$deadline" ] && [ "$running" -gt 0 ] && [ "$SECONDS" -ge "$deadline" ]; then
    say "$SCRIPT: $running processes did not end within $grace_seconds s: killed"
    send KILL
    deadline=""
  fi
  [ "$running" = 0 ] || sleep 0.2 || true # a Ctrl-C ends the sleep
done
[ -n "$failed" ] || exit 0
say "$SCRIPT: process $failed failed first, with status ${statuses[$failed]}"
if [ "$failed" != 0 ] && [ -s "$log_dir/process_$failed.log" ]; then
  say "the end of $log_dir/process_$failed.log:"
  tail -n 5 "$log_dir/process_$failed.log" >&2
fi
exit "${statuses[$failed]}"
