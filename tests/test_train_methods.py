"""SimCLR, BYOL, MoCo v3, SimDINO and MAE give the same losses in two processes as in one.

BYOL and MoCo v3 share one run, and SimCLR and SimDINO another, as in
tests/step/test_methods_on_meshes.py, which compares meshes of one process.
"""

import numpy as np
import pytest

from tests.run_train import SMALL, overrides, read_metrics, run, run_processes

STEPS = 4
QUIET = {name: value for name, value in SMALL.items() if name.startswith(("evaluat", "runtime"))}
# What a config file of each run says, and losses of it; relative differences are below 1e-5.
RUNS = {
    "apart": (
        "from tests.step.test_methods_on_meshes import apart as get_config",
        ("byol/loss", "mocov3/loss"),
    ),
    "together": (
        "from tests.step.test_methods_on_meshes import together as get_config",
        ("simclr/loss", "simdino/cosine", "simdino/coding_rate"),
    ),
    "mae": (
        "from configs.digits_mae import get_config",
        ("mae/loss",),
    ),
}
MAE = {
    "batch_size": 16,
    "masking.group_size": 4,
    "network.backbone.embed_dim": 24,
    "network.backbone.depth": 1,
    "network.heads.decoder.embed_dim": 16,
    "network.heads.decoder.depth": 1,
    "network.heads.decoder.num_heads": 2,
    "optimizer.adamw.eps": 1e-3,
}


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(name, tmp_path):
    line, losses = RUNS[name]
    (tmp_path / "config.py").write_text(line + "\n")
    changes = QUIET | {"steps_per_epoch": 1, "epochs": float(STEPS), "optimizer.warmup_epochs": 0.0}
    changes |= MAE if name == "mae" else {}
    command = [f"--config={tmp_path}/config.py", *overrides(changes)]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = run(*command, f"--workdir={one}")
    assert alone.code == 0, alone.err
    first, second = run_processes(*command, f"--workdir={two}", processes=2, devices=1)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    ours, theirs = read_metrics(two), read_metrics(one)
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    for mine, other in zip(ours, theirs, strict=True):
        for loss in losses:
            np.testing.assert_allclose(mine[loss], other[loss], rtol=1e-5, err_msg=loss)
    assert ours[0][losses[0]] != ours[-1][losses[0]]
