"""What the watch says about steps that are not finite and images that cannot be read."""

import io
import os

import numpy as np
import pytest
from etils import epath

from dino_jax.data.sources import FolderSource
from dino_jax.run.screen import Progress
from dino_jax.run.watch import RUN_AHEAD, BadImages, NotFiniteError, UnreadableImagesError, Watch
from dino_jax.step.health import MOMENTS

READABLE = np.array([-1, -1, -1, -1])
LIMITS = dict(
    max_skipped_in_a_row=3,
    max_unreadable_share=0.25,
    explain=lambda index: f"image-{index}.jpg: it is broken",
)


class Names:
    """A source of which only names are asked."""

    class_names = ()

    def __len__(self):
        return 100

    def __getitem__(self, index):
        raise AssertionError("the watch reads no image")

    def name(self, index):
        return f"image-{index}.jpg"


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def watch(screen, tmp_path):
    progress = Progress(0, 100, 4, stream=screen)
    return Watch(Names(), progress, epath.Path(tmp_path), **LIMITS)


def numbers(loss=1.0, grad_norm=2.0, in_a_row=0):
    return {
        "loss": np.float32(loss),
        "grad_norm": np.float32(grad_norm),
        "skipped_in_a_row": np.int32(in_a_row),
        MOMENTS: {"mean": np.zeros(2), "second": np.diag([loss, loss])},
    }


def test_steps_are_looked_at_when_newer_ones_are_on_their_way(watch, screen):
    watch.add(1, numbers(loss=np.nan, in_a_row=1), READABLE)
    for step in range(2, 1 + RUN_AHEAD):
        watch.add(step, numbers(), READABLE)
    assert screen.getvalue() == ""
    watch.add(1 + RUN_AHEAD, numbers(), READABLE)
    assert "step 1: loss nan, gradient norm 2.0: skipped (1 in a row)" in screen.getvalue()


def test_catching_up_gives_the_newest_numbers(watch):
    assert watch.catch_up() == {}
    for step in range(1, 6):
        watch.add(step, numbers(loss=step), READABLE)
    expected = {"loss": 5.0, "grad_norm": 2.0, "skipped_in_a_row": 0.0, "unreadable_images": 0.0}
    features = {"health/effective_rank": 2.0, "health/feature_std": 1.0}
    assert watch.catch_up() == pytest.approx(expected | features)


def test_an_unreadable_image_is_named_once_and_counted_every_time(watch, screen):
    watch.add(1, numbers(), np.array([-1, 7, -1, 0]))
    watch.add(2, numbers(), np.array([7, -1, -1, -1]))
    assert watch.catch_up()["unreadable_images"] == 3
    watch.add(3, numbers(), np.array([-1, -1, -1, 7]))
    assert watch.catch_up()["unreadable_images"] == 1
    watch.add(4, numbers(), READABLE)
    assert watch.catch_up()["unreadable_images"] == 0
    assert screen.getvalue().splitlines() == [
        "unreadable image, replaced by the next one: image-7.jpg: it is broken",
        "unreadable image, replaced by the next one: image-0.jpg: it is broken",
    ]


@pytest.mark.parametrize("bad", [dict(loss=np.nan), dict(loss=np.inf), dict(grad_norm=np.nan)])
def test_too_many_bad_steps_in_a_row_end_the_run(watch, screen, bad):
    watch.add(1, numbers(**bad, in_a_row=1), READABLE)
    watch.add(2, numbers(**bad, in_a_row=2), READABLE)
    watch.add(3, numbers(), READABLE)
    watch.add(4, numbers(**bad, in_a_row=1), READABLE)
    watch.wait()
    assert screen.getvalue().count("skipped") == 3
    watch.add(5, numbers(**bad, in_a_row=2), READABLE)
    watch.add(6, numbers(**bad, in_a_row=3), READABLE)
    with pytest.raises(NotFiniteError, match=r"3 steps in a row up to step 6 .*lr.*clip_grad"):
        watch.wait()


def test_unreadable_images_are_listed_once_also_over_restarts(watch, screen, tmp_path):
    listed = tmp_path / "bad_images.txt"
    watch.add(1, numbers(), np.array([-1, 7, -1, 7]))
    watch.wait()
    assert listed.read_text() == "image-7.jpg\n"
    progress = Progress(0, 100, 4, stream=screen)
    again = Watch(Names(), progress, epath.Path(tmp_path), **LIMITS)
    again.add(2, numbers(), np.array([9, 7, -1, -1]))
    again.wait()
    assert listed.read_text() == "image-7.jpg\nimage-9.jpg\n"


def test_too_many_unreadable_images_end_the_run_once_enough_were_seen(watch):
    for step in range(1, 25):  # 96 of the 100 images of the source
        watch.add(step, numbers(), np.array([7, 8, -1, -1]))
    watch.wait()
    watch.add(25, numbers(), np.array([-1, -1, -1, -1]))
    with pytest.raises(UnreadableImagesError, match=r"48.0 % .* 0.25\).*bad_images.txt"):
        watch.wait()


def test_a_single_file_ends_no_run_however_often_it_is_seen(watch):
    for step in range(1, 60):
        watch.add(step, numbers(), np.array([7, 7, 7, 7]))
    watch.wait()


def test_names_of_any_bytes_are_listed_one_a_line_and_once_over_all_starts(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in (b"\xff\xfe.jpg", b"a\nb.jpg", b"\x1b[2J.jpg"):
        (images / os.fsdecode(name)).write_bytes(b"broken")
    source = FolderSource(images)
    for _ in range(2):  # starts
        names = [name for _, name in BadImages(tmp_path, source).add(3, [0, 1, 2])]
        assert len(names) == 3
        assert all(name.isprintable() for name in names)
        lines = (tmp_path / "bad_images.txt").read_text("utf-8").split("\n")
        expected = [r"\x1b[2J.jpg", r"a\nb.jpg", r"\xff\xfe.jpg"]
        assert lines == [*(f"{images}/{name}" for name in expected), ""]
