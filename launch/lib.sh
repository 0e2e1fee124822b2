# shellcheck shell=bash
# Shared functions of the scripts in this folder, which `source` this file. A script calls
#
#   start "VERB …" "SETTING …" "$@"
#
# and then has `verb`, `dry_run`, `flags` (options for dino_jax.train) and `setting[NAME]`.

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
  echo "error: bash $BASH_VERSION is too old, 4.4 is needed (macOS: brew install bash)" >&2
  exit 2
}

readonly SETTINGS=(PROJECT ZONE NAME CAPACITY RESERVATION RUN_HOURS SLICES ACCELERATOR_TYPE RUNTIME_VERSION
  DATA_DISK CONFIG WORKDIR FLAG GIT_URL GIT_COMMIT POLL_SECONDS MAX_RESTARTS GKE_CLUSTER GKE_IMAGE
  MIG_MACHINE_TYPE MIG_TOPOLOGY MIG_IMAGE_FAMILY MIG_IMAGE_PROJECT MIG_DISK_GB)
LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly LAUNCH ROOT=${LAUNCH%/*}
# For the shell of a VM, in the home directory.
readonly REMOTE='bash dino_jax/code/launch/remote.sh'
readonly NEEDS_SETUP='test -e dino_jax/code || { echo "not set up: use the verb setup first" >&2; exit 1; }'
# shellcheck disable=SC2016 # the VM expands it
readonly REFUSE_DURING_A_RUN='if kill -0 "$(cat dino_jax/run/pid 2>/dev/null)" 2>/dev/null; then echo "a run is in progress: not replaced" >&2; exit 1; fi'
declare -A setting=()
declare -a flags=()
settings_file=$LAUNCH/settings
dry_run=no

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() {
  printf '%s\n' "$*" >&2
}

# The arguments as one line that a shell reads back unchanged.
quote() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# Runs a command, or prints it under --dry-run.
run() {
  if [[ $dry_run == yes ]]; then
    printf '%s\n' "$(quote "$@")"
  else
    say "+ $(quote "$@")"
    "$@"
  fi
}

# start VERBS REQUIRED_SETTINGS ARGUMENT…: reads the command line and the settings.
start() {
  local verbs=$1 required=$2
  shift 2
  parse_arguments "$verbs" "$@"
  read_settings
  # shellcheck disable=SC2086 # a list of names
  require PROJECT ZONE NAME CAPACITY $required
  check_settings
}

parse_arguments() {
  local verbs=$1 script=${0##*/}
  local usage="usage: launch/$script ${verbs// /|} [--settings=FILE] [--dry-run] [-- --config.a.b=value …]"
  shift
  if [[ ${1-} == --help || ${1-} == -h ]]; then
    printf '%s\n' "$usage; see launch/README.md"
    exit 0
  fi
  (($#)) || fail "a verb is missing; $usage"
  [[ " $verbs " == *" $1 "* ]] || fail "unknown verb '$1'; $usage"
  verb=$1
  shift
  while (($#)); do
    case $1 in
      --dry-run) dry_run=yes ;;
      --settings=*) settings_file=${1#*=} ;;
      --)
        [[ $verb =~ ^(train|run|doctor)$ ]] || fail "$verb takes no options of dino_jax.train; $usage"
        shift
        flags=("$@")
        return
        ;;
      *) fail "unexpected '$1'; $usage" ;;
    esac
    shift
  done
}

