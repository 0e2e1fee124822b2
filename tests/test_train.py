"""Whole runs in processes of their own: resumed, killed, interrupted, distributed, disturbed."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from dino_jax.workdir.json_lines import read_json_lines
from tests.run_train import (
    FEWER,
    QUICKSTART,
    SMALL,
    STEPS,
    Train,
    checkpoint_steps,
    close_state,
    overrides,
    read_metrics,
    read_state,
    run,
    run_processes,
    tolerance,
)

KNN = {"evaluations.knn.every_epochs": 2.0, **FEWER}
KNN |= {"probes.count": 2, "probes.gallery": 40}
TWENTY = {"epochs": 10.0, "evaluations.knn.every_epochs": 5.0, "runtime.save_every_steps": 1000}
TWENTY |= {"runtime.save_every_minutes": 0.005}
# What jax' communication prints, pieces of several threads in any order.
GLOO = re.compile(
    r"\[Gloo\] Rank |is connected to|(Expected number of connected )?peer ranks( is :|\.)|\d|\s"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Arguments of the small run in a workdir, with changes of the config."""
    cache = tmp_path_factory.mktemp("compiled")

    def arguments(workdir: Path, **changes: object) -> list[str]:
        config = SMALL | KNN | {"runtime.compilation_cache": cache} | changes
        return [QUICKSTART, f"--workdir={workdir}", *overrides(config)]

    return arguments


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The run that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(*small(workdir))


@pytest.fixture(scope="module")
def twenty(small, tmp_path_factory):
    """The workdir of a run of twenty steps on one device."""
    workdir = tmp_path_factory.mktemp("twenty")
    assert run(*small(workdir, **TWENTY)).code == 0
    return workdir


@pytest.fixture(scope="module")
def killed(small, tmp_path_factory):
    """A run with workers that was killed after step 3, and its workdir at that moment."""
    workdir = tmp_path_factory.mktemp("killed")
    with Train(*small(workdir, **{"runtime.workers": 2})) as process:
        process.wait_for(f"step 4/{STEPS}")
        process.send(signal.SIGKILL)
        leftovers = process.leftovers()
        return workdir, process.finish(), leftovers


def same_metrics(workdir: Path, expected: Path) -> None:
    assert read_metrics(workdir) == read_metrics(expected)


