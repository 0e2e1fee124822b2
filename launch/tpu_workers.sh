# shellcheck shell=bash
# Read after `start`, by tpu_vm.sh and queued.sh: slices of the Cloud TPU API, where one command
# reaches all VMs.

location=("--project=${setting[PROJECT]}" "--zone=${setting[ZONE]}")
slice_options=("${location[@]}" "--accelerator-type=${setting[ACCELERATOR_TYPE]}")
case ${setting[CAPACITY]} in
  on-demand) ;;
  flex-start)
    require RUN_HOURS
    slice_options+=(--provisioning-model=flex-start "--max-run-duration=${setting[RUN_HOURS]}h")
    ;;
  *) slice_options+=("--${setting[CAPACITY]}") ;;
esac
[[ -z ${setting[DATA_DISK]-} ]] \
  || slice_options+=("--data-disk=source=${setting[DATA_DISK]},mode=read-only")

to_workers() {
  run gcloud compute tpus tpu-vm scp "$1" "${setting[NAME]}:${1##*/}" --worker=all \
    "${location[@]}" --quiet
}

# The ssh flags: a connection to a VM that has just been preempted must not hang for ever.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "${setting[NAME]}" --worker=all "${location[@]}" --quiet \
    --ssh-flag=-oConnectTimeout=30 --ssh-flag=-oServerAliveInterval=15 --command="$1"
}
