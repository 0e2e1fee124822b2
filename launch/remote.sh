#!/usr/bin/env bash
# Runs on a TPU VM, in its home directory: `bash dino_jax/code/launch/remote.sh VERB`, see main.
#
#   dino_jax/code     the checkout        dino_jax/run/train.log   all output of all starts
#   dino_jax/venv     Python, packages    dino_jax/run/pid         process group of the run
#   dino_jax/ready    setup succeeded     dino_jax/run/exit_code   of the last start, once it ended
set -euo pipefail

export JAX_COORDINATOR_PORT=8476
readonly PYTHON_VERSION=3.12 UV_VERSION=0.13.9 JAX_VERSION=0.10.2
FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly FOLDER RUN=$FOLDER/run
readonly DISK=/dev/disk/by-id/google-persistent-disk-1 MOUNT=/mnt/data

# An interpreter of our own: the one of the VM's image differs between TPU generations.
setup() {
  rm -f "$FOLDER/ready"
  [[ ${1-} != with-disk ]] || mount_disk
  install_uv
  uv venv --quiet --clear --python "$PYTHON_VERSION" "$FOLDER/venv"
  uv pip install --quiet --python "$FOLDER/venv/bin/python" \
    --editable "$FOLDER/code[tpu,gcs]" "jax[tpu]==$JAX_VERSION"
  touch "$FOLDER/ready"
  echo "$(hostname): ready"
}

install_uv() {
  export PATH=$HOME/.local/bin:$PATH
  command -v uv >/dev/null || curl -LsSf "https://astral.sh/uv/$UV_VERSION/install.sh" | sh
}

mount_disk() {
  mountpoint --quiet "$MOUNT" && return
  sudo mkdir -p "$MOUNT"
  sudo mount -o ro,noload "$DISK" "$MOUNT"
}

# Starts the run and returns: it continues when the ssh connection ends.
train() {
  if is_running; then
    echo "$(hostname): is already running"
    return
  fi
  [[ -e $FOLDER/ready ]] || { echo "$(hostname): not set up, run the verb setup first" >&2; exit 1; }
  mkdir -p "$RUN"
  rm -f "$RUN/exit_code"
  setsid nohup bash "$FOLDER/code/launch/remote.sh" supervise "$@" </dev/null >>"$RUN/train.log" 2>&1 &
  echo $! >"$RUN/pid"
  echo "$(hostname): started, log in $RUN/train.log"
}

# A SIGTERM for the whole group (the VM shuts down) stops Python, which saves; this shell stays
# to write down the exit code.
supervise() {
  local code=0
  printf '== %s %s: %s\n' "$(date -u +%FT%TZ)" "$(hostname)" "${*@Q}"
  trap : TERM INT
  cd "$FOLDER/code"
  "$FOLDER/venv/bin/python" -m dino_jax.train --distributed "$@" || code=$?
  echo "$code" >"$RUN/exit_code"
}

# On all hosts at once, in the foreground.
doctor() {
  cd "$FOLDER/code"
  "$FOLDER/venv/bin/python" -m dino_jax.doctor --distributed "$@"
}

is_running() {
  [[ ! -e $RUN/exit_code ]] && kill -0 "$(cat "$RUN/pid" 2>/dev/null)" 2>/dev/null
}

# One line for launch/queued.sh, which reads it.
state() {
  local now
  if is_running; then
    now=running
  elif [[ -s $RUN/exit_code ]]; then
    now="exit $(cat "$RUN/exit_code")"
  elif [[ ! -e $FOLDER/ready ]]; then
    now=absent
  elif [[ -e $RUN/pid ]]; then
    now=lost
  else
    now=ready
  fi
  echo "dino_jax_state $(hostname) $now"
}

status() {
  local now meaning
  now=$(state)
  case $now in
    *running) meaning="running" ;;
    *"exit 0") meaning="exit code 0: done" ;;
    *"exit 1") meaning="exit code 1: given up, see the log; the same command would end the same way" ;;
    *"exit 2") meaning="exit code 2: wrong usage, see the log" ;;
    *"exit 75") meaning="exit code 75: preempted, or another VM was lost; train continues" ;;
    *"exit 130") meaning="exit code 130: stopped and saved; train continues" ;;
    *exit*) meaning="exit code ${now##* }: died; train continues from the last checkpoint" ;;
    *lost) meaning="died without an exit code; train continues from the last checkpoint" ;;
    *ready) meaning="set up, never started: use train" ;;
    *) meaning="not set up: use setup" ;;
  esac
  echo "$(hostname): $meaning"
  if [[ -e $RUN/train.log ]]; then
    grep -a '^step ' "$RUN/train.log" | tail -n 1 | sed 's/^/    /' || true
    [[ $now == *running ]] || tail -n 5 "$RUN/train.log" | sed 's/^/    | /'
  fi
}

case ${1-} in
  setup | doctor | train | supervise | state | status) "$@" ;;
  *)
    echo "error: unknown verb '${1-}'; known: setup doctor train state status" >&2
    exit 2
    ;;
esac
