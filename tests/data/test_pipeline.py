"""The streams: what they yield, and that hosts, workers and resumes change nothing."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import quickstart
from dino_jax.data.block_masking import BlockMasking
from dino_jax.data.multi_crop import MultiCrop, build_multi_crop
from dino_jax.data.pipeline import build_eval_stream, build_train_stream
from dino_jax.data.random_masking import RandomMasking
from dino_jax.data.sources import FolderSource
from dino_jax.data.view import resize_for_evaluation
from tests.crops import OFFICIAL

CROP = dataclasses.replace(OFFICIAL, group="global", count=2, size=(6, 6), scale=(0.4, 1.0))
LOCAL = dataclasses.replace(CROP, group="local", count=3, size=(4, 4))
MULTI_CROP = MultiCrop({"global": CROP, "local": LOCAL})
BACKENDS = (
    MULTI_CROP,
    dataclasses.replace(MULTI_CROP, backend="device"),
    dataclasses.replace(MULTI_CROP, backend="canvas", canvas=(10, 9)),  # `NoiseSource` is reduced
)
# Crops that leave a plain image as it is, so that they show which image they come from.
NOTHING = dict(jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
PLAIN = MultiCrop({"global": dataclasses.replace(CROP, count=1, **NOTHING)})


class ArraySource:
    """Plain 8x8 images of gray level = index; the given indices are unreadable bytes."""

    class_names = ("even", "odd")

    def __init__(self, count, unreadable=()):
        self._count, self._unreadable = count, frozenset(unreadable)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index in self._unreadable:
            return {"image": b"no image", "label": 0, "name": str(index)}
        return {
            "image": np.full((8, 8, 3), index, np.uint8),
            "label": index % 2,
            "name": str(index),
        }

    def name(self, index):
        return f"array[{index}]"


class NoiseSource(ArraySource):
    """Images of noise."""

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 10, 3), np.uint8)
        return {"image": pixels, "label": -1, "name": str(index)}


def _stream(source, multi_crop=MULTI_CROP, **options):
    defaults = {
        "seed": 0,
        "batch_size": 8,
        "start_step": 0,
        "host": 0,
        "hosts": 1,
        "workers": 0,
        "threads": 0,
        "max_pixels": 10**6,
    }
    return build_train_stream(source, multi_crop, **{**defaults, **options})


def _take(stream, count):
    batches = [
        {name: np.array(rows) for name, rows in batch.items()} for batch in islice(stream, count)
    ]
    stream.close()
    return batches


def _assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def _indices(batches):
    """The image of each row, from the gray level of its (plain) crop."""
    return np.concatenate([batch["global_crops"][:, 0, 0, 0, 0] for batch in batches])


def test_batches_have_the_promised_shapes_and_dtypes():
    (batch,) = _take(_stream(NoiseSource(20)), 1)
    assert {name: (rows.shape, rows.dtype) for name, rows in batch.items()} == {
        "global_crops": ((8, 2, 6, 6, 3), np.uint8),
        "local_crops": ((8, 3, 4, 4, 3), np.uint8),
        "unreadable": ((8,), np.int64),
    }
    assert (batch["unreadable"] == -1).all()


@pytest.mark.parametrize("backend", ["host", "device", "canvas"])
def test_a_config_alone_adds_a_group_of_crops(backend):
    config = quickstart.get_config()
    config.augment.backend = backend
    three = _take(_stream(NoiseSource(20), build_multi_crop(config.augment)), 2)
    config.augment.crops.anchor = ConfigDict(config.augment.crops.global_1.to_dict())
    config.augment.crops.anchor.update(group="gram_anchor", size=(64, 64), box_of="global_1")
    four = _take(_stream(NoiseSource(20), build_multi_crop(config.augment)), 2)
    pixels = "gram_anchor_boxes" if backend == "canvas" else "gram_anchor_crops"
    assert four[0][pixels].shape == {"canvas": (8, 1, 7)}.get(backend, (8, 1, 64, 64, 3))
    added = {name for name in four[0] if name.startswith("gram_anchor_")}
    assert len(added) == {"host": 1, "device": 3, "canvas": 3}[backend]
    others = [{name: batch[name] for name in batch if name not in added} for batch in four]
    _assert_equal(others, three)


class ClipSource(ArraySource):
    """Clips of three plain frames of gray level index, 100 + index and 200 + index."""

    def __getitem__(self, index):
        frames = [np.full((8, 8, 3), level + index, np.uint8) for level in (0, 100, 200)]
        return {"image": frames, "label": index % 2, "name": str(index)}


def test_the_views_of_a_clip_come_from_the_frames_that_they_name():
    first, third = PLAIN.crops["global"], dataclasses.replace(PLAIN.crops["global"], frame=2)
    (batch,) = _take(_stream(ClipSource(8), MultiCrop({"first": first, "third": third})), 1)
    levels = batch["global_crops"][:, :, 0, 0, 0]
    assert sorted(levels[:, 0].tolist()) == list(range(8))
    np.testing.assert_array_equal(levels[:, 1], levels[:, 0] + 200)
    (stills,) = _take(_stream(ArraySource(8), MultiCrop({"first": first, "third": third})), 1)
    levels = stills["global_crops"][:, :, 0, 0, 0]
    np.testing.assert_array_equal(levels[:, 1], levels[:, 0])


def test_evaluations_show_the_first_frame_of_a_clip():
    stream = build_eval_stream(ClipSource(3), image_size=8, batch_size=3, max_pixels=100)
    (batch,) = list(stream)
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("multi_crop", BACKENDS, ids=lambda multi_crop: multi_crop.backend)
@pytest.mark.parametrize("hosts", [2, 4])
def test_the_rows_of_all_hosts_together_are_the_global_batch(hosts, multi_crop):
    expected = _take(_stream(NoiseSource(20), multi_crop), 4)
    per_host = [
        _take(_stream(NoiseSource(20), multi_crop, hosts=hosts, host=h), 4) for h in range(hosts)
    ]
    joined = [
        {name: np.concatenate([rows[step][name] for rows in per_host]) for name in expected[0]}
        for step in range(4)
    ]
    _assert_equal(joined, expected)


@pytest.mark.parametrize("multi_crop", BACKENDS, ids=lambda multi_crop: multi_crop.backend)
@pytest.mark.parametrize(("workers", "threads"), [(0, 3), (1, 1), (2, 0), (3, 0)])
def test_workers_and_threads_change_nothing(workers, threads, multi_crop):
    options = {"multi_crop": multi_crop, "hosts": 2, "host": 1}
    expected = _take(_stream(NoiseSource(20), **options), 7)
    ours = _take(_stream(NoiseSource(20), **options, workers=workers, threads=threads), 7)
    _assert_equal(ours, expected)


@pytest.mark.parametrize("multi_crop", BACKENDS, ids=lambda multi_crop: multi_crop.backend)
@pytest.mark.parametrize(("start_step", "workers"), [(1, 0), (5, 0), (5, 2)])
def test_a_stream_started_later_continues_exactly(start_step, workers, multi_crop):
    expected = _take(_stream(NoiseSource(20), multi_crop), 8)[start_step:]
    ours = _stream(NoiseSource(20), multi_crop, start_step=start_step, workers=workers)
    _assert_equal(_take(ours, 8 - start_step), expected)


def test_the_jitter_order_is_one_per_step_and_crop():
    batches = _take(_stream(NoiseSource(20), BACKENDS[1]), 30)
    orders = np.stack([batch["local_jitter_order"] for batch in batches])
    assert (orders == orders[:, :1]).all()
    assert (np.sort(orders, axis=-1) == np.arange(4)).all()
    assert len(np.unique(orders[:, 0].reshape(-1, 4), axis=0)) == 24


def test_a_stream_can_start_after_millions_of_steps():
    expected = _take(_stream(NoiseSource(20), start_step=5_000_000), 2)[1]
    _assert_equal(_take(_stream(NoiseSource(20), start_step=5_000_001), 1), [expected])


def test_every_epoch_shows_every_image_once_in_its_own_order():
    indices = _indices(_take(_stream(ArraySource(21), PLAIN, batch_size=7), 12)).reshape(4, 21)
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(21), (4, 1)))
    assert len({tuple(epoch) for epoch in indices}) == 4


def test_batches_may_span_two_epochs_without_losing_images():
    indices = _indices(_take(_stream(ArraySource(10), PLAIN, batch_size=4), 5)).reshape(2, 10)
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(10), (2, 1)))


def test_the_order_is_well_mixed():
    epochs = _indices(_take(_stream(ArraySource(200), PLAIN, batch_size=200), 20)).reshape(20, 200)
    correlations = [np.corrcoef(epoch, np.arange(200))[0, 1] for epoch in epochs.astype(float)]
    assert np.abs(correlations).max() < 4 / np.sqrt(200)
    fixed_points = np.mean(epochs == np.arange(200)) * 200
    assert fixed_points < 2.5  # 1 in a random permutation, standard error 0.22 over 20 epochs


def test_seeds_differ_and_no_seed_is_another_one_epoch_later():
    streams = {
        seed: _indices(_take(_stream(ArraySource(20), PLAIN, seed=seed, batch_size=20), 2))
        for seed in (0, 1)
    }
    assert not np.array_equal(streams[0][20:], streams[1][:20])
    assert not np.array_equal(streams[0], streams[1])


def test_an_image_is_augmented_differently_in_every_epoch():
    batches = _take(_stream(NoiseSource(8)), 4)
    assert len({crop.tobytes() for batch in batches for crop in batch["global_crops"]}) == 32


def test_an_unreadable_image_is_reported_and_replaced_by_the_next_readable_one():
    expected = _indices(_take(_stream(ArraySource(12), PLAIN, batch_size=12), 2))
    batches = _take(_stream(ArraySource(12, unreadable=(4, 5, 11)), PLAIN, batch_size=12), 2)
    replacement = {4: 6, 5: 6, 11: 0}
    np.testing.assert_array_equal(
        _indices(batches), [replacement.get(index, index) for index in expected]
    )
    np.testing.assert_array_equal(
        np.concatenate([batch["unreadable"] for batch in batches]),
        [index if index in replacement else -1 for index in expected],
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_can_not_be_read_at_all_is_a_clear_error(workers):
    stream = _stream(ArraySource(150, unreadable=range(150)), workers=workers)
    with pytest.raises(ValueError, match=r"100 images in a row are unreadable, from array\[\d+\]"):
        next(stream)


def test_a_batch_that_does_not_divide_by_the_hosts_is_an_error():
    with pytest.raises(ValueError, match=r"batch_size \(10\) .* 4 hosts; try 8"):
        _stream(NoiseSource(20), batch_size=10, hosts=4)


def test_a_batch_larger_than_the_data_set_is_an_error():
    with pytest.raises(ValueError, match=r"\(32\) is larger than the data set \(20 images\).*=20"):
        _stream(NoiseSource(20), batch_size=32)


def test_a_host_outside_the_hosts_is_an_error():
    with pytest.raises(ValueError, match="host must be in 0 to 1, got 2"):
        _stream(NoiseSource(20), hosts=2, host=2)


@pytest.fixture
def difficult_folder(tmp_path):
    """Images of every awkward kind; the names of the unreadable ones start with "bad"."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "plain.jpg")
    image.save(tmp_path / "rotated.jpg", exif=exif)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.quantize(8).save(tmp_path / "palette.png", transparency=bytes(range(0, 256, 32)))
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "bad_gray16.png")
    Image.fromarray(pixels[:1, :1]).save(tmp_path / "pixel.png")
    Image.fromarray(np.repeat(pixels[:1, :1], 3000, axis=1)).save(tmp_path / "line.png")
    image.save(tmp_path / "ünï 猫.png")
    (tmp_path / "bad_truncated.jpg").write_bytes((tmp_path / "plain.jpg").read_bytes()[:-200])
    (tmp_path / "bad_empty.jpg").write_bytes(b"")
    (tmp_path / "bad_text.jpg").write_text("not an image")
    (tmp_path / "bad_link.jpg").symlink_to(tmp_path / "gone.jpg")
    Image.new("RGB", (2000, 100)).save(tmp_path / "bad_large.png")
    return FolderSource(tmp_path)


