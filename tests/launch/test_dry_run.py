"""What the launch scripts print and run, verb by verb, and the files themselves."""

import re
import shutil
import subprocess

import pytest

from tests.launch.fake_cloud import ROOT, SCRIPTS

FIRST_WORDS = {
    ("tpu_vm", "create"): "gcloud compute tpus tpu-vm create dino",
    ("tpu_vm", "setup"): "git -C",
    ("tpu_vm", "doctor"): "gcloud compute tpus tpu-vm ssh dino --worker=all",
    ("tpu_vm", "train"): "gcloud compute tpus tpu-vm ssh dino --worker=all",
    ("tpu_vm", "status"): "gcloud compute tpus tpu-vm describe dino",
    ("tpu_vm", "delete"): "gcloud compute tpus tpu-vm delete dino",
    ("queued", "create"): "gcloud compute tpus queued-resources create dino --node-id=dino",
    ("queued", "setup"): "git -C",
    ("queued", "doctor"): "gcloud compute tpus tpu-vm ssh dino --worker=all",
    ("queued", "train"): "gcloud compute tpus tpu-vm ssh dino --worker=all",
    ("queued", "status"): "gcloud compute tpus queued-resources describe dino",
    ("queued", "delete"): "gcloud compute tpus queued-resources delete dino",
    ("queued", "run"): "# 1. unless there is a request already",
    ("gke", "create"): "xpk cluster create --cluster=cluster",
    ("gke", "setup"): "rm -rf",
    ("gke", "train"): "xpk workload create --workload=dino --cluster=cluster",
    ("gke", "status"): "xpk workload list --cluster=cluster",
    ("gke", "delete"): "xpk workload delete --workload=dino",
    ("mig", "create"): "gcloud compute resource-policies create workload-policy dino",
    ("mig", "setup"): "git -C",
    ("mig", "doctor"): "for vm in $(gcloud compute instance-groups managed list-instances dino",
    ("mig", "train"): "for vm in $(gcloud compute instance-groups managed list-instances dino",
    ("mig", "status"): "gcloud compute instance-groups managed list-instances dino",
    ("mig", "delete"): "gcloud compute instance-groups managed delete dino",
}


