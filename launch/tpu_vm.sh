#!/usr/bin/env bash
# A TPU slice at once or not at all, through gcloud compute tpus tpu-vm. See README.md.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
start "create setup doctor train status delete" "ACCELERATOR_TYPE RUNTIME_VERSION CONFIG WORKDIR" "$@"
[[ ${setting[CAPACITY]} != flex-start ]] || fail "flex-start waits in a queue: use queued.sh, mig.sh or gke.sh"
# shellcheck source=launch/tpu_workers.sh
source "$LAUNCH/tpu_workers.sh"

case $verb in
  create)
    run gcloud compute tpus tpu-vm create "${setting[NAME]}" "${slice_options[@]}" \
      --version="${setting[RUNTIME_VERSION]}"
    ;;
  setup) setup_workers ;;
  doctor) doctor_workers ;;
  train) train_workers ;;
  status)
    run gcloud compute tpus tpu-vm describe "${setting[NAME]}" "${location[@]}" --format='value(state)'
    status_workers
    ;;
  delete) run gcloud compute tpus tpu-vm delete "${setting[NAME]}" "${location[@]}" --quiet ;;
esac
