#!/usr/bin/env bash
# Starts a run on a TPU slice of Google Kubernetes Engine, as a JobSet.
#
#   bash launch/gke.sh --name NAME --topology v5p:4x4x4 --cluster CLUSTER \
#     --project PROJECT --location ZONE --image IMAGE --run_dir gs://BUCKET/RUN \
#     -- train --gin_file=FILE ...
#
#   --submit kubectl|gcluster  our manifest by kubectl (the default), or Cluster Toolkit's
#                              by `gcluster job submit`, which needs Kueue
#   --data gs://BUCKET[/DIR]   is seen by the run as /data, read-only
#   --env_file FILE            NAME=VALUE lines with WANDB_API_KEY, HF_TOKEN, ...: becomes
#                              the secret NAME-env; mode 0600; not with gcluster
#   --service_account NAME     of Kubernetes, allowed to read and write the buckets
#   --namespace NAME           default: default
#   --max_restarts N           of the JobSet after preemptions and failures; default 100
#   --grace_seconds N          from SIGTERM to SIGKILL; default 600
#   --spot                     on a node pool of Spot VMs
#   --dry-run                  prints the commands and the manifest; needs nothing
#
#   bash launch/gke.sh --logs   --name NAME --cluster C --project P --location L
#   bash launch/gke.sh --delete --name NAME --cluster C --project P --location L
#   bash launch/gke.sh --resume ... as at the start: deletes the JobSet, makes it again
#
# When a pod ends before the run has, the JobSet ends all pods and starts them again, and
# the run goes on from its newest checkpoint: nobody has to do anything. Only input that
# is refused (status 2) ends the JobSet.
# --resume is for a JobSet that has used up its restarts, or a new image.
#
# Needs gcloud with gke-gcloud-auth-plugin, kubectl; the cluster needs a node pool of
# the topology and the JobSet controller (docs/pods.md says how they are made).
# Written for JobSet v1alpha2 and GKE as of 2026-10; not run on a cluster.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_launch.sh"

VALUES="name topology cluster project location image run_dir submit data env_file
  service_account namespace max_restarts grace_seconds"
SWITCHES="spot logs delete resume"
name="" topology="" cluster="" project="" location="" image="" run_dir="" submit=kubectl
data="" env_file="" service_account="" namespace=default max_restarts=100
grace_seconds=600 spot="" logs="" delete="" resume=""

parse_flags "$@"
require name cluster project location
check_name
case "$submit" in
  kubectl | gcluster) needs gcloud "$submit" ;;
  *) refuse "--submit is kubectl or gcluster, not $submit" ;;
esac

kubectl=(kubectl --context "gke_${project}_${location}_${cluster}"
  --namespace "$namespace")
gcluster_flags=(--project "$project" --cluster "$cluster" --location "$location")
connect() {
  [ "$submit" = gcluster ] || run gcloud container clusters get-credentials "$cluster" \
    --location="$location" --project="$project"
}
delete_run() {
  if [ "$submit" = gcluster ]; then
    run gcluster job cancel "$name" "${gcluster_flags[@]}"
  else
    run "${kubectl[@]}" delete jobset "$name" --ignore-not-found --wait
  fi
}

if [ -n "$logs" ]; then
  connect
  if [ "$submit" = gcluster ]; then
    run gcluster job logs "$name" --follow "${gcluster_flags[@]}"
  else # of process 0, which writes the run's log
    run "${kubectl[@]}" logs --follow --tail=200 --container=gru-mem --selector \
      "jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
  fi
  exit
fi
if [ -n "$delete" ]; then
  connect
  delete_run
  [ "$submit" = gcluster ] \
    || run "${kubectl[@]}" delete secret "$name-env" --ignore-not-found
  exit
fi

require topology image run_dir
read_topology
check_words
check_env_file
case "$run_dir,$data" in
  gs://*,gs://* | gs://*,) ;;
  *) refuse "--run_dir and --data begin with gs://: pods keep no files" ;;
esac
[[ $max_restarts$grace_seconds =~ ^[0-9]+$ ]] \
  || refuse "--max_restarts and --grace_seconds are numbers"
