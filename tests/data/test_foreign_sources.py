"""Folders, lists and shards from outside: pipes, circles of links, odd names, headers that lie."""

import errno
import functools
import glob
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_jax.commands.config_file import load_config
from dino_jax.data.building.inspection import inspect_image
from dino_jax.data.decode import UnreadableImageError, read_image_file
from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.preview import draw_preview
from dino_jax.data.reading import read_image, read_readable
from dino_jax.data.sources import FolderSource, GlobSource, ListSource, TarSource
from dino_jax.data.sources.base import index_labels
from dino_jax.data.sources.patterns import match_files
from dino_jax.foreign.names import printable

MAX_PIXELS = 10_000
ODD_NAMES = [
    os.fsdecode(b"\xff\xfe.png"),
    "line\nbreak.png",
    "\x1b[2J\u202e.png",
    "back\\slash.png",
    "tab\tand space .png",
]


def _png(level=9):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def special(tmp_path):
    """A folder with one image and much that is none."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/image.png").write_bytes(_png())
    os.mkfifo(tmp_path / "a/pipe.jpg")
    (tmp_path / "a/l1.jpg").symlink_to("l2.jpg")
    (tmp_path / "a/l2.jpg").symlink_to("l1.jpg")
    (tmp_path / "a/self.jpg").symlink_to("self.jpg")
    (tmp_path / "a/broken.jpg").symlink_to("nothing.jpg")
    (tmp_path / "a/sparse.jpg").touch()
    os.truncate(tmp_path / "a/sparse.jpg", 40 << 30)
    return tmp_path


def test_one_image_among_things_that_are_none_is_read_by_every_command(special):
    source = FolderSource(special)
    found = {Path(source.path(index)).name: index for index in range(len(source))}
    assert len(found) == 7
    for name, index in found.items():
        if name == "image.png":
            continue
        with pytest.raises(UnreadableImageError):  # train, show, evaluate
            read_image(source, index, MAX_PIXELS)
        assert inspect_image(source, index, MAX_PIXELS, moments=False).error  # build
        with pytest.raises(UnreadableImageError):  # visualize, and evaluations that read files
            read_image_file(source.path(index), MAX_PIXELS)
        assert read_readable(source, index, MAX_PIXELS)[0] == found["image.png"]
    (batch,) = build_eval_stream(source, image_size=4, batch_size=7, max_pixels=MAX_PIXELS)
    assert batch["valid"].sum() == 1  # embed
    assert batch["name"][batch["valid"]].tolist() == ["a/image.png"]


def test_a_list_may_name_devices_and_pipes(special):
    (special / "list.txt").write_text("/dev/zero\n/dev/random\n/dev/tty\na/pipe.jpg\na/image.png")
    source = ListSource(special / "list.txt")
    for index in range(4):
        with pytest.raises(UnreadableImageError):
            read_image(source, index, MAX_PIXELS)
    assert read_image(source, 4, MAX_PIXELS)[0].shape == (6, 5, 3)


def test_a_list_itself_is_a_file_of_bounded_size(special, tmp_path):
    for name in ("a/pipe.jpg", "a/l1.jpg"):
        with pytest.raises(OSError, match=r"is a pipe|is not a file"):
            ListSource(special / name)
    with pytest.raises(OSError, match="more than"):
        ListSource(special / "a/sparse.jpg")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a\0b.png", "line 2 of .* must be PATH"),
        ("a.png".encode("utf-16"), "line 2 of .* must be PATH"),
        (b"http://host/a.png", "begins with http://"),
        (b"file:///a.png", r"without file://"),
        (b"foo://a.png", "begins with foo://"),
        (b"s3://bucket/a.png", "Install s3fs"),
    ],
)
def test_lines_that_cannot_be_read_are_named_at_the_start(line, reason, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.png\n" + line + b"\n")
    with pytest.raises(ValueError, match=reason):
        ListSource(tmp_path / "list.txt")


def test_a_byte_order_mark_and_line_ends_of_windows_belong_to_no_name(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\tcat\r\nb.png\tdog\r\n")
    source = ListSource(tmp_path / "list.txt")
    assert [source.path(index) for index in range(2)] == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
    assert source.class_names == ("cat", "dog")


def test_odd_names_are_read_and_shown_as_one_printable_line(tmp_path):
    for name in ODD_NAMES:
        (tmp_path / name).write_bytes(_png())
        (tmp_path / f"bad {name}").write_bytes(b"no image")
    source = FolderSource(tmp_path)
    assert {source.path(index) for index in range(10)} == {
        f"{tmp_path}/{start}{name}" for name in ODD_NAMES for start in ("", "bad ")
    }
    said = []
    for index in range(len(source)):
        assert source.name(index) == printable(source.path(index))
        try:
            read_image(source, index, MAX_PIXELS)
        except UnreadableImageError as error:
            said.append(str(error))
        said.append(inspect_image(source, index, MAX_PIXELS, moments=False).error)
    assert sum(map(bool, said)) == 10
    assert all(line.isprintable() for line in said)


def test_show_draws_images_with_odd_names(tmp_path):
    for name in ODD_NAMES:
        (tmp_path / name).write_bytes(_png())
        (tmp_path / f"bad {name}").write_bytes(b"no image")
    config = load_config("vits16_vanilla")
    config.data.path = str(tmp_path)
    said = []
    draw_preview(config, "title", 5, said.append)
    assert len(said) > 0
    assert all(line.isprintable() for line in said)


def test_a_pattern_visits_each_folder_once_and_links_in_circles_end(tmp_path):
    for place in ("a/b/1.png", "a/2.png", "a/.hidden/3.png", "4.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    for place in ("a/b/up", "a/b/top", "a/again", "z"):  # 2^40 paths for whoever follows them all
        (tmp_path / place).symlink_to(tmp_path / ("a" if place == "z" else "."))
    found = [name.removeprefix(f"{tmp_path}/") for name in match_files(f"{tmp_path}/**/*.png")]
    assert found == ["4.png", "a/2.png", "a/b/1.png"]
    found = match_files(f"{tmp_path}/**/b/**/*.png")
    inside = [name.removeprefix(f"{tmp_path}/a/b/") for name in found]
    assert inside == ["1.png", "top/4.png", "top/a/2.png"]
    assert len(GlobSource(f"{tmp_path}/**")) == 3


def test_a_circle_of_links_takes_no_image_from_a_pattern(tmp_path):
    for place in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    for link, other in (("x", "y"), ("y", "x"), ("z", "nowhere")):
        (tmp_path / "a" / link).symlink_to(other)
    assert len(match_files(f"{tmp_path}/**/*.png")) == 3


def _close(monkeypatch, name):
    """For root, who runs tests in containers, no mode of a folder does this."""
    scandir, lstat = os.scandir, os.lstat

    def refuse(call, path):
        if os.fspath(path).rstrip("/").endswith(name) or f"/{name}/" in os.fspath(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return call(path)

    monkeypatch.setattr(os, "scandir", functools.partial(refuse, scandir))
    monkeypatch.setattr(os, "lstat", functools.partial(refuse, lstat))


@pytest.mark.parametrize("pattern", ["**/*.png", "**", "a/*/*.png", "a/*/1.png", "*/*/*/1.png"])
def test_a_folder_that_a_pattern_may_not_list_is_an_error(tmp_path, monkeypatch, pattern):
    (tmp_path / "a/closed").mkdir(parents=True)
    (tmp_path / "a/1.png").touch()
    _close(monkeypatch, "closed")
    with pytest.raises(PermissionError, match=r"'[^']*a/closed.*' can't be listed.*pattern or a "):
        match_files(f"{tmp_path}/{pattern}")


def test_a_folder_of_images_in_which_one_may_not_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a/closed").mkdir(parents=True)
    (tmp_path / "a/1.png").touch()
    _close(monkeypatch, "closed")
    with pytest.raises(PermissionError, match=r"'[^']*a/closed' can't be listed"):
        FolderSource(tmp_path)


@pytest.mark.parametrize("pattern", ["**/*.png", "*/*.png", "*/1.png", ""])
def test_the_system_folder_of_a_disk_is_passed_over_with_a_line(
    tmp_path, monkeypatch, capsys, pattern
):
    (tmp_path / "a").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a/1.png").touch()
    _close(monkeypatch, "lost+found")
    source = GlobSource(f"{tmp_path}/{pattern}") if pattern else FolderSource(tmp_path)
    assert [source.path(index) for index in range(len(source))] == [f"{tmp_path}/a/1.png"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "lost+found" in said[0]
    assert said[0].endswith("is passed over: it may not be listed")


def test_a_pattern_finds_what_the_standard_library_finds(tmp_path, monkeypatch):
    for place in ("a/b/1.png", "a/b/c/2.png", "a/3.jpg", "d/.x/4.png", "5.png", ".6.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    outside = tmp_path.parent / f"{tmp_path.name} outside [1]"
    outside.mkdir()
    (outside / "7.png").touch()
    (tmp_path / "link").symlink_to(outside)
    monkeypatch.chdir(tmp_path)
    for pattern in (
        "**/*.png",
        "a/**/*.png",
        "**/b/**/?.png",
        "*/**/*.png",
        "**/c/*",
        "no/**/*.png",
        "*.png",
        "*",
        "*/",
        ".*",
        "?/[a-b]/*.png",
        "*/b/1.png",
        "*/3.jpg",
        "link/*",
        "l*/7.png",
        "5.png",
        "no/*",
        "5.png/*",
        "*/b/../3.jpg",
    ):
        for root in ("", f"{tmp_path}/"):
            expected = sorted(set(glob.glob(root + pattern, recursive=True)))  # noqa: PTH207
            assert match_files(root + pattern) == expected, pattern


def _tar(path, name=b"a.png", size=None, kind=b"0", data=b"", extra=b""):
    """One member with a header as given, after `extra` blocks."""
    info = tarfile.TarInfo(os.fsdecode(name))
    info.size = len(data)
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[156:157] = kind
    if size is not None:
        header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    blocks = data + bytes(-len(data) % 512)
    path.write_bytes(extra + bytes(header[:512]) + blocks + bytes(1024))


def _extended(records):
    """The blocks of a pax header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as file:
        info = tarfile.TarInfo("x")
        info.size, info.type = len(records), b"x"
        file.addfile(info, io.BytesIO(records))
    return buffer.getvalue()[: 512 + -(-len(records) // 512) * 512]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (dict(extra=_extended(b"11 size=-1\n")), "damaged size"),
        (dict(extra=_extended(b"13 size=+99\n\n")), "damaged size"),
        (dict(extra=_extended(b"16 size=1_00000\n")), "damaged size"),
        (dict(extra=_extended(b"30 size=" + b"9" * 21 + b"\n")), "damaged size"),
        (dict(extra=_extended(b"99999999999999999999 a=b\n")), "damaged extended header"),
        (dict(extra=_extended(b"-5 a=b\n")), "damaged extended header"),
        (dict(size=b"-0000001000\0"), "damaged size"),
        (dict(size=b"0000_00010\0 "), "damaged size"),
        (dict(size=b"\xff" * 12), "cut off"),
        (dict(size=b"77777777777\0"), "cut off"),
        (dict(kind=b"L", data=bytes(1 << 21)), "extended header of 2,097,152 bytes"),
        (dict(kind=b"x", data=b"9 a=1234\n" * 300_000), "extended header of 2,700,000 bytes"),
    ],
)
def test_numbers_in_a_tar_file_that_lie_are_refused(member, reason, tmp_path):
    _tar(tmp_path / "x.tar", **member)
    with pytest.raises(ValueError, match=reason):
        TarSource(str(tmp_path))


