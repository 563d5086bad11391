#!/usr/bin/env bash
# Sourced by the scripts that start virtual machines: what a machine does when it starts.
# shellcheck disable=SC2154  # name, image, data, env_file, project, words: of the script

# startup_script LOG_DRIVER prints the script, which runs as root at each start of the
# machine, so that the run goes on after a repair. The container is started again where it
# ends with another status than 0; a run that has finished ends at once with status 0.
startup_script() {
  local log_driver="$1" options=()
  [ -z "$data" ] || options+=(--volume /data:/data:ro)
  [ -z "$env_file" ] || options+=(--env-file /run/gru_mem.env)
  cat <<SCRIPT
#!/bin/bash
set -euo pipefail
export HOME=/root
command -v docker >/dev/null || { apt-get update && apt-get install --yes docker.io; }
SCRIPT
  case "$image" in
    *.pkg.dev/*) quoted gcloud auth configure-docker "${image%%/*}" --quiet; echo ;;
  esac
  [ -z "$data" ] || {
    echo "mkdir -p /data"
    quoted gcloud storage rsync --recursive "${data%/}" /data
    echo
  }
  [ -z "$env_file" ] || {
    echo "umask 077 # the secrets: root's, in memory, on no command line"
    quoted gcloud secrets versions access latest --secret="$name-env" \
      --project="$project" --out-file=/run/gru_mem.env
    echo
  }
  quoted docker pull "$image"
  echo
  echo "docker rm --force $name 2>/dev/null || true"
  # The TPU's device files belong to root; the run needs the machine's network.
  quoted docker run --detach --name "$name" --restart on-failure --privileged --user 0 \
    --net host --shm-size 16g --log-driver "$log_driver" \
    ${options[@]+"${options[@]}"} "$image" "${words[@]}"
}

# store_secrets: --env_file becomes the secret NAME-env of Secret Manager.
store_secrets() {
  [ -z "$env_file" ] || run gcloud secrets create "$name-env" --project="$project" \
    --data-file="$env_file"
}

delete_secrets() {
  [ -z "$env_file" ] \
    || run gcloud secrets delete "$name-env" --project="$project" --quiet
}

# write_file NAME TEXT sets `written` to a file that holds TEXT; a dry run prints it.
write_file() {
  if [ -n "$dry_run" ]; then
    written="$1"
    printf "cat >%s <<'END'\n%s\nEND\n" "$written" "$2"
  else
    scratch="${scratch:-$(mktemp -d)}"
    trap 'rm -rf "$scratch"' EXIT
    written="$scratch/$1"
    printf '%s\n' "$2" >"$written"
  fi
}