def same_state(workdir: Path, expected: Path) -> None:
    ours, theirs = read_state(workdir), read_state(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def close_metrics(workdir: Path, expected: Path) -> None:
    """Equal up to float32 rounding."""
    ours, theirs = read_metrics(workdir), read_metrics(expected)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(mine[name], value, **tolerance(name), err_msg=name)


def test_a_run_prints_what_it_does_and_nothing_on_stderr(whole):
    workdir, (code, out, err) = whole
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "config.batch_size = 16 (command line; file has 64)" in lines
    assert "mesh        data 1 x fsdp 1 on 1 x cpu, 1 process(es)" in lines
    assert "data        1,438 images, digits" in lines
    assert "length      4 epochs x 2 steps = 8 steps of 16 images" in lines
    assert any("base 0.004 x batch 16 / 256 = 0.00025" in line for line in lines)
    assert f"workdir     {workdir}, new run" in lines
    first_step = next(i for i, line in enumerate(lines) if line.startswith("step 1/8  loss"))
    before = "\n".join(lines[:first_step])
    for name in ("raw_pixels", "teacher", "student"):
        assert f"knn10/{name}: " in before
    assert lines[-1] == f"done: step 8 of 8, checkpoints in {workdir}"
    assert [line["step"] for line in read_metrics(workdir)] == list(range(STEPS + 1))
    assert [line["step"] for line in read_metrics(workdir) if "knn10/teacher" in line] == [0, 4, 8]
    *older, before_last, last = checkpoint_steps(workdir)
    assert (before_last, last) == (7, 8)
    (best,) = (line for line in lines if line.startswith("best teacher: step "))
    assert int(best.split()[3].rstrip(",")) in (*older, last)
    assert list((workdir / "tensorboard").glob("events.*"))
    steps = {path.name for path in (workdir / "probes").iterdir()} - {"images"}
    assert steps == {"0", "4", "8"}
    assert (workdir / "crops.png").exists()
    assert "Probe images" in (workdir / "report.html").read_text()


def test_a_second_start_compiles_nothing(whole, small, tmp_path):
    first_start = re.search("(?m)^first step .*$", whole[1].out)[0]
    assert "trace" in first_start and "; 0 of" in first_start
    with Train(*small(tmp_path)) as process:
        process.wait_for("first step")
        process.send(signal.SIGKILL)
        second_start = process.finish().out.splitlines()[-1]
    assert "s (from the cache); " in second_start
    found, needed = re.search(r"(\d+) of (\d+) programs so far", second_start).groups()
    assert found == needed == re.search(r"(\d+) programs so far", first_start)[1]


def test_a_finished_run_that_is_started_again_only_says_so(whole, small):
    workdir, _ = whole
    before = (workdir / "metrics.jsonl").read_text()
    code, out, err = run(*small(workdir))
    assert (code, err) == (0, "")
    assert f"workdir     {workdir}, resumed at step 8" in out
    assert out.splitlines()[-1] == f"done: step 8 of 8, checkpoints in {workdir}"
    assert (workdir / "metrics.jsonl").read_text() == before


def test_a_killed_run_leaves_no_process_and_resumes_bitwise(whole, killed, small, tmp_path):
    workdir, finished, leftovers = killed
    assert (finished.code, leftovers) == (-signal.SIGKILL, [])
    assert 2 <= checkpoint_steps(workdir)[-1] < STEPS
    copy = shutil.copytree(workdir, tmp_path / "copy")
    assert run(*small(copy)).code == 0
    same_state(copy, whole[0])
    same_metrics(copy, whole[0])


def test_a_run_resumes_on_another_mesh(whole, killed, small, tmp_path):
    copy = shutil.copytree(killed[0], tmp_path / "copy")
    code, out, err = run(*small(copy, **{"runtime.fsdp": 2}), devices=4)
    assert (code, err) == (0, "")
    assert "mesh        data 2 x fsdp 2 on 4 x cpu" in out
    close_state(copy, whole[0])
    close_metrics(copy, whole[0])


@pytest.mark.parametrize("number, code, workers", [("SIGTERM", 75, 0), ("SIGINT", 130, 2)])
def test_an_interrupted_run_is_saved_and_resumes_bitwise(
    whole, small, tmp_path, number, code, workers
):
    arguments = small(tmp_path, **{"runtime.workers": workers, "runtime.save_every_steps": 100})
    with Train(*arguments) as process:
        process.wait_for(f"step 3/{STEPS}")
        send = process.send if number == "SIGTERM" else process.send_to_all
        send(signal.Signals[number])
        assert process.leftovers() == []
        finished = process.finish()
    assert finished.code == code
    assert f"{number}: saving and stopping after this step." in finished.err
    assert "Traceback" not in finished.err
    saved = checkpoint_steps(tmp_path)[-1]
    assert 3 <= saved < STEPS
    assert finished.out.splitlines()[-1] == (
        f"{number}: saved step {saved} of {STEPS} in {tmp_path}; the same command continues"
    )
    assert run(*arguments).code == 0
    same_state(tmp_path, whole[0])
    same_metrics(tmp_path, whole[0])


@pytest.mark.parametrize(
    "processes, devices, fsdp, slices", [(1, 4, 1, 1), (1, 4, 4, 1), (2, 2, 2, 2), (2, 2, 4, 1)]
)
def test_twenty_steps_are_the_same_on_any_processes_and_devices(
    twenty, small, tmp_path, processes, devices, fsdp, slices, monkeypatch
):
    if slices > 1:
        monkeypatch.setenv("MEGASCALE_NUM_SLICES", str(slices))
    first, *others = run_processes(
        *small(tmp_path, **TWENTY, **{"runtime.fsdp": fsdp}), processes=processes, devices=devices
    )
    assert [each.code for each in (first, *others)] == [0] * processes, first.err
    total, axes = processes * devices, f"slice {slices} x " if slices > 1 else ""
    assert (
        f"mesh        {axes}data {total // slices // fsdp} x fsdp {fsdp} on {total} x cpu, "
        f"{processes} process(es)" in first.out
    )
    assert first.out.splitlines()[-1] == f"done: step 20 of 20, checkpoints in {tmp_path}"
    for each in others:  # only the first one speaks
        assert not GLOO.sub("", each.out), each.out
    assert [each.err for each in (first, *others)] == [""] * processes
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    by_the_clock, last = checkpoint_steps(tmp_path)
    assert 1 <= by_the_clock < last == 20
    close_state(tmp_path, twenty)
    losses, expected = (
        [line.get("loss") for line in read_metrics(path)[1:]] for path in (tmp_path, twenty)
    )
    assert len(losses) == 20
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_another_config_on_the_same_workdir_shows_the_difference(whole, small):
    workdir, _ = whole
    before = (workdir / "config.json").read_text()
    code, out, err = run(*small(workdir, **{"optimizer.lr": 0.001, "runtime.fsdp": 1}))
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"error: workdir {workdir} was made with another config:",
        "  config.optimizer.lr: workdir has 0.004, this run has 0.001",
        "Use a new --workdir for this config, or give the values of the workdir to resume it.",
    ]
    assert (workdir / "config.json").read_text() == before


