"""Wrong arguments and settings end the launch scripts with one clear error and exit code 2."""

import shutil

import pytest

from tests.launch.fake_cloud import SCRIPTS

WRONG_ARGUMENTS = [
    ((), "a verb is missing"),
    (("start",), "unknown verb 'start'"),
    (("create", "--dryrun"), "unexpected '--dryrun'"),
    (("create", "--config.seed=1"), "unexpected '--config.seed=1'"),
    (("create", "--", "--config.seed=1"), "create takes no options"),
    (("train", "--", "config.seed=1"), "looks like --config.batch_size=512, got 'config.seed=1'"),
    (("train", "--", "--config.note=a\nb"), "looks like --config.batch_size=512"),
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("arguments", "message"), WRONG_ARGUMENTS)
def test_wrong_arguments_end_with_one_clear_error(cloud, script, arguments, message):
    path = str(cloud.checkout / f"launch/{script}.sh")
    done = cloud.launch(script, *arguments) if arguments else cloud.bash(path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert cloud.calls() == []


WRONG_SETTINGS = [
    ({"ZONE": None, "NAME": ""}, (), "missing or empty: ZONE NAME"),
    ({}, ("ZONES=a",), "unknown setting ZONES; known: PROJECT ZONE"),
    ({}, ("ZONE=us-east5-b",), "ZONE is set twice"),
    ({}, ("what is this",), "expected NAME=value, got 'what is this'"),
    ({"PROJECT": '"my-project"'}, (), "write the value of PROJECT without quotes"),
    ({"CAPACITY": "cheap"}, (), "CAPACITY must be on-demand, spot, reserved or flex-start, got"),
    ({"ZONE": "us-east5"}, (), "ZONE must be a zone such as us-east5-a, got 'us-east5'"),
    ({"NAME": "My_run"}, (), "NAME must be up to 40 of a-z, 0-9 and -"),
    ({"WORKDIR": "/home/me/run"}, (), "WORKDIR must be gs://BUCKET/FOLDER"),
    ({"RUN_HOURS": "169"}, (), "RUN_HOURS must be hours from 1 to 168, got '169'"),
    ({"SLICES": "0"}, (), "SLICES must be a whole number of slices, got '0'"),
    ({"CAPACITY": "flex-start"}, (), "missing or empty: RUN_HOURS"),
    ({"POLL_SECONDS": "1m"}, (), "POLL_SECONDS must be a number of seconds, got '1m'"),
    ({"MAX_RESTARTS": "-1"}, (), "MAX_RESTARTS must be a whole number, got '-1'"),
    ({"MIG_TOPOLOGY": "4x4"}, (), "MIG_TOPOLOGY must be chips as AxBxC"),
    ({"CONFIG": "configs/none.py"}, (), "CONFIG 'configs/none.py' is not a file in"),
    ({}, ("GIT_URL=https://host/x.git",), "missing or empty: GIT_COMMIT"),
    ({}, ("FLAG=config.seed=1",), "got 'config.seed=1'"),
]


@pytest.mark.parametrize(("changes", "lines", "message"), WRONG_SETTINGS)
def test_wrong_settings_end_with_one_clear_error(cloud, changes, lines, message):
    cloud.set(*lines, **changes)
    done = cloud.launch("queued", "create")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("script", "changes", "message"),
    [
        ("tpu_vm", {"RUNTIME_VERSION": ""}, "missing or empty: RUNTIME_VERSION"),
        ("tpu_vm", {"CAPACITY": "flex-start"}, "flex-start waits in a queue: use queued.sh"),
        ("mig", {"CAPACITY": "flex-start"}, "missing or empty: RUN_HOURS"),
        ("gke", {"GKE_CLUSTER": ""}, "missing or empty: GKE_CLUSTER"),
        ("gke", {"CAPACITY": "reserved"}, "missing or empty: RESERVATION"),
        ("mig", {"CAPACITY": "reserved"}, "missing or empty: RESERVATION"),
        ("mig", {"MIG_MACHINE_TYPE": "n2-standard"}, "a machine type that ends with its chips"),
        ("mig", {"MIG_TOPOLOGY": "1x1x6"}, "MIG_TOPOLOGY 1x1x6 is not a multiple of the 4 chips"),
    ],
)
def test_each_script_asks_for_its_own_settings(cloud, script, changes, message):
    cloud.set(**changes)
    done = cloud.launch(script, "create")
    assert (done.returncode, cloud.calls()) == (2, [])
    assert message in done.stderr


def test_missing_settings_are_an_error_that_says_how_to_make_them(cloud):
    done = cloud.bash(str(cloud.checkout / "launch/tpu_vm.sh"), "create")
    assert done.returncode == 2
    assert "make one: cp" in done.stderr and "settings.example" in done.stderr


def test_a_checkout_without_commits_is_an_error(cloud):
    shutil.rmtree(cloud.checkout / ".git")
    for script in SCRIPTS:
        done = cloud.launch(script, "setup")
        assert done.returncode == 2
        assert "set GIT_URL and GIT_COMMIT, or use a git checkout" in done.stderr
    assert cloud.calls() == []
