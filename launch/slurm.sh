#!/usr/bin/env bash
# Starts a run on GPU nodes of a Slurm cluster.
#
#   bash launch/slurm.sh --name NAME --nodes 2 --gpus 8 --run_dir /shared/RUN \
#     -- train --gin_file=FILE ...
#
#   --nodes N, --gpus N        nodes, and GPUs a node; default 1 and 8
#   --processes node|gpu       one process a node (the default), or one a GPU
#   --partition P --account A --time HH:MM:SS   as of sbatch
#   --grace_seconds N          SIGTERM comes so long before the time limit; default 300
#   --image IMAGE              a container, by pyxis; else this clone's .venv, which must
#                              be on a file system that all nodes see
#   --mounts A:B,...           with --image: folders of the node seen in the container
#   --env_file FILE            NAME=VALUE lines with WANDB_API_KEY, HF_TOKEN, ...: read on
#                              the node; mode 0600. Nothing else of your environment is
#                              taken along.
#   --dry-run                  prints the sbatch script; needs nothing
#
#   bash launch/slurm.sh --logs   --name NAME --run_dir /shared/RUN
#   bash launch/slurm.sh --delete --name NAME
#
# Jobs of one name wait for each other (--dependency=singleton), so the same command
# may be given again at any time: it resumes the run. A job that ends with status 0 before
# the run has finished (SIGTERM: preemption, or the time limit near) puts itself into the
# queue again; a node that fails makes Slurm do so. A run that fails ends the job.
#
# jax finds its processes by Slurm's variables. Not run on a cluster.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

VALUES="name nodes gpus processes partition account time grace_seconds image mounts
  env_file run_dir"
SWITCHES="logs delete"
name="" nodes=1 gpus=8 processes=node partition="" account="" time="" grace_seconds=300
image="" mounts="" env_file="" run_dir="" logs="" delete=""

parse_flags "$@"
require name
check_name
if [ -n "$delete" ]; then
  needs scancel
  run scancel --name="$name" --user="${USER:-$(id -un)}"
  exit
fi
require run_dir
case "$run_dir" in
  /*) ;;
  *) refuse "--run_dir $run_dir: an absolute path on a file system that all nodes see" ;;
esac
run_dir="${run_dir%/}"
if [ -n "$logs" ]; then
  run tail --lines=200 --follow=name --retry "$run_dir/log.txt"
  exit
fi

[[ $nodes =~ ^[1-9][0-9]*$ && $gpus =~ ^[1-9][0-9]*$ ]] \
  || refuse "--nodes and --gpus are whole numbers from 1"
[[ $grace_seconds =~ ^[0-9]+$ ]] || refuse "--grace_seconds is a number"
case "$processes" in
  node) tasks=1 ;;
  gpu) tasks="$gpus" ;;
  *) refuse "--processes is node or gpu, not $processes" ;;
esac
check_words
check_env_file
needs sbatch
words+=(--run_dir "$run_dir")
[ $((nodes * tasks)) = 1 ] || words+=(--distributed)

step=(srun --export=ALL --kill-on-bad-exit=1 --gpu-bind=none)
if [ "$processes" = node ]; then
  # Under Slurm jax gives a process one GPU, the one of its number on the node.
  step+=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((gpus - 1)))")
fi
if [ -n "$image" ]; then
  folder="$(dirname "$run_dir")"
  step=("${step[@]:0:4}" --container-image="$image"
    --container-mounts="$folder:$folder${mounts:+,$mounts}" "${step[@]:4}"
    gru-mem)
else
  step+=("${GRU_MEM:-$VENV/bin/gru-mem}")
fi

optional=""
[ -z "$partition" ] || optional+=$'\n'"#SBATCH --partition=$partition"
[ -z "$account" ] || optional+=$'\n'"#SBATCH --account=$account"
[ -z "$time" ] || optional+=$'\n'"#SBATCH --time=$time"
secrets=""
[ -z "$env_file" ] || secrets=$'\n'"set -a
. $(quoted "$(cd "$(dirname "$env_file")" && pwd)/$(basename "$env_file")")
set +a"

run_with "$(
  cat <<SCRIPT
#!/bin/bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$tasks
#SBATCH --gpus-per-node=$gpus
#SBATCH --exclusive
#SBATCH --output=$name-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --dependency=singleton
#SBATCH --signal=B:TERM@$grace_seconds
#SBATCH --export=NONE$optional
set -euo pipefail$secrets
export JAX_PLATFORMS=cuda,cpu
$(quoted "${step[@]}" "${words[@]}") &
step=\$!
trap 'kill -TERM \$step' TERM # srun passes it on to every process
status=0
while :; do # a signal ends \`wait\`, not the step
  status=0
  wait \$step || status=\$?
  kill -0 \$step 2>/dev/null || break
done
log=$(quoted "$run_dir/log.txt")
if [ \$status = 0 ] && ! tail -n 1 "\$log" | grep -q 'finished at step'; then
  echo "stopped before the end: into the queue again"
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit \$status
SCRIPT
)" sbatch
