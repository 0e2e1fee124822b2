"""`dino-jax plan` as a user starts it; with the real TPU compiler if it is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from dino_jax.plan.__main__ import main
from dino_jax.plan.kernels import Kernel, UncountedError, count_cycles
from tests.run_train import QUICKSTART, ROOT, SMALL, overrides

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed: pip install -e '.[tpu]'",
)


@pytest.fixture
def refuse(capfd, monkeypatch):
    """Checks that a command line ends with exit code 2 and one line, which has these words."""
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    monkeypatch.chdir(ROOT)

    def refuse(arguments, words):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        out, err = capfd.readouterr()
        assert (stopped.value.code, out) == (2, "")
        assert err.startswith("error: ") and words in err
        assert err.count("\n") == 1

    return refuse


def plan(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    command = [sys.executable, "-m", "dino_jax.plan", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([QUICKSTART], "missing --topology; a command looks like dino-jax plan --config"),
        (["--topology=v5e:2x2"], "missing --config"),
        ([QUICKSTART, "--topology=v5e"], "'v5e' is not a slice; a slice is a chip and its shape"),
        ([QUICKSTART, "--topology=h100:8x8"], "unknown chip 'h100'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, words, refuse):
    refuse(arguments, words)


@needs_libtpu
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v5e:4x5"], "libtpu knows no slice 'v5e:4x5'"),
        (["--topology=v5e:2x2", "--config.batch_size=18"], "(18) must be a multiple of 4 = 4 dev"),
        (["--topology=v5e:2x2", "--config.runtime.fsdp=3"], "(3) must divide the 4 devices"),
        (["--topology=v5e:2x2", "--images=10"], "is larger than the data set (10 images)"),
    ],
)
def test_what_does_not_fit_the_slice_is_one_line_and_exit_code_2(arguments, words, refuse):
    refuse([QUICKSTART, *arguments], words)


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "tokens"),
    [("attention_branch", 17), ("splash_mha_fwd_segmented_no_residuals", 600)],
)
def test_the_cycles_of_a_kernel_grow_with_its_crops(name, tokens):
    few, many = (
        count_cycles(Kernel(name, crops, tokens, 128, 512, 2), "v5e:2x2") for crops in (32, 64)
    )
    assert few > 1000 and many / few == pytest.approx(2, rel=0.05)


@needs_libtpu
def test_a_kernel_that_does_not_compile_is_said():
    with pytest.raises(UncountedError, match="mlp_branch does not compile alone: "):
        count_cycles(Kernel("mlp_branch", 8, 17, 100, 512, 3), "v5e:none")


@needs_libtpu
def test_a_small_vit_is_planned_by_the_real_compiler():
    finished = plan(
        QUICKSTART,
        "--topology=v5e:2x2",
        "--images=1438",
        "--nosearch",
        "--json",
        *overrides(SMALL),
    )
    assert finished.returncode == 0, finished.stderr
    (found,) = json.loads(finished.stdout)
    assert (found["chips"], found["hosts"], found["batch_size"]) == (4, 1, SMALL["batch_size"])
    assert found["fits"] and found["state_bytes"] < found["memory_bytes"] < 2**30
    cost, bounds = found["program"], found["bounds"]
    assert set(cost["collectives"]) == {"all-reduce"}
    assert cost["endless"] == cost["kernels"] == 0
    # Four chips share the model's FLOPs; the compiler may compute a little twice, or save it.
    expected = found["model_flops_per_image"] * SMALL["batch_size"] / 4
    assert 0.8 < cost["flops"] / expected < 1.3
    assert bounds["step"] == max(bounds["compute"], bounds["memory"], bounds["network"]) > 0
    assert "not measurements" in found["bounds_are"]