def _bad(source):
    names = [Path(source.name(index)).name for index in range(len(source))]
    return {index for index, name in enumerate(names) if name.startswith("bad")}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_of_difficult_images_trains_and_names_the_bad_ones(difficult_folder, workers):
    options = {"batch_size": 13, "max_pixels": 100_000}
    (batch,) = _take(_stream(difficult_folder, workers=workers, **options), 1)
    assert set(batch["unreadable"].tolist()) == _bad(difficult_folder) | {-1}
    assert len(_bad(difficult_folder)) == 6


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_folder_of_difficult_images_is_evaluated_without_the_bad_ones(difficult_folder):
    stream = build_eval_stream(difficult_folder, image_size=16, batch_size=13, max_pixels=100_000)
    (batch,) = list(stream)
    bad = _bad(difficult_folder)
    assert set(np.flatnonzero(~batch["valid"]).tolist()) == bad
    assert set(batch["unreadable"].tolist()) == bad | {-1}


def _evaluate(source, **options):
    return list(build_eval_stream(source, image_size=8, max_pixels=10**6, **options))


def test_evaluation_yields_every_image_once_in_order_and_pads_the_last_batch():
    batches = _evaluate(ArraySource(10), batch_size=4)
    assert [batch["image"].shape for batch in batches] == [(4, 8, 8, 3)] * 3
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    np.testing.assert_array_equal(joined["valid"], np.arange(12) < 10)
    np.testing.assert_array_equal(joined["image"][:10, 3, 3, 0], np.arange(10))
    np.testing.assert_array_equal(joined["label"], [*(np.arange(10) % 2), -1, -1])
    np.testing.assert_array_equal(joined["unreadable"], np.full(12, -1))
    assert joined["label"].dtype == np.int32


