"""The loop of the queue, against a queue and workers that play scripted states."""

import pytest

NEW = ["create", "send", "setup"]
LOOP = {
    "a preemption re-queues and continues": (
        "ABSENT WAITING_FOR_RESOURCES PROVISIONING ACTIVE ACTIVE ACTIVE SUSPENDING SUSPENDED "
        "ABSENT WAITING_FOR_RESOURCES ACTIVE ACTIVE ACTIVE ACTIVE",
        ["absent", "ready", "running", "absent", "ready,ready", "running,running", "exit 0,exit 0"],
        [*NEW, "train", "delete", *NEW, "train", "delete"],
        0,
    ),
    "a failed request is made again": (
        "ABSENT FAILED ABSENT ACTIVE",
        ["exit 0"],
        ["create", "delete", "create", "delete"],
        0,
    ),
    "exit code 75 continues": (
        "ACTIVE ACTIVE ACTIVE",
        ["exit 75,exit 75", "running", "exit 0"],
        ["train", "delete"],
        0,
    ),
    "a worker that is told to stop may end the others with an error": (
        "ACTIVE ACTIVE",
        ["exit 1,exit 75", "exit 0"],
        ["train", "delete"],
        0,
    ),
    "a crash continues": (
        "ACTIVE ACTIVE ACTIVE ACTIVE",
        ["exit 137,exit 134", "lost,lost", "exit 0,exit 134", "exit 0"],
        ["train", "train", "train", "delete"],
        0,
    ),
    "as long as one worker runs it waits": (
        "ACTIVE ACTIVE ACTIVE",
        ["running,exit 75", "running,exit 1", "exit 0"],
        ["delete"],
        0,
    ),
    "exit code 1 ends it and keeps the slice": ("ACTIVE ACTIVE", ["exit 1"] * 2, ["status"], 1),
    "exit code 2 ends it and keeps the slice": (
        "ACTIVE ACTIVE",
        ["exit 2,exit 75"] * 2,
        ["status"],
        2,
    ),
    "Ctrl-C ends it and keeps the slice": ("ACTIVE ACTIVE", ["exit 130"] * 2, ["status"], 130),
    "exit code 1 just before a preemption counts as the preemption": (
        "ACTIVE SUSPENDED ABSENT ACTIVE ACTIVE",
        ["exit 1", "exit 1", "exit 0"],
        ["delete", "create", "delete"],
        0,
    ),
    "what cannot be reached for a while is asked again": (
        "UNKNOWN ACTIVE UNKNOWN ACTIVE ACTIVE",
        ["unreachable", "running", "exit 0"],
        ["delete"],
        0,
    ),
    "more restarts than MAX_RESTARTS end it": (
        "ACTIVE ACTIVE SUSPENDED FAILED",
        ["exit 75", "exit 75"],
        ["train", "train", "delete", "status"],
        1,
    ),
    "no answer at all ends it": ("UNKNOWN " * 20, [], ["status"], 1),
}


@pytest.mark.parametrize("story", LOOP)
def test_queue_loop(cloud, story):
    queue, runs, actions, code = LOOP[story]
    cloud.script(queue.split(), runs)
    done = cloud.launch("queued", "run", "--", "--config.seed=1")
    assert cloud.actions() == actions, done.stderr
    assert done.returncode == code
    assert ("costs money until" in done.stderr) == (code != 0)
    left = (cloud.folder / "queue_states").read_text() + (cloud.folder / "run_states").read_text()
    assert not left.strip(), "it ended too early"


def test_the_loop_resumes_with_the_same_command(cloud):
    cloud.script(["ACTIVE"] * 3, ["ready", "exit 75", "exit 0"])
    assert cloud.launch("queued", "run", "--", "--config.note=a  'b'").returncode == 0
    first, second = [call for call in cloud.calls() if "remote.sh train" in " ".join(call)]
    assert first == second
    assert "--workdir=gs://bucket/run" in " ".join(first)
