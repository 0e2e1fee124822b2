"""Checks of a run, on small ones."""

import itertools

import numpy as np
import pytest

from configs import quickstart
from dino_jax.config.change import change
from dino_jax.data.sources import build_source
from dino_jax.doctor import run
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe


class Images:
    """Arrays, of which some raise an error."""

    class_names = ()

    def __init__(self, count, broken=()):
        self._count, self._broken = count, broken

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index in self._broken:
            raise OSError("no such disk")
        return {"image": np.zeros((4, 4, 3), np.uint8), "label": -1, "name": str(index)}

    def name(self, index):
        return f"image {index}"


def test_a_workdir_is_made_and_proved_writable(tmp_path):
    result = run.check_workdir(str(tmp_path / "a/b"))
    assert result.level == "OK"
    assert list((tmp_path / "a/b").iterdir()) == []


def test_a_workdir_that_is_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    result = run.check_workdir(str(tmp_path / "file"))
    assert result.level == "FAIL" and "it is a file" in result.text and "--workdir" in result.fix


def test_a_bucket_without_gcsfs_names_the_package(monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    result = run.check_workdir("gs://bucket/run")
    assert (result.level, result.fix) == ("FAIL", "pip install -e '.[gcs]'")


def test_readable_images_are_counted():
    result = run.check_data(Images(1000), max_pixels=100)
    assert (result.level, result.text) == ("OK", "1,000 images, 8 of 8 tried are fine")
    assert run.check_data(Images(3), 100).text == "3 images, 3 of 3 tried are fine"


def test_some_unreadable_images_warn_and_only_unreadable_ones_fail():
    some = run.check_data(Images(8, broken={2}), 100)
    assert some.level == "WARN"
    assert some.text.splitlines()[1] == "image 2: no such disk"
    assert run.check_data(Images(8, broken=range(8)), 100).level == "FAIL"


def test_the_config_is_built_for_these_devices():
    config = read_config(quickstart.get_config())
    assert "steps of 64 images" in run.examine_config(config, 1438).text
    bad = run.examine_config(change(config, {"accumulate_steps": 3}), 1438)
    assert bad.level == "FAIL" and "try --config.batch_size=" in bad.text


def test_an_epoch_of_one_step_is_a_warning_with_a_better_batch():
    config = change(read_config(quickstart.get_config()), {"batch_size": 512})
    found = run.examine_config(config, 965)
    assert found.level == "WARN"
    assert "an epoch of 965 images is 1 step(s)" in found.text
    assert found.fix == "--config.batch_size=32 gives 30 updates per epoch"
    assert run.examine_config(config, 1024).level == "OK"
    for devices in (1, 3, 8):
        batch = run.better_batch(965, devices)
        assert batch % devices == 0 and 965 // batch >= run.GOOD_STEPS


def test_the_rate_counts_whole_batches_after_the_warm_up():
    """4 batches of 32 at 0.5 s each; the warm-up takes none of the measured time."""
    times = itertools.count(10.0, 0.5)
    batches = itertools.count()
    rate = run.measure_rate(batches, 32, warm_up=3, seconds=2.0, clock=lambda: next(times))
    assert rate == 32 / 0.5
    assert next(batches) == 3 + 4


def test_the_input_of_a_config_can_be_measured():
    config = quickstart.get_config()
    config.runtime.workers, config.batch_size = 0, 8
    source = build_source(config.data)
    assert run.measure_input(source, build_recipe(config, len(source)), config, seconds=0) > 0


@pytest.mark.parametrize(
    ("rate", "need", "hosts", "level"),
    [
        (500, 0, 4, "OK"),
        (1300, 4000, 4, "OK"),
        (1100, 4000, 4, "WARN"),
        (999, 4000, 4, "FAIL"),
        (1300, 4000, 1, "FAIL"),
    ],
)
def test_the_input_of_a_host_is_held_against_its_share(rate, need, hosts, level):
    result = run.check_input(rate, need, hosts)
    assert result.level == level
    assert bool(result.fix) == (level != "OK")
    assert f"{rate:,} images/s on this host" in result.text
