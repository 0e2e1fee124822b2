"""Videos in and out, and the attention over their frames."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.visualize.__main__ import main
from dino_jax.visualize.attention import overlay_attention
from dino_jax.visualize.attention_film import overlay_frames
from dino_jax.visualize.film import Film, write_film
from dino_jax.visualize.inputs import fit_to_patches
from tests.saved_model import save_tiny_vit

RATE = Fraction(24000, 1001)
FRAMES = 7


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


def make_frames(height=50, width=70) -> list[np.ndarray]:
    """A bright square that walks; smooth enough for a lossy codec."""
    frames = []
    for number in range(FRAMES):
        frame = np.full((height, width, 3), 40, np.uint8)
        frame[10:34, 4 + 6 * number : 28 + 6 * number] = (220, 180, 30 * number)
        frames.append(frame)
    return frames


@pytest.fixture
def film(tmp_path) -> Path:
    write_film(tmp_path / "walk.mp4", make_frames(), RATE)
    return tmp_path / "walk.mp4"


def run(workdir, *arguments) -> int:
    return main(["attention", str(workdir), *map(str, arguments), "--size=32"])


def test_frames_rate_and_count_come_back(film):
    with Film(str(film)) as read:
        frames = list(read)
        assert (read.rate, read.count, len(frames)) == (RATE, FRAMES, FRAMES)
    for ours, theirs in zip(frames, make_frames(), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).mean() < 4
    assert [path.name for path in film.parent.iterdir()] == ["walk.mp4"]


def test_odd_sides_grow_by_a_pixel(tmp_path):
    write_film(tmp_path / "odd.mp4", make_frames(49, 71), RATE)
    with Film(str(tmp_path / "odd.mp4")) as read:
        assert next(iter(read)).shape == (50, 72, 3)


def test_a_film_that_lies_on_its_side_is_turned_upright(tmp_path):
    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 70, 50, "yuv420p"
        stream.set_display_rotation(90)
        for frame in make_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with Film(str(tmp_path / "phone.mp4")) as read:
        first = next(iter(read))
    with av.open(str(tmp_path / "phone.mp4")) as container:
        angle = next(container.decode(video=0)).rotation
    assert abs(angle) == 90 and first.shape == (70, 50, 3)
    # FFmpeg's angles are counterclockwise.
    expected = make_frames()[0].swapaxes(0, 1)
    expected = expected[::-1] if angle == 90 else expected[:, ::-1]
    assert np.abs(first.astype(int) - expected).mean() < 4


def test_the_attention_of_a_film_is_that_of_its_frames(workdir, film, tmp_path, capsys):
    assert run(workdir, film, f"--out={tmp_path / 'out'}") == 0
    target = tmp_path / "out/walk_attention.mp4"
    assert f"{target}: {FRAMES} frames, 23.98 per second" in capsys.readouterr().out
    model = dino_jax.load(workdir)
    with Film(str(film)) as read:
        seen = [fit_to_patches(frame, 32, 8) for frame in read]
    with Film(str(target)) as read:
        assert read.rate == RATE
        written = list(read)
    assert len(written) == FRAMES
    for image, frame in zip(seen, written, strict=True):
        weights = np.asarray(model.attention(image[None])[0]).mean(axis=0)[0, 1:]
        large = np.kron(image, np.ones((3, 3, 1), np.uint8))  # pictures have at least 96 pixels
        expected = overlay_attention(large, weights.reshape(4, 5))
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 6


def test_a_folder_of_frames_becomes_a_film(workdir, tmp_path, capsys):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(make_frames()):
        Image.fromarray(frame).save(folder / f"{number:03}.png")
    (folder / "004.png").write_bytes(b"no image")
    assert run(workdir, folder, "--film", "--fps=12.5", f"--out={tmp_path / 'out'}") == 0
    said = capsys.readouterr()
    assert "unreadable image, left out: " in said.err and "004.png" in said.err
    assert f"frames_attention.mp4: {FRAMES - 1} frames, 12.5 per second" in said.out
    with Film(str(tmp_path / "out/frames_attention.mp4")) as read:
        assert read.rate == Fraction(25, 2) and len(list(read)) == FRAMES - 1


def test_frames_are_read_as_they_are_needed(workdir):
    taken = []

    def frames():
        for number in range(100):
            taken.append(number)
            yield np.full((32, 32, 3), number, np.uint8)

    film = overlay_frames(dino_jax.load(workdir), frames(), 32)
    for _ in range(5):
        next(film)
    assert len(taken) <= 8  # four devices, two batches
    film.close()


def test_wrong_films_are_named(workdir, film, tmp_path, capsys):
    def fails(what, *arguments) -> str:
        with pytest.raises(SystemExit, match="2"):
            options = [*map(str, arguments), f"--out={tmp_path / 'out'}", "--size=32"]
            main([what, str(workdir), *options])
        return capsys.readouterr().err

    assert "there is no video 'nothing.mp4'" in fails("attention", "nothing.mp4")
    (tmp_path / "bad.mp4").write_bytes(film.read_bytes()[:600])
    assert "bad.mp4 is not a video, or is damaged" in fails("attention", tmp_path / "bad.mp4")
    assert "films are for attention, not for pca" in fails("pca", film)
    assert "is one already" in fails("attention", film, "--film")
    assert "--fps: must be at least 0" in fails("attention", film, "--fps=-1")
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    Image.new("RGB", (40, 50)).save(folder / "b.png")
    assert "frame 2 has 50 x 40 pixels" in fails("attention", folder, "--film")
    assert not (tmp_path / "out").exists()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(b"")
    assert "there are no frames" in fails("attention", folder, "--film")


def test_a_film_that_breaks_off_is_an_error(workdir, tmp_path, capsys):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(12)]
    write_film(tmp_path / "noise.mp4", noise, RATE)
    data = bytearray((tmp_path / "noise.mp4").read_bytes())
    begin = data.index(b"mdat") + 4
    length = len(data) // 2
    data[begin + length // 8 : begin + length] = bytes(length - length // 8)
    (tmp_path / "noise.mp4").write_bytes(data)
    with (
        Film(str(tmp_path / "noise.mp4")) as film,
        pytest.raises(ValueError, match="damaged after"),
    ):
        list(film)


def test_without_pyav_the_package_is_named(workdir, film, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SystemExit, match="2"):
        run(workdir, film, f"--out={tmp_path / 'out'}")
    assert "pip install 'dino_jax[video]'" in capsys.readouterr().err
