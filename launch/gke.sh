#!/usr/bin/env bash
# A TPU slice of a GKE cluster, through xpk. See README.md.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
start "create setup train status delete" \
  "ACCELERATOR_TYPE CONFIG WORKDIR MAX_RESTARTS GKE_CLUSTER GKE_IMAGE" "$@"
[[ ${setting[CAPACITY]} != reserved ]] || require RESERVATION

commit=$(resolve_commit)
cluster=("--cluster=${setting[GKE_CLUSTER]}" "--project=${setting[PROJECT]}" "--zone=${setting[ZONE]}")
pods=(--selector="jobset.sigs.k8s.io/jobset-name=${setting[NAME]}")
slices=${setting[SLICES]:-1}
case ${setting[CAPACITY]} in
  reserved) capacity=--reservation=${setting[RESERVATION]} ;;
  flex-start) capacity=--flex ;; # xpk installs Kueue, whose queue asks the Dynamic Workload Scheduler
  *) capacity=--${setting[CAPACITY]} ;;
esac

# An image with the code and its packages, built by Cloud Build, tagged with the commit.
setup() {
  local folder="${TMPDIR:-/tmp}/dino_jax-$commit"
  run rm -rf "$folder"
  if [[ -n ${setting[GIT_URL]-} ]]; then
    run git clone --quiet "${setting[GIT_URL]}" "$folder"
    run git -C "$folder" checkout --quiet "$commit"
  else
    run mkdir -p "$folder"
    pack_code "$commit" "$folder.tar.gz"
    run tar -xzf "$folder.tar.gz" -C "$folder"
  fi
  run cp "$LAUNCH/Dockerfile" "$folder/Dockerfile"
  run gcloud builds submit "$folder" --project="${setting[PROJECT]}" --tag="${setting[GKE_IMAGE]}:$commit"
}

# xpk restarts after 42 and 127 to 255 (a lost node) and what is added here; 1 and 2 end the
# workload. Of several slices, GKE tells each pod its own in MEGASCALE variables, which jax reads.
# `exec`: the SIGTERM that announces an end must reach Python.
train() {
  run xpk workload create --workload="${setting[NAME]}" "${cluster[@]}" \
    --tpu-type="${setting[ACCELERATOR_TYPE]}" "--num-slices=$slices" --docker-image="${setting[GKE_IMAGE]}:$commit" \
    --max-restarts="${setting[MAX_RESTARTS]}" --restart-on-exit-codes=75 \
    --termination-grace-period-seconds=300 \
    --command="exec python -m dino_jax.train --distributed $(train_options)"
}

status() {
  run xpk workload list "${cluster[@]}" --filter-by-job="${setting[NAME]}"
  run kubectl get pods "${pods[@]}" \
    --output='custom-columns=POD:.metadata.name,PHASE:.status.phase,EXIT:.status.containerStatuses[0].state.terminated.exitCode'
  run kubectl logs "${pods[@]}" --prefix --tail=3
}

case $verb in
  create)
    run xpk cluster create "${cluster[@]}" --tpu-type="${setting[ACCELERATOR_TYPE]}" "--num-slices=$slices" \
      "$capacity"
    ;;
  setup | train | status) "$verb" ;;
  delete)
    run xpk workload delete --workload="${setting[NAME]}" "${cluster[@]}" --force \
      || say "no workload ${setting[NAME]} was deleted"
    run xpk cluster delete "${cluster[@]}"
    ;;
esac
