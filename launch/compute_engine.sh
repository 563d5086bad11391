#!/usr/bin/env bash
# Starts a run on a TPU slice of Compute Engine: v5p, v6e or TPU7x, as an instance
# template, a workload policy and a managed instance group.
#
#   bash launch/compute_engine.sh --name NAME --topology v6e:8x8 --project PROJECT \
#     --zone ZONE --image IMAGE --run_dir gs://BUCKET/RUN -- train --gin_file=FILE ...
#
#   --provisioning standard|spot|reservation   default: standard (on demand)
#   --reservation NAME         with --provisioning reservation
#   --data gs://BUCKET[/DIR]   is copied to each machine and seen by the run as /data
#   --env_file FILE            NAME=VALUE lines with WANDB_API_KEY, HF_TOKEN, ...: becomes
#                              the secret NAME-env of Secret Manager; mode 0600
#   --service_account EMAIL    of the machines; may use buckets, images and the secret
#   --boot_disk_gb N           default 200: the image, and --data
#   --dry-run                  prints the commands and the start-up script; needs nothing
#
#   bash launch/compute_engine.sh --logs   --name NAME --project P --zone Z
#   bash launch/compute_engine.sh --delete --name NAME --project P --zone Z [--env_file F]
#   bash launch/compute_engine.sh --resume --name NAME --project P --zone Z \
#     --topology ...: makes the group again from its template
#
# After a fault Compute Engine starts the machines of a slice again, all together, and
# each start-up starts the container: the run goes on from its newest checkpoint. Spot
# machines that were taken away do not come back: --resume asks for new ones.
# **The group costs until it is deleted**, also when the run has finished.
#
# Needs a gcloud of 2026 (--target-size-policy-mode). Written for Compute Engine as of
# 2026-10; not run on it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"
. "$(dirname "${BASH_SOURCE[0]}")/_startup.sh"

VALUES="name topology project zone image run_dir provisioning reservation data env_file
  service_account boot_disk_gb"
SWITCHES="logs delete resume"
name="" topology="" project="" zone="" image="" run_dir="" provisioning=standard
reservation="" data="" env_file="" service_account="" boot_disk_gb=200
logs="" delete="" resume=""

parse_flags "$@"
require name project zone
check_name
needs gcloud
region="${zone%-*}"
of_project=(--project="$project")
in_zone=("${of_project[@]}" --zone="$zone")
group=(gcloud compute instance-groups managed)

if [ -n "$logs" ]; then
  run gcloud beta logging tail "log_id(\"gcplogs-docker-driver\") AND \
jsonPayload.container.name=\"/$name\"" "${of_project[@]}" \
    --format="value(jsonPayload.instance.name,jsonPayload.message)"
  exit
fi
if [ -n "$delete" ]; then
  run "${group[@]}" delete "$name" "${in_zone[@]}" --quiet
  run gcloud compute instance-templates delete "$name" "${of_project[@]}" --quiet
  delete_secrets
  run gcloud compute resource-policies delete "$name" "${of_project[@]}" \
    --region="$region" --quiet || say "$SCRIPT: a slice of one machine has no policy"
  exit
fi

require topology
read_topology
case "$kind" in
  v5e) refuse "v5e is not on Compute Engine: use gke.sh or queued_resources.sh" ;;
  tpu7x) family=ubuntu-accel-2404-amd64-tpu-tpu7x ;;
  *) family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e ;;
esac

create_group() {
  local more=(--default-action-on-vm-failure=repair)
  if [ "$hosts" -gt 1 ]; then # one slice: all machines at once, none repaired alone
    more=(--default-action-on-vm-failure=do-nothing --target-size-policy-mode=bulk
      --workload-policy="projects/$project/regions/$region/resourcePolicies/$name")
  fi
  run "${group[@]}" create "$name" "${in_zone[@]}" --template="$name" \
    --size="$hosts" --base-instance-name="$name" "${more[@]}"
}

if [ -n "$resume" ]; then
  run "${group[@]}" delete "$name" "${in_zone[@]}" --quiet
  create_group
  exit
fi

require image run_dir
check_words
check_env_file
case "$run_dir,$data" in
  gs://*,gs://* | gs://*,) ;;
  *) refuse "--run_dir and --data begin with gs://: a machine that is replaced keeps" \
    "no files" ;;
esac
case "$provisioning" in
  standard) model=(--provisioning-model=STANDARD) ;;
  spot) model=(--provisioning-model=SPOT --instance-termination-action=STOP) ;;
  reservation)
    require reservation
    model=(--provisioning-model=RESERVATION_BOUND --instance-termination-action=DELETE
      --reservation-affinity=specific --reservation="$reservation")
    ;;
  *) refuse "--provisioning is standard, spot or reservation, not $provisioning" ;;
esac
[ -z "$service_account" ] || model+=(--service-account="$service_account")
words+=(--run_dir "$run_dir")
[ "$hosts" = 1 ] || words+=(--distributed)

store_secrets
write_file startup.sh "$(startup_script gcplogs)"
startup="$written"
# SIGTERM for the run, as long before the machine is off as the machine has.
write_file shutdown.sh "#!/bin/bash
docker stop -t 600 $name"
if [ "$hosts" -gt 1 ]; then
  run gcloud compute resource-policies create workload-policy "$name" \
    "${of_project[@]}" --region="$region" --type=HIGH_THROUGHPUT \
    --accelerator-topology="$shape"
fi
run gcloud compute instance-templates create "$name" "${of_project[@]}" \
  --machine-type="$machine" --maintenance-policy=TERMINATE "${model[@]}" \
  --image-project=ubuntu-os-accelerator-images --image-family="$family" \
  --boot-disk-size="${boot_disk_gb}GB" --scopes=cloud-platform \
  --metadata-from-file="startup-script=$startup,shutdown-script=$written"
create_group