def test_every_host_evaluates_its_rows_in_the_same_number_of_batches():
    expected = _evaluate(ArraySource(9), batch_size=4)
    halves = [_evaluate(ArraySource(9), batch_size=4, host=h, hosts=2) for h in range(2)]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*halves, strict=True)
    ]
    _assert_equal(joined, expected)


def test_an_evaluation_of_fewer_images_takes_them_evenly():
    batches = _evaluate(ArraySource(20), batch_size=3, max_images=5)
    images = np.concatenate([batch["image"][batch["valid"], 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(images, [0, 4, 8, 12, 16])


def test_evaluation_marks_unreadable_images_as_invalid():
    (batch,) = _evaluate(ArraySource(4, unreadable=(2,)), batch_size=4)
    np.testing.assert_array_equal(batch["valid"], [True, True, False, True])
    np.testing.assert_array_equal(batch["unreadable"], [-1, -1, 2, -1])
    np.testing.assert_array_equal(batch["label"], [0, 1, -1, 1])


def test_evaluation_resizes_the_short_side_and_cuts_the_center():
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    resized = Image.fromarray(image).resize((int(256 * 500 / 300), 256), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[16:240, 101:325]
    np.testing.assert_array_equal(resize_for_evaluation(image, 224), expected)
    transposed = resize_for_evaluation(image.swapaxes(0, 1), 224)
    assert transposed.shape == (224, 224, 3)


def test_an_evaluation_view_can_have_another_short_side():
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    resized = Image.fromarray(image).resize((int(224 * 500 / 300), 224), Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[:, 74:298]
    np.testing.assert_array_equal(resize_for_evaluation(image, 224, short_side=1.0), expected)


def test_an_image_of_the_evaluation_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(resize_for_evaluation(image, 32), image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (31, 32)])
def test_evaluation_copes_with_extreme_shapes(shape):
    assert resize_for_evaluation(np.ones((*shape, 3), np.uint8), 32).shape == (32, 32, 3)


def test_an_evaluation_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="0 images"):
        _evaluate(ArraySource(4), batch_size=4, max_images=0)


SCRIPT = """
import sys
from absl import flags
from dino_jax.commands.signals import Stopped, stop_on_signals
from tests.data.test_pipeline import NoiseSource, _stream

stream = None

def main():
    global stream  # still alive when the interpreter ends
    stream = _stream(NoiseSource(64), workers=2)
    for step, batch in enumerate(stream):
        if step == 2:
            print("running", flush=True)

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    try:
        with stop_on_signals():
            main()
    except Stopped:
        sys.exit(42)
"""


def _children(pid):
    """Ids of the live worker processes below a process."""
    listing = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [line.split(None, 1) for line in listing.stdout.splitlines()]
    return [int(pid) for pid, command in rows if "spawn_main" in command]


def _alive(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 42), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_workers_end_with_their_parent_and_print_nothing(tmp_path, number, code):
    script = tmp_path / "stream.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background of a script ignores Ctrl-C, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        workers = _children(process.pid)
        assert len(workers) == 2
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does on Ctrl-C: parent and workers
        else:
            process.kill()
        _, errors = process.communicate(timeout=60)
        deadline = time.monotonic() + 20
        while any(map(_alive, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_alive, workers))
        assert process.returncode == code
        assert "Traceback" not in errors
    finally:
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize(("kind", "probability"), [(BlockMasking, 0.5), (RandomMasking, 1.0)])
@pytest.mark.parametrize("hosts", [1, 2])
def test_masks_are_those_of_the_groups_of_the_global_batch(hosts, kind, probability):
    masking = kind((4, 4), crops=2, group_size=2, probability=probability, ratio=(0.1, 0.5))
    options = dict(masking=masking, hosts=hosts, start_step=3)
    hosts_batches = [
        _take(_stream(NoiseSource(20), host=host, **options), 2) for host in range(hosts)
    ]
    whole = _take(_stream(NoiseSource(20), masking=masking, start_step=3), 2)
    for step, expected in enumerate(whole):
        assert expected["masks"].shape == (8, 2, 16)
        assert expected["mask_indices"].shape == (4, masking.bound)
        for name, rows in expected.items():
            joined = np.concatenate([batches[step][name] for batches in hosts_batches])
            np.testing.assert_array_equal(joined, rows)
    assert not np.array_equal(whole[0]["masks"], whole[1]["masks"])


def test_groups_of_masks_that_no_host_holds_whole_are_a_clear_error():
    masking = BlockMasking(grid=(4, 4), crops=2, group_size=8, probability=0.5, ratio=(0.1, 0.5))
    with pytest.raises(ValueError, match=r"group_size \(8\) must divide the 4 images"):
        _stream(NoiseSource(20), masking=masking, hosts=2)
