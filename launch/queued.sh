#!/usr/bin/env bash
# A TPU slice as soon as there is one, through queued resources; `run` does everything and starts
# over after a preemption, until the training is done. See README.md.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
start "create setup doctor train status delete run" \
  "ACCELERATOR_TYPE RUNTIME_VERSION CONFIG WORKDIR POLL_SECONDS MAX_RESTARTS" "$@"
# shellcheck source=launch/tpu_workers.sh
source "$LAUNCH/tpu_workers.sh"

readonly MAX_FAILURES=20 # calls of gcloud in a row
queue=(gcloud compute tpus queued-resources)
# shellcheck disable=SC2016 # the VM expands it
state_command="$REMOTE state"' 2>/dev/null || echo "dino_jax_state $(hostname) absent"'
restarts=0 failures=0 refusals=0 # what `keep_going` has counted so far

create() {
  local make=("${queue[@]}")
  # Only the alpha commands know a provisioning model.
  [[ ${setting[CAPACITY]} != flex-start ]] || make=(gcloud alpha "${queue[@]:1}")
  run "${make[@]}" create "${setting[NAME]}" --node-id="${setting[NAME]}" "${slice_options[@]}" \
    --runtime-version="${setting[RUNTIME_VERSION]}"
}

describe() {
  run "${queue[@]}" describe "${setting[NAME]}" "${location[@]}" --format='value(state.state)'
}

delete() {
  run "${queue[@]}" delete "${setting[NAME]}" "${location[@]}" --force --quiet
}

# WAITING_FOR_RESOURCES, ACTIVE, SUSPENDED, …; ABSENT without a request, UNKNOWN without an answer.
queue_state() {
  local answer errors
  errors=$(mktemp)
  if answer=$(describe 2>"$errors"); then
    printf '%s' "$answer"
  elif grep -q NOT_FOUND "$errors"; then
    printf 'ABSENT'
  else
    cat "$errors" >&2
    printf 'UNKNOWN'
  fi
  rm -f "$errors"
}

# What to do about the states of all workers, lines of remote.sh on standard input. One worker that
# is told to stop ends the others, some with an error: so 75 comes before 1.
judge() {
  local states
  states=$(sed -n 's/^dino_jax_state [^ ]* //p')
  has() { grep -qx "$1" <<<"$states"; }
  if [[ -z $states ]]; then
    echo unreachable
  elif has absent; then
    echo absent
  elif has running; then
    echo running
  elif has 'exit 2'; then
    echo 'stop 2'
  elif has 'exit 75' || has lost; then
    echo again
  elif has 'exit 1'; then
    echo 'stop 1'
  elif has 'exit 130'; then
    echo 'stop 130'
  elif has ready; then
    echo ready
  elif [[ $(sort -u <<<"$states") == 'exit 0' ]]; then
    echo 'stop 0'
  else
    echo again # killed or crashed
  fi
}

run_state() {
  local answer
  if answer=$(on_workers "$state_command" 2>/dev/null); then
    judge <<<"$answer"
  else
    echo unreachable
  fi
}

# Counts failures that are tolerated for a while.
note_failure() {
  failures=$((failures + 1))
  ((failures < MAX_FAILURES)) || finish 1 "no success in $failures attempts: $1"
  say "attempt $failures of $MAX_FAILURES: $1"
}

note_restart() {
  restarts=$((restarts + 1))
  ((restarts <= setting[MAX_RESTARTS])) \
    || finish 1 "gave up after ${setting[MAX_RESTARTS]} restarts (MAX_RESTARTS): $1"
  say "restart $restarts of ${setting[MAX_RESTARTS]}: $1"
}

# The slice is active: takes the next step of the run.
attend_run() {
  local verdict
  verdict=$(run_state)
  case $verdict in
    unreachable) note_failure "the workers cannot be reached" ;;
    absent) attempt setup_workers ;;
    ready) attempt train_workers ;;
    running) failures=0 refusals=0 ;;
    again)
      note_restart "the workers have stopped"
      attempt train_workers
      ;;
    'stop 0') finish 0 "the training is done" ;;
    stop*)
      # A host that is preempted takes the others with it before the queue says so: look twice.
      refusals=$((refusals + 1))
      ((refusals < 2)) || finish "${verdict#stop }" "the training ended with exit code ${verdict#stop }"
      ;;
  esac
}

attempt() {
  if "$@"; then failures=0; else note_failure "$1 has failed"; fi
}

finish() {
  say "$2"
  if (($1 == 0)); then
    delete
  else
    status_workers || true
    say "The slice, if there is one, costs money until: launch/queued.sh delete"
  fi
  exit "$1"
}

keep_going() {
  local state last=""
  while true; do
    state=$(queue_state)
    [[ $state == "$last" ]] || say "$(date -u +%FT%TZ) request ${setting[NAME]}: $state"
    last=$state
    case $state in
      ABSENT) attempt create ;;
      ACTIVE) attend_run ;;
      SUSPENDED | FAILED)
        refusals=0
        note_restart "the request is $state"
        attempt delete
        ;;
      UNKNOWN) note_failure "no answer about the request" ;;
    esac
    sleep "${setting[POLL_SECONDS]}"
  done
}

# The commands of `keep_going`, as a script with comments.
show_keep_going() {
  echo "# 1. unless there is a request already:"
  create
  echo "# 2. every ${setting[POLL_SECONDS]} s, until it says ACTIVE:"
  describe
  echo "# 3. when the workers are new:"
  setup_workers
  echo "# 4. when no run is in progress:"
  train_workers
  echo "# 5. every ${setting[POLL_SECONDS]} s, after describe; 4. again after exit code 75 or a crash:"
  on_workers "$state_command"
  echo "# 6. when describe says SUSPENDED or FAILED; then 1. again, at most ${setting[MAX_RESTARTS]} times:"
  delete
  echo "# 7. when every worker says exit 0:"
  delete
}

case $verb in
  create | delete) "$verb" ;;
  setup) setup_workers ;;
  doctor) doctor_workers ;;
  train) train_workers ;;
  status)
    describe
    status_workers
    ;;
  run) if [[ $dry_run == yes ]]; then show_keep_going; else keep_going; fi ;;
esac