words+=(--run_dir "$run_dir")
[ "$hosts" = 1 ] || words+=(--distributed)
[ "$submit" = kubectl ] || [ -z "$env_file" ] \
  || refuse "gcluster passes no secrets: use --submit kubectl"
connect
[ -z "$resume" ] || delete_run

if [ "$submit" = gcluster ]; then
  more=()
  [ -z "$data" ] || more+=(--mount "$data:/data:ro")
  [ -z "$service_account" ] || more+=(--service-account "$service_account")
  [ -z "$spot" ] || more+=(--node-constraint cloud.google.com/gke-spot=true)
  command="/opt/gru_mem/launch/docker/entrypoint.sh $(quoted "${words[@]}")"
  run gcluster job submit --name "$name" "${gcluster_flags[@]}" --image "$image" \
    --command "$command" --compute-type "$machine" --topology "$shape" \
    --restarts "$max_restarts" --grace-period "${grace_seconds}s" ${more[@]+"${more[@]}"}
  exit
fi

# A JSON string, which is YAML too.
json() {
  local text="$1"
  text="${text//\\/\\\\}" text="${text//\"/\\\"}"
  text="${text//$'\n'/\\n}" text="${text//$'\t'/\\t}"
  printf '"%s"' "$text"
}

# The words as lines of a YAML list. Kubernetes reads $(NAME) in them, and $$ as $.
word_lines() {
  local word
  for word in "${words[@]}"; do
    printf '                - %s\n' "$(json "${word//\$/\$\$}")"
  done
}

# Lines of the manifest that some runs need; each begins with a line break.
selector="" account="" secret="" mounts="" volumes="" annotations=""
[ -z "$spot" ] || selector=$'\n                cloud.google.com/gke-spot: "true"'
[ -z "$service_account" ] \
  || account=$'\n              serviceAccountName: '"$(json "$service_account")"
[ -z "$env_file" ] || secret="
                envFrom:
                - secretRef:
                    name: $name-env"
if [ -n "$data" ]; then
  IFS=/ read -r bucket folder <<<"${data#gs://}"
  annotations=$'\n              annotations:\n                gke-gcsfuse/volumes: "true"'
  mounts=$'\n                - name: data\n                  mountPath: /data
                  readOnly: true'
  volumes="
              - name: data
                csi:
                  driver: gcsfuse.csi.storage.gke.io
                  readOnly: true
                  volumeAttributes:
                    bucketName: $(json "$bucket")
                    mountOptions: $(json "implicit-dirs${folder:+,only-dir=$folder}")"
fi
case "$kind" in
  v5e) accelerator=tpu-v5-lite-podslice ;;
  tpu7x) accelerator=tpu7x ;;
  *) accelerator="tpu-$kind-slice" ;;
esac

manifest="$(cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "$name"
  annotations: # one job has a slice for itself
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
      - name: badInput # would be refused again
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts # one pod a host
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0 # one pod that fails ends all; the JobSet starts them again
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: # usage or input
                  containerName: gru-mem
                  operator: In
                  values: [2]
          template:
            metadata:
              labels:
                app.kubernetes.io/name: gru-mem$annotations
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace_seconds$account
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $shape$selector
              containers:
              - name: gru-mem
                image: $(json "$image")
                args:
$(word_lines)$secret
                securityContext: # the TPU's device files belong to root
                  privileged: true
                  runAsUser: 0
                resources:
                  limits:
                    google.com/tpu: $chips_per_host
                volumeMounts:
                - name: shared-memory
                  mountPath: /dev/shm$mounts
              volumes:
              - name: shared-memory
                emptyDir:
                  medium: Memory$volumes
YAML
)"

if [ -n "$env_file" ]; then # kubectl reads the file; its text is on no command line
  if [ -n "$dry_run" ]; then
    printf '%s | %s\n' "$(quoted "${kubectl[@]}" create secret generic "$name-env" \
      --from-env-file="$env_file" --dry-run=client --output=yaml)" \
      "$(quoted "${kubectl[@]}" apply --filename=-)"
  else
    "${kubectl[@]}" create secret generic "$name-env" --from-env-file="$env_file" \
      --dry-run=client --output=yaml | "${kubectl[@]}" apply --filename=-
  fi
fi
run_with "$manifest" "${kubectl[@]}" create --filename=-