# Reads NAME=value lines; FLAG may occur several times and comes before those of the command line.
read_settings() {
  local line name value number=0 from_file=()
  [[ -f $settings_file ]] \
    || fail "no settings file $settings_file; make one: cp $LAUNCH/settings.example $LAUNCH/settings"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ $line =~ ^[[:space:]]*(#.*)?$ ]] && continue
    [[ $line =~ ^([A-Za-z_]+)=(.*)$ ]] || fail "$settings_file:$number: expected NAME=value, got '$line'"
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    value=${value%"${value##*[![:space:]]}"}
    [[ " ${SETTINGS[*]} " == *" $name "* ]] \
      || fail "$settings_file:$number: unknown setting $name; known: ${SETTINGS[*]}"
    if [[ $name == FLAG ]]; then
      from_file+=("$value")
      continue
    fi
    [[ $value != [\"\']* ]] || fail "$settings_file:$number: write the value of $name without quotes"
    [[ -z ${setting[$name]+set} ]] || fail "$settings_file:$number: $name is set twice"
    setting[$name]=$value
  done <"$settings_file"
  flags=("${from_file[@]}" "${flags[@]}")
}

require() {
  local name missing=()
  for name in "$@"; do
    [[ -n ${setting[$name]-} ]] || missing+=("$name")
  done
  ((${#missing[@]} == 0)) \
    || fail "$settings_file: missing or empty: ${missing[*]} (explained in launch/settings.example)"
}

# check_value NAME PATTERN MEANING: a setting that is there must match a regular expression.
check_value() {
  [[ -z ${setting[$1]-} || ${setting[$1]} =~ $2 ]] \
    || fail "$settings_file: $1 must be $3, got '${setting[$1]}'"
}

check_settings() {
  local flag
  check_value NAME '^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$' "up to 40 of a-z, 0-9 and -, starting with a letter"
  check_value ZONE '^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$' "a zone such as us-east5-a"
  check_value CAPACITY '^(on-demand|spot|reserved|flex-start)$' "on-demand, spot, reserved or flex-start"
  check_value RUN_HOURS '^([1-9][0-9]?|1[0-5][0-9]|16[0-8])$' "hours from 1 to 168"
  check_value SLICES '^[1-9][0-9]*$' "a whole number of slices"
  check_value WORKDIR '^gs://[^/]+/.+' "gs://BUCKET/FOLDER (the disk of a VM ends with the VM)"
  check_value POLL_SECONDS '^[0-9]+([.][0-9]+)?$' "a number of seconds"
  check_value MAX_RESTARTS '^[0-9]+$' "a whole number"
  check_value MIG_TOPOLOGY '^[1-9][0-9]*x[1-9][0-9]*x[1-9][0-9]*$' "chips as AxBxC, such as 2x2x2"
  check_value MIG_DISK_GB '^[1-9][0-9]*$' "a whole number of gigabytes"
  if [[ -n ${setting[GIT_URL]-} ]]; then
    require GIT_COMMIT
  else
    [[ -f $ROOT/${setting[CONFIG]-} ]] \
      || fail "$settings_file: CONFIG '${setting[CONFIG]}' is not a file in $ROOT"
  fi
  for flag in "${flags[@]}"; do
    [[ $flag == --* && $flag != *$'\n'* ]] \
      || fail "an option of dino_jax.train looks like --config.batch_size=512, got '$flag'"
  done
}

# The options of dino_jax.train as one quoted line.
train_options() {
  quote "--config=${setting[CONFIG]}" "--workdir=${setting[WORKDIR]}" "${flags[@]}"
}

# The commit that is launched: GIT_COMMIT, or the newest one of this checkout.
resolve_commit() {
  if [[ -n ${setting[GIT_URL]-} ]]; then
    printf '%s' "${setting[GIT_COMMIT]}"
  else
    git -C "$ROOT" rev-parse --verify --quiet "${setting[GIT_COMMIT]:-HEAD}^{commit}" \
      || fail "$ROOT has no commit '${setting[GIT_COMMIT]:-HEAD}'; set GIT_URL and GIT_COMMIT, or use a git checkout"
  fi
}

# pack_code COMMIT FILE: this checkout as a .tar.gz.
pack_code() {
  [[ -z $(git -C "$ROOT" status --porcelain) ]] \
    || say "note: uncommitted changes are not sent; commit $1 is sent"
  run git -C "$ROOT" archive --format=tar.gz --output="$2" "$1"
}

# setup_workers: code, Python and packages on every VM. Needs two functions of the script:
# `to_workers FILE` copies into the home directory, `on_workers COMMAND` runs in it, on all VMs.
setup_workers() {
  local commit file fetch
  commit=$(resolve_commit) || return
  if [[ -n ${setting[GIT_URL]-} ]]; then
    fetch="git clone --quiet $(quote "${setting[GIT_URL]}") dino_jax/code"
    fetch+=" && git -C dino_jax/code checkout --quiet $(quote "$commit")"
  else
    file="${TMPDIR:-/tmp}/dino_jax-$commit.tar.gz"
    pack_code "$commit" "$file" || return
    to_workers "$file" || return
    fetch="mkdir -p dino_jax/code && tar -xzf ${file##*/} -C dino_jax/code"
  fi
  on_workers "$REFUSE_DURING_A_RUN && rm -rf dino_jax/code && $fetch && $REMOTE setup${setting[DATA_DISK]:+ with-disk}"
}

train_workers() {
  on_workers "$NEEDS_SETUP; $REMOTE train $(train_options)"
}

doctor_workers() {
  on_workers "$NEEDS_SETUP; $REMOTE doctor $(train_options)"
}

status_workers() {
  on_workers "$NEEDS_SETUP; $REMOTE status"
}
