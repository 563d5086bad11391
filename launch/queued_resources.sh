#!/usr/bin/env bash
# Legacy: starts a run on a v5e slice by the Cloud TPU API's queued resources. That API
# gets fixes only (as of 2026-10); of all TPUs it is needed for v5e outside GKE alone.
#
#   bash launch/queued_resources.sh --name NAME --topology v5e:16x16 --project PROJECT \
#     --zone ZONE --image IMAGE --run_dir gs://BUCKET/RUN -- train --gin_file=FILE ...
#
#   --spot                     Spot VMs
#   --data gs://BUCKET[/DIR]   is copied to each machine and seen by the run as /data
#   --env_file FILE            NAME=VALUE lines with WANDB_API_KEY, HF_TOKEN, ...: becomes
#                              the secret NAME-env of Secret Manager; mode 0600
#   --service_account EMAIL    of the machines; may use buckets, images and the secret
#   --runtime_version NAME     default: v2-alpha-tpuv5-lite
#   --dry-run                  prints the commands and the start-up script; needs nothing
#
#   bash launch/queued_resources.sh --logs   --name NAME --project P --zone Z
#   bash launch/queued_resources.sh --delete --name NAME --project P --zone Z [--env_file F]
#   bash launch/queued_resources.sh --resume ... as at the start: deletes the request (it
#     is SUSPENDED after a preemption) and makes it again
#
# **The slice costs until it is deleted**, also when the run has finished.
# Not run on a TPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
. "$(dirname "${BASH_SOURCE[0]}")/_startup.sh"

VALUES="name topology project zone image run_dir data env_file service_account
  runtime_version"
SWITCHES="spot logs delete resume"
name="" topology="" project="" zone="" image="" run_dir="" data="" env_file=""
service_account="" runtime_version=v2-alpha-tpuv5-lite spot="" logs="" delete="" resume=""

parse_flags "$@"
require name project zone
check_name
needs gcloud
in_zone=(--project="$project" --zone="$zone")
queue=(gcloud compute tpus queued-resources)

if [ -n "$logs" ]; then # of process 0, which writes the run's log
  run gcloud compute tpus tpu-vm ssh "$name" "${in_zone[@]}" --worker=0 \
    --command="sudo docker logs --follow --tail=200 $name"
  exit
fi
delete_request() { run "${queue[@]}" delete "$name" "${in_zone[@]}" --force --quiet; }
if [ -n "$delete" ]; then
  delete_request
  delete_secrets
  exit
fi

require topology image run_dir
read_topology
[ "$kind" = v5e ] || refuse "only v5e needs this script: use compute_engine.sh or gke.sh"
check_words
check_env_file
case "$run_dir,$data" in
  gs://*,gs://* | gs://*,) ;;
  *) refuse "--run_dir and --data begin with gs://: a machine that is replaced keeps" \
    "no files" ;;
esac
words+=(--run_dir "$run_dir")
[ "$hosts" = 1 ] || words+=(--distributed)

more=()
[ -z "$spot" ] || more+=(--spot)
[ -z "$service_account" ] || more+=(--service-account="$service_account")
if [ -n "$resume" ]; then delete_request; else store_secrets; fi
write_file startup.sh "$(startup_script json-file)"
run "${queue[@]}" create "$name" "${in_zone[@]}" --node-id="$name" \
  --accelerator-type="v5litepod-$chips" --runtime-version="$runtime_version" \
  --metadata-from-file="startup-script=$written" \
  --scopes=https://www.googleapis.com/auth/cloud-platform ${more[@]+"${more[@]}"}