@pytest.mark.parametrize(("script", "verb"), FIRST_WORDS)
def test_dry_run_calls_nothing_and_prints_exactly_what_would_run(cloud, script, verb):
    cloud.set(f'FLAG=--config.note=it\'s a "b" $HOME {script}')
    shown = cloud.launch(script, verb, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert cloud.calls() == []
    assert shown.stdout.startswith(FIRST_WORDS[script, verb])
    if verb == "run":
        return  # its branches depend on the answers, see below
    cloud.script(["ACTIVE"] * 2)
    assert cloud.bash("-c", shown.stdout).returncode == 0
    printed = cloud.calls()
    assert cloud.launch(script, verb).returncode == 0
    assert sorted(printed) == sorted(cloud.calls())
    assert printed


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_example_settings_name_every_setting_and_are_valid(cloud, script):
    example = ROOT / "launch/settings.example"
    known = re.search(r"SETTINGS=\((.*?)\)", (ROOT / "launch/lib.sh").read_text(), re.DOTALL)
    names = re.findall(r"^([A-Z_]+)=", example.read_text(), re.MULTILINE)
    assert set(names) == set(known[1].split())
    (cloud.checkout / "configs/vits16_vanilla.py").write_text("")
    path = str(cloud.checkout / f"launch/{script}.sh")
    shown = cloud.bash(path, "create", f"--settings={example}", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "my-project" in shown.stdout


CAPACITY = [
    ("tpu_vm", "spot", "--spot"),
    ("tpu_vm", "reserved", "--reserved"),
    ("queued", "spot", "--spot"),
    ("queued", "reserved", "--reserved"),
    ("gke", "on-demand", "--on-demand"),
    ("gke", "spot", "--spot"),
    ("gke", "reserved", "--reservation=mine"),
    ("queued", "flex-start", "--provisioning-model=flex-start"),
    ("queued", "flex-start", "--max-run-duration=5h"),
    ("gke", "flex-start", "--flex"),
    ("mig", "flex-start", "--provisioning-model=FLEX_START"),
    ("mig", "flex-start", "--max-run-duration=5h"),
    ("mig", "spot", "--provisioning-model=SPOT"),
    ("mig", "reserved", "--reservation=mine"),
]


@pytest.mark.parametrize(("script", "capacity", "option"), CAPACITY)
def test_capacity_is_asked_for_in_the_words_of_the_platform(cloud, script, capacity, option):
    cloud.set("RESERVATION=mine", "RUN_HOURS=5", CAPACITY=capacity)
    assert option in cloud.launch(script, "create", "--dry-run").stdout.split()


@pytest.mark.parametrize("script", ["tpu_vm", "queued"])
def test_on_demand_is_what_comes_without_an_option(cloud, script):
    cloud.set(CAPACITY="on-demand")
    words = cloud.launch(script, "create", "--dry-run").stdout.split()
    assert not {"--spot", "--reserved", "--on-demand"} & set(words)


@pytest.mark.parametrize(
    ("topology", "size", "policy"), [("2x2x1", 1, False), ("2x2x2", 2, True), ("4x4x4", 16, True)]
)
def test_a_group_has_the_vms_of_its_topology(cloud, topology, size, policy):
    cloud.set(MIG_TOPOLOGY=topology)
    shown = cloud.launch("mig", "create", "--dry-run").stdout
    assert f"--size={size} " in shown
    assert ("workload-policy" in shown) == policy
    assert ("resource-policies" in cloud.launch("mig", "delete", "--dry-run").stdout) == policy


def test_a_group_is_deleted_to_the_end_after_an_error(cloud):
    (cloud.folder / "bin/gcloud").write_text(
        '#!/bin/bash\necho "gcloud ${*@Q}" >>$FAKE_CLOUD/calls; exit 1'
    )
    assert cloud.launch("mig", "delete").returncode == 1
    assert [words[2] for words in cloud.calls()] == [
        "instance-groups",
        "instance-templates",
        "resource-policies",
    ]


def test_code_comes_from_a_repository_if_one_is_named(cloud):
    cloud.set("GIT_URL=https://host/a b.git", "GIT_COMMIT=abc123")
    for script in SCRIPTS:
        shown = cloud.launch(script, "setup", "--dry-run").stdout
        assert "git clone --quiet" in shown and "a b.git" in shown and "abc123" in shown
        assert " archive " not in shown and " scp " not in shown


def test_a_data_disk_is_attached_and_mounted(cloud):
    cloud.set("DATA_DISK=projects/p/zones/z/disks/images")
    for script in ("tpu_vm", "queued"):
        shown = cloud.launch(script, "create", "--dry-run").stdout
        assert "--data-disk=source=projects/p/zones/z/disks/images,mode=read-only" in shown
    assert "--disk=name=images," in cloud.launch("mig", "create", "--dry-run").stdout
    for script in ("tpu_vm", "queued", "mig"):
        assert "remote.sh setup with-disk'" in cloud.launch(script, "setup", "--dry-run").stdout


def test_gke_restarts_after_75_and_never_after_1_or_2(cloud):
    shown = cloud.launch("gke", "train", "--dry-run").stdout
    assert "--restart-on-exit-codes=75 " in shown and "--max-restarts=3 " in shown


@pytest.mark.parametrize(("lines", "slices"), [((), 1), (("SLICES=4",), 4)])
def test_gke_makes_and_uses_as_many_slices_as_asked_for(cloud, lines, slices):
    cloud.set(*lines)
    for verb in ("create", "train"):
        assert f"--num-slices={slices} " in cloud.launch("gke", verb, "--dry-run").stdout


def test_versions_are_pinned_to_one_jax_that_setup_py_allows():
    remote = (ROOT / "launch/remote.sh").read_text()
    image = (ROOT / "launch/Dockerfile").read_text()
    version = re.search(r"JAX_VERSION=([0-9.]+)", remote)[1]
    assert f'"jax[tpu]=={version}"' in image
    lower, upper = re.search(
        r'TPU = \["jax\[tpu\]>=([0-9.]+),<([0-9.]+)"\]', (ROOT / "setup.py").read_text()
    ).groups()
    as_numbers = [tuple(map(int, text.split("."))) for text in (lower, version, upper)]
    assert as_numbers == sorted(as_numbers) and as_numbers[1] != as_numbers[2]
    python = re.search(r"PYTHON_VERSION=([0-9.]+)", remote)[1]
    assert f"FROM python:{python}-" in image
    port = re.search(r"JAX_COORDINATOR_PORT=([0-9]+)", remote)[0]
    assert f"ENV {port}" in image


def test_every_script_stops_at_the_first_error():
    for script in (*SCRIPTS, "remote"):
        text = (ROOT / f"launch/{script}.sh").read_text()
        assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    files = sorted(str(path) for path in (ROOT / "launch").glob("*.sh"))
    assert len(files) == len(SCRIPTS) + 3
    done = subprocess.run(
        ["shellcheck", "--external-sources", *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
