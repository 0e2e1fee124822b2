"""gcloud, xpk, kubectl and uv as a user's PATH would have them, but made of a few lines of bash."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ("gke", "mig", "queued", "tpu_vm")
BASH = shutil.which("bash")

# Answers `describe` and `remote.sh state` with the next line of a script, lists two VMs, and runs
# what `ssh` sends if there is a machine to run it on.
TOOL = r"""#!/usr/bin/env bash
set -euo pipefail
cd "$FAKE_CLOUD"
tool=${0##*/}
printf '%s\n' "$tool ${*@Q}" >>calls
next() {
  line=$(head -n 1 "$1")
  sed -i 1d "$1"
  [[ -n $line ]] || { echo "no more $1" >&2; exit 1; }
}
command=""
for word in "$@"; do [[ $word != --command=* ]] || command=${word#--command=}; done
case "$tool $*" in
  *queued-resources\ describe*)
    next queue_states
    case $line in
      ABSENT) echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1 ;;
      UNKNOWN) echo "ERROR: no network" >&2; exit 1 ;;
      *) echo "$line" ;;
    esac ;;
  *remote.sh\ state*)
    next run_states
    [[ $line != unreachable ]] || exit 255
    tr ',' '\n' <<<"$line" | sed 's/^/dino_jax_state vm /' ;;
  *list-instances*basename*) printf 'vm-a\nvm-b\n' ;;
  *tpu-vm\ scp*) [[ ! -d vm ]] || cp "$5" vm/ ;;
  *\ ssh\ *) [[ ! -d vm || -z $command ]] || (cd vm && HOME=$PWD bash -c "$command") ;;
esac
"""

# `uv venv` makes a Python that writes down its arguments and ends as the file exit_code says.
UV = r"""#!/usr/bin/env bash
set -euo pipefail
printf '%s\n' "uv ${*@Q}" >>"$FAKE_CLOUD/calls"
[[ $1 == venv ]] || exit 0
venv=${!#}
mkdir -p "$venv/bin"
cat >"$venv/bin/python" <<'PYTHON'
#!/usr/bin/env bash
trap 'exit 75' TERM
echo "step  5/10  loss 6.2  lr 0.001"
printf '%s\0' "$PWD" "$JAX_COORDINATOR_PORT" "$@" >"$FAKE_CLOUD/python.part"
mv "$FAKE_CLOUD/python.part" "$FAKE_CLOUD/python"
while [[ ! -e $FAKE_CLOUD/exit_code ]]; do sleep 0.02; done
exit "$(cat "$FAKE_CLOUD/exit_code")"
PYTHON
chmod +x "$venv/bin/python"
"""

SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-a",
    "NAME": "dino",
    "CAPACITY": "spot",
    "ACCELERATOR_TYPE": "v6e-16",
    "RUNTIME_VERSION": "v2-alpha-tpuv6e",
    "CONFIG": "configs/small.py",
    "WORKDIR": "gs://bucket/run",
    "POLL_SECONDS": "0.001",
    "MAX_RESTARTS": "3",
    "GKE_CLUSTER": "cluster",
    "GKE_IMAGE": "us-docker.pkg.dev/p/r/dino_jax",
    "MIG_MACHINE_TYPE": "tpu7x-standard-4t",
    "MIG_TOPOLOGY": "2x2x2",
    "MIG_IMAGE_FAMILY": "ubuntu",
    "MIG_IMAGE_PROJECT": "images",
    "MIG_DISK_GB": "200",
}


class Cloud:
    """A checkout with the launch scripts, settings, and fake tools that write down their calls."""

    def __init__(self, folder: Path):
        self.folder, self.checkout = folder, folder / "checkout"
        self.settings = folder / "settings"
        self._bin = folder / "bin"
        self._bin.mkdir(parents=True)
        for name in ("gcloud", "xpk", "kubectl", "uv"):
            path = self._bin / name
            path.write_text(UV if name == "uv" else TOOL)
            path.chmod(0o755)
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        (self.checkout / "configs").mkdir()
        (self.checkout / "configs/small.py").write_text("")
        git = ["git", "-C", str(self.checkout), "-c", "user.name=n", "-c", "user.email=e@x"]
        for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=c"]):
            subprocess.run([*git, *command], check=True)
        self.set()

    def set(self, *lines: str, **changes: str | None) -> None:
        """Writes the settings: SETTINGS with changes (None: left out) and further lines."""
        values = {**SETTINGS, **changes}
        text = [f"{name}={value}" for name, value in values.items() if value is not None]
        self.settings.write_text("\n".join([*text, *lines]) + "\n")

    def script(self, queue: list[str], runs: list[str] = ()) -> None:
        """What `describe` and `remote.sh state` will answer; "running,exit 1" is two workers."""
        (self.folder / "queue_states").write_text("\n".join(queue) + "\n")
        (self.folder / "run_states").write_text("\n".join(runs) + "\n")

    def launch(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs launch/SCRIPT.sh with the settings."""
        verb, *rest = arguments or ("",)
        path = self.checkout / f"launch/{script}.sh"
        return self.bash(str(path), *([verb] if verb else []), f"--settings={self.settings}", *rest)

    def bash(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "FAKE_CLOUD": str(self.folder),
            "TMPDIR": str(self.folder),
            "HOME": str(self.folder),
        }
        return subprocess.run(
            [BASH, *arguments], env=environment, capture_output=True, text=True, cwd=self.folder
        )

    def calls(self) -> list[list[str]]:
        """The words of each call since the last time this was asked."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [shlex.split(line) for line in lines]

    def actions(self) -> list[str]:
        """What the calls do, in short; looking is left out."""
        return [action for action in map(_action, self.calls()) if action]


def _action(words: list[str]) -> str | None:
    text = " ".join(words)
    for verb in ("create", "delete"):
        if f"queued-resources {verb}" in text:
            return verb
    for verb in ("setup", "train", "status"):
        if f"remote.sh {verb}" in text:
            return verb
    return "send" if " scp " in text else None
