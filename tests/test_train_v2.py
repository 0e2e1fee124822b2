"""A DINOv2 run is the same on every mesh and in two processes; masks, Sinkhorn, KoLeo, subsets."""

import numpy as np
import pytest

from tests.run_train import (
    SMALL,
    close_state,
    overrides,
    read_metrics,
    run,
    run_processes,
    tolerance,
)

GROUP = 4  # images: what each of the four devices has of the batch
STEPS = 4


def arguments(workdir, **changes: object) -> list[str]:
    config = SMALL | {
        "epochs": STEPS / SMALL["steps_per_epoch"],
        "network.heads.ibot.out_dim": 128,
        "network.heads.ibot.hidden_dim": 64,
        "network.heads.ibot.bottleneck_dim": 16,
        # With 1e-5 all cls tokens are equal up to rounding at first, and KoLeo and the BatchNorm of
        # the head magnify the rounding.
        "network.backbone.layer_scale": 1.0,
        "network.backbone.drop_path_group": 2 * GROUP,
        "masking.group_size": GROUP,
        "objectives.koleo.group_size": GROUP,
    }
    config |= changes
    return ["--config=configs/digits_dinov2.py", f"--workdir={workdir}", *overrides(config)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    code, _, err = run(*arguments(workdir))
    assert (code, err) == (0, "")
    return workdir


def check_same(workdir, expected) -> None:
    ours, theirs = read_metrics(workdir), read_metrics(expected)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for mine, other in zip(ours, theirs, strict=True):
        assert {"dino/loss", "ibot/loss", "koleo/loss"} <= other.keys() == mine.keys()
        for name, value in other.items():
            np.testing.assert_allclose(mine[name], value, **tolerance(name), err_msg=name)
    close_state(workdir, expected)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_four_devices_equal_one(alone, tmp_path, fsdp):
    code, out, err = run(*arguments(tmp_path, **{"runtime.fsdp": fsdp}), devices=4)
    assert (code, err) == (0, "")
    assert f"mesh        data {4 // fsdp} x fsdp {fsdp} on 4 x cpu" in out
    check_same(tmp_path, alone)


def test_two_processes_equal_one(alone, tmp_path):
    first, second = run_processes(*arguments(tmp_path), processes=2, devices=2)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    check_same(tmp_path, alone)


def test_a_resnet_trains_and_is_evaluated(tmp_path):
    changes = SMALL | {"evaluations.knn.every_epochs": 2.0, "evaluations.knn.of": "('teacher',)"}
    for name in ("embed_dim", "depth", "drop_path_rate"):  # of a ViT
        del changes[f"network.backbone.{name}"]
    command = ["--config=configs/digits_resnet.py", f"--workdir={tmp_path}", *overrides(changes)]
    code, _, err = run(*command)
    assert (code, err) == (0, "")
    metrics = read_metrics(tmp_path)
    assert [line["step"] for line in metrics if "knn10/teacher" in line] == [0, 4, 8]
    assert all(np.isfinite(line["loss"]) for line in metrics[1:])
