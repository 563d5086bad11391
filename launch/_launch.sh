#!/usr/bin/env bash
# Sourced by the scripts that start a run on other machines: flags, dry runs, topologies.
#
# A script names its flags in VALUES and SWITCHES, gives them defaults, and calls
# `parse_flags "$@"`, which sets the variable of each flag's name, and `words` to what
# follows `--`: the words of gru-mem, its command first.
# shellcheck disable=SC2034,SC2153,SC2154  # variables that are set here and read there

. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

SCRIPT="$(basename "$0")"
words=() dry_run=""

# Ends with status 2 and one line.
refuse() {
  say "$SCRIPT: $*"
  exit 2
}

# The header of the script that is running, without `#`.
print_help() { sed -n '2,/^[^#]/ { /^#/ { s/^# \{0,1\}//; p; }; }' "$0"; }

parse_flags() {
  local flag values switches
  values=" ${VALUES//$'\n'/ } " switches=" ${SWITCHES//$'\n'/ } "
  while [ $# -gt 0 ]; do
    case "$1" in
      --) words=("${@:2}"); return ;;
      --help | -h) print_help; exit 0 ;;
      --dry-run) dry_run=1; shift; continue ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    flag="${1#--}"
    case "$switches" in
      *" $flag "*) printf -v "$flag" 1; shift; continue ;;
    esac
    case "$1,$values" in
      --*,*" $flag "*)
        [ -n "${2:-}" ] || refuse "$1 needs a value"
        printf -v "$flag" %s "$2"
        shift 2
        ;;
      *) refuse "unknown argument $1 (--help lists them; words of gru-mem follow --)" ;;
    esac
  done
}

# require FLAG ...: refuses where one has no value.
require() {
  local flag
  for flag in "$@"; do
    [ -n "${!flag}" ] || refuse "--$flag is needed (--help lists the flags)"
  done
}

# A name that Kubernetes, Compute Engine and Slurm take; all that a run makes has it.
check_name() {
  [[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ && ${#name} -le 28 ]] \
    || refuse "--name $name: lower-case letters, digits and hyphens, at most 28"
}

# The words after `--`, checked. The scripts add --run_dir and --distributed themselves.
check_words() {
  local word
  case "${words[0]:-}" in
    train | sft) ;;
    "") refuse "nothing to run: give the words of gru-mem after --, such as" \
      "-- train --gin_file=FILE" ;;
    *) refuse "after -- comes train or sft, not ${words[0]}" ;;
  esac
  for word in "${words[@]}"; do
    case "$word" in
      --run_dir | --run_dir=*) refuse "give --run_dir before --, not after it" ;;
    esac
    [[ ! $word =~ _API_KEY=|_TOKEN=|hf_[A-Za-z0-9]{30} ]] \
      || refuse "a key or token on a command line is seen by all: put it into a file" \
        "and give --env_file"
  done
}

# A file of NAME=VALUE lines that nobody else can read.
check_env_file() {
  local mode
  [ -n "$env_file" ] || return 0
  [ -f "$env_file" ] || refuse "--env_file $env_file: there is no such file"
  mode="$(stat -c %a "$env_file" 2>/dev/null || stat -f %Lp "$env_file")"
  case "$mode" in
    600 | 400) ;;
    *) refuse "--env_file $env_file: others may read it (mode $mode); chmod 600 it" ;;
  esac
}

# `quoted WORD ...` prints words as a shell reads them.
quoted() {
  local line
  printf -v line ' %q' "$@"
  printf '%s' "${line# }"
}

# Prints a command and runs it; with --dry-run it only prints.
run() {
  if [ -n "$dry_run" ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    say "+ $(quoted "$@")"
    "$@"
  fi
}

# run_with TEXT COMMAND ...: the same, with TEXT as standard input.
run_with() {
  local text="$1"
  shift
  if [ -n "$dry_run" ]; then
    printf "%s <<'END'\n%s\nEND\n" "$(quoted "$@")" "$text"
  else
    say "+ $(quoted "$@")"
    printf '%s\n' "$text" | "$@"
  fi
}

# `needs PROGRAM ...` refuses where one is missing; a dry run needs none.
needs() {
  local program
  [ -z "$dry_run" ] || return 0
  for program in "$@"; do
    command -v "$program" >/dev/null || refuse "$program is not installed (or --dry-run)"
  done
}

# Reads --topology KIND:SHAPE into kind, shape, chips, hosts, chips_per_host and machine
# (the type of virtual machine). Shapes are those of
# https://docs.cloud.google.com/tpu/docs/system-architecture-tpu-vm (as of 2026-10).
read_topology() {
  local a b c rest
  kind="${topology%%:*}" shape="${topology#*:}"
  [[ $topology == *:* && $shape =~ ^[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$ ]] \
    || refuse "--topology $topology: write it like v5p:4x4x4 or v6e:8x8"
  IFS=x read -r a b c rest <<<"$shape"
  chips=$((a * b * ${c:-1})) chips_per_host=4
  case "$kind" in
    v5e) machine=ct5lp-hightpu ;;
    v6e) machine=ct6e-standard ;;
    v5p) machine=ct5p-hightpu ;;
    tpu7x) machine=tpu7x-standard ;;
    *) refuse "--topology $topology: the kinds are v5e, v5p, v6e and tpu7x" ;;
  esac
  case "$kind:$shape" in
    v5e:1x1 | v6e:1x1) chips_per_host=1 ;;
    v5e:2x4 | v6e:2x4) chips_per_host=8 ;; # one host of 8 chips, not two of 4
    v5e:2x2 | v5e:4x4 | v5e:4x8 | v5e:8x8 | v5e:8x16 | v5e:16x16) ;;
    v6e:2x2 | v6e:4x4 | v6e:4x8 | v6e:8x8 | v6e:8x16 | v6e:16x16) ;;
    v5e:* | v6e:*)
      refuse "--topology $topology: $kind comes as" \
        "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16 and 16x16" ;;
    *:2x2x1 | *:2x2x2 | *:2x2x4 | *:2x4x4) ;;
    *:*x*x*)
      [ $((a % 4 + b % 4 + c % 4)) = 0 ] && [ "$a" -le "$b" ] && [ "$b" -le "$c" ] \
        || refuse "--topology $topology: $kind comes as 2x2x1, 2x2x2, 2x2x4, 2x4x4 and" \
          "multiples of 4 in ascending order, such as 4x4x8" ;;
    *) refuse "--topology $topology: $kind has three dimensions, such as 4x4x4" ;;
  esac
  hosts=$((chips / chips_per_host)) machine="$machine-${chips_per_host}t"
}
