#!/usr/bin/env bash
# A TPU7x slice as a managed instance group of Compute Engine. See README.md.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
start "create setup doctor train status delete" \
  "CONFIG WORKDIR MIG_MACHINE_TYPE MIG_TOPOLOGY MIG_IMAGE_FAMILY MIG_IMAGE_PROJECT MIG_DISK_GB" "$@"
[[ ${setting[CAPACITY]} != reserved ]] || require RESERVATION
check_value MIG_MACHINE_TYPE '-[0-9]+t$' "a machine type that ends with its chips, such as tpu7x-standard-4t"

name=${setting[NAME]}
project=("--project=${setting[PROJECT]}")
region=("${project[@]}" "--region=${setting[ZONE]%-*}")
zone=("${project[@]}" "--zone=${setting[ZONE]}")
groups=(gcloud compute instance-groups managed)
list_vms=("${groups[@]}" list-instances "$name" "${zone[@]}" --format='value(instance.basename())')
chips_per_vm=${setting[MIG_MACHINE_TYPE]##*-}
vms=$((${setting[MIG_TOPOLOGY]//x/*} / ${chips_per_vm%t}))
((vms * ${chips_per_vm%t} == ${setting[MIG_TOPOLOGY]//x/*})) \
  || fail "MIG_TOPOLOGY ${setting[MIG_TOPOLOGY]} is not a multiple of the ${chips_per_vm%t} chips of ${setting[MIG_MACHINE_TYPE]}"

# Three resources: the placement of the VMs, their template, and the group that makes them at once.
create() {
  local template=("${project[@]}" "--machine-type=${setting[MIG_MACHINE_TYPE]}"
    --maintenance-policy=TERMINATE --scopes=cloud-platform
    "--image-family=${setting[MIG_IMAGE_FAMILY]}" "--image-project=${setting[MIG_IMAGE_PROJECT]}"
    "--boot-disk-size=${setting[MIG_DISK_GB]}GB" --boot-disk-type=hyperdisk-balanced)
  local group=("${zone[@]}" "--template=$name" "--size=$vms" --target-size-policy-mode=bulk
    --default-action-on-vm-failure=do-nothing)
  case ${setting[CAPACITY]} in
    spot) template+=(--provisioning-model=SPOT --instance-termination-action=STOP) ;;
    flex-start)
      require RUN_HOURS
      template+=(--provisioning-model=FLEX_START "--max-run-duration=${setting[RUN_HOURS]}h"
        --instance-termination-action=DELETE --reservation-affinity=none)
      ;;
    reserved)
      template+=(--provisioning-model=RESERVATION_BOUND --instance-termination-action=DELETE
        --reservation-affinity=specific "--reservation=${setting[RESERVATION]}")
      ;;
  esac
  [[ -z ${setting[DATA_DISK]-} ]] \
    || template+=("--disk=name=${setting[DATA_DISK]##*/},device-name=persistent-disk-1,mode=ro,auto-delete=no")
  if ((vms > 1)); then
    run gcloud compute resource-policies create workload-policy "$name" "${region[@]}" \
      --type=HIGH_THROUGHPUT --accelerator-topology="${setting[MIG_TOPOLOGY]}"
    group+=("--workload-policy=projects/${setting[PROJECT]}/regions/${setting[ZONE]%-*}/resourcePolicies/$name")
  fi
  run gcloud compute instance-templates create "$name" "${template[@]}"
  run "${groups[@]}" create "$name" "${group[@]}"
  run "${groups[@]}" wait-until "$name" --stable "${zone[@]}"
}

# Continues after an error, so that no remaining resource costs money unnoticed.
delete() {
  local code=0
  run "${groups[@]}" delete "$name" "${zone[@]}" --quiet || code=1
  run gcloud compute instance-templates delete "$name" "${project[@]}" --quiet || code=1
  if ((vms > 1)); then
    run gcloud compute resource-policies delete "$name" "${region[@]}" --quiet || code=1
  fi
  return "$code"
}

# on_each COMMAND…: once for every VM at the same time; VM_NAME in the words stands for its name.
on_each() {
  local line vm jobs=() code=0
  if [[ $dry_run == yes ]]; then
    line=$(quote "$@")
    # shellcheck disable=SC2016 # printed for another shell
    printf 'for vm in $(%s); do %s & done; wait\n' "$(quote "${list_vms[@]}")" "${line//VM_NAME/'"$vm"'}"
    return
  fi
  while IFS= read -r vm; do
    run "${@//VM_NAME/$vm}" </dev/null &
    jobs+=($!)
  done < <("${list_vms[@]}")
  ((${#jobs[@]} == vms)) || say "warning: only ${#jobs[@]} of $vms VMs exist"
  for vm in "${jobs[@]}"; do
    wait "$vm" || code=1
  done
  return "$code"
}

to_workers() {
  on_each gcloud compute scp "$1" "VM_NAME:${1##*/}" "${zone[@]}" --quiet
}

on_workers() {
  on_each gcloud compute ssh VM_NAME "${zone[@]}" --quiet --ssh-flag=-oConnectTimeout=30 \
    --ssh-flag=-oServerAliveInterval=15 --command="$1"
}

case $verb in
  create | delete) "$verb" ;;
  setup) setup_workers ;;
  doctor) doctor_workers ;;
  train) train_workers ;;
  status)
    run "${groups[@]}" list-instances "$name" "${zone[@]}"
    status_workers
    ;;
esac