def test_a_member_as_large_as_a_disk_is_one_unreadable_image(tmp_path):
    path = tmp_path / "x.tar"
    _tar(path, b"a.png", b"\x80" + (10 << 30).to_bytes(11, "big"))
    os.truncate(path, 512 + (10 << 30))  # sparse
    with path.open("ab") as file:
        _tar(tmp_path / "rest", b"b.png", data=_png())
        file.write((tmp_path / "rest").read_bytes())
    source = TarSource(str(path))
    assert len(source) == 2
    with pytest.raises(UnreadableImageError, match="are no image"):
        read_image(source, 0, MAX_PIXELS)
    assert read_image(source, 1, MAX_PIXELS)[2] == "b.png"


def test_a_sparse_member_does_not_hide_what_follows(tmp_path):
    header = bytearray(512)
    _tar(tmp_path / "x.tar", b"a.png", kind=b"S", data=_png())
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[482] = 1  # another header of holes follows
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    _tar(tmp_path / "rest", b"b.png", data=_png())
    rest = (tmp_path / "rest").read_bytes()
    (tmp_path / "x.tar").write_bytes(bytes(data[:512]) + bytes(header) + data[512:-1024] + rest)
    source = TarSource(str(tmp_path / "x.tar"))
    assert [read_image(source, index, MAX_PIXELS)[2] for index in range(2)] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 200_000, "nested deeper"),
        (b'{"label": ' + b"9" * 30_000 + b"}", "64 bits"),
        (b'{"label": -7}', "class indices must be"),
    ],
)
def test_a_label_that_is_no_label_is_a_clear_error(content, reason, tmp_path):
    _tar(tmp_path / "x", b"a.png", data=_png())
    image = (tmp_path / "x").read_bytes()[:-1024]
    _tar(tmp_path / "x.tar", b"a.json", data=content, extra=image)
    with pytest.raises(ValueError, match=reason):
        TarSource(str(tmp_path / "x.tar"))


def test_one_long_label_takes_memory_once():
    names, labels = index_labels(["x" * 1_000_000, *["cat", "dog"] * 50_000])
    assert names == ("cat", "dog", "x" * 1_000_000)
    assert labels[:3].tolist() == [2, 0, 1]