def test_a_broken_image_is_named_counted_and_replaced(small, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(20):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.jpg")
    broken = folder / "07.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    data = {"data.kind": "folder", "data.path": folder, "batch_size": 10, "epochs": 3.0}
    data |= {"steps_per_epoch": 0, "evaluations.knn.every_epochs": 0.0}
    data |= {"max_unreadable_share": 0.2, "runtime.log_every_steps": 2}
    code, out, err = run(*small(tmp_path / "run", **data))
    assert (code, err) == (0, "")
    # Every epoch of 2 steps shows every image once.
    assert [line["unreadable_images"] for line in read_metrics(tmp_path / "run")] == [1, 1, 1]
    assert f"unreadable image, replaced by the next one: {broken}: OSError" in out
    assert out.count(str(broken)) == 1
    assert (tmp_path / "run" / "bad_images.txt").read_text() == f"{broken}\n"


def test_a_run_with_a_folder_of_images_alone_starts_and_shows_them(small, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(20):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    changes = {"data.kind": "folder", "data.path": folder, "evaluations.proxies.every_epochs": 2.0}
    for part in ("knn.train", "knn.test", "proxies.images"):
        changes[f"evaluations.{part}.kind"] = "folder"
    code, out, err = run(*small(tmp_path / "run", **changes))
    assert (code, err) == (0, "")
    left_out = [line for line in out.splitlines() if line.startswith("evaluation  ")]
    assert left_out[0].startswith(
        "evaluation  knn is left out: it needs labelled training images (-"
    )
    assert left_out[1:] == [
        "evaluation  proxies is left out: it needs held-out images "
        "(--config.evaluations.proxies.images.path=FOLDER)"
    ]
    steps = {path.name for path in (tmp_path / "run/probes").iterdir()} - {"images"}
    assert steps == {"0", "4", "8"}  # the rhythm of the evaluations


def test_steps_that_are_not_finite_are_skipped_and_end_the_run(small, tmp_path):
    # The update of step 1 makes all parameters huge; no gradient is finite after it (jax 0.10), or
    # after the next one (jax 0.12).
    lost = {"optimizer.lr": 1e4, "optimizer.reference_batch": 1}
    lost |= {"optimizer.warmup_epochs": 0.0, "max_skipped_in_a_row": 3}
    arguments = small(tmp_path, **lost, **{"runtime.keep_checkpoints": STEPS})
    code, out, err = run(*arguments)
    assert code == 1 and "Traceback" not in err
    skipped = r"step (\d): loss \S+ gradient norm nan: skipped \(3 in a row\), student, teacher"
    (last,) = re.findall(skipped, out)
    good = int(last) - 3
    assert good in (1, 2)
    assert f"stopped: 3 steps in a row up to step {last} were not finite" in err
    metrics = read_metrics(tmp_path)
    assert [line.get("skipped_steps") for line in metrics] == [None, *[0] * good, 1, 2]
    assert metrics[good]["loss"] > 0
    state, first = read_state(tmp_path), read_state(tmp_path, step=good)
    assert state["step"] == checkpoint_steps(tmp_path)[-1] > good
    assert state["skipped/total"] == state["step"] - good
    for name, value in first.items():
        assert np.all(np.isfinite(value)), name
        if name.partition("/")[0] not in ("step", "skipped"):
            np.testing.assert_array_equal(state[name], value, err_msg=name)


def test_a_run_without_labels_stops_at_a_failure_if_asked(small, tmp_path):
    changes = {"roles.teacher.momentum": 1.0, "roles.teacher.momentum_end": 1.0}
    changes |= {"evaluations.knn.every_epochs": 0.0, "evaluations.proxies.every_epochs": 1.0}
    changes |= {"runtime.stop_on_collapse": True}
    code, out, err = run(*small(tmp_path, **changes))
    assert code == 1 and "Traceback" not in err
    message = "stopped: The teacher does not change at step 4 (config.runtime.stop_on_collapse): "
    assert message + "momentum 1 since step 1. Lower config.roles.teacher.momentum" in err
    assert "diagnosis   The teacher does not change: momentum 1 since step 1. Lower" in out
    (entry,) = read_json_lines(epath.Path(tmp_path) / "diagnosis.jsonl", STEPS)
    assert (entry["step"], entry["state"]) == (4, "teacher_frozen")
    metrics = read_metrics(tmp_path)
    assert [line["step"] for line in metrics] == [0, 1, 2, 3, 4]
    assert [line["step"] for line in metrics if "proxy/stability" in line] == [2, 4]
    assert metrics[4]["proxy/stability"] == 1  # of a teacher that did not move
    assert metrics[4]["proxy/agreement"] < 1
