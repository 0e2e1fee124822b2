"""What sources hold is told from what they held before."""

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.sources import (
    DigitsSource,
    FolderSource,
    ListSource,
    MixtureSource,
    build_source,
)
from dino_jax.data.sources import contents as module
from dino_jax.data.sources.base import Contents, PackedNames
from dino_jax.data.sources.contents import (
    contents_of,
    describe_change,
    keep,
    read_kept,
)


def holding(*names, details=None):
    return Contents(len(names), PackedNames(names), details)


NAMES = tuple(f"{i:02d}.jpg" for i in range(20))


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (NAMES, NAMES[2:], "2 gone: '00.jpg', '01.jpg'"),
        (NAMES, (*NAMES, "a"), "1 new: 'a'"),
        (NAMES, ("x", *NAMES[5:]), "5 gone: '00.jpg', '01.jpg', '02.jpg', …; 1 new: 'x'"),
        (NAMES, (NAMES[0], NAMES[2], NAMES[1]), "17 gone: '03.jpg', '04.jpg', '05.jpg', …"),
        (("a", "b", "c"), ("a", "c", "b"), "the same names in another order, from number 1 on: "),
        (("a", "a", "b"), ("a", "b", "b"), "the same names in another order, from number 1 on: "),
        (("a", "b"), ("a", "b", "b"), "the same names, another number of times"),
        (("ab", "c"), ("a", "bc"), "2 gone: 'ab', 'c'; 2 new: 'a', 'bc'"),
        (("a", "\udcff\n"), ("a", "b"), r"1 gone: '\udcff\n'; 1 new: 'b'"),
    ],
)
def test_a_change_of_names_is_described_by_the_first_ones(before, now, said):
    assert holding(*before).digest != holding(*now).digest
    assert describe_change(keep(holding(*before)), holding(*now)).startswith(said)


def test_other_details_are_another_content():
    before, now = holding("a", details=[1, (2,)]), holding("a", details=[1, [3]])
    assert before.digest == holding("a", details=(1, [2])).digest != now.digest
    assert describe_change(keep(before), now) == "the same names, but other labels, sizes or shards"


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ((*NAMES[:9], *NAMES[10:]), "among the names 8 to 11, which began with '08.jpg' and begin"),
        (("0", *NAMES), "among the names 0 to 3, which began with '00.jpg' and begin with '0'"),
        (
            NAMES[:16],
            "the names 16 to 19, which began with '16.jpg' and begin with 'the end'",
        ),
        ((*NAMES, "a"), "among the names 20 to 23, which began with 'the end' and begin with 'a'"),
        (NAMES, "the same names, but other labels, sizes or shards"),
    ],
)
def test_of_very_many_names_the_place_of_the_first_change_is_known(now, said, monkeypatch):
    monkeypatch.setattr(module, "ALL_NAMES", 10)
    monkeypatch.setattr(module, "SAMPLES", 5)
    kept = keep(holding(*NAMES))
    assert (kept.every, len(kept.names), len(kept.digests)) == (4, 5, 5)
    assert said in describe_change(kept, holding(*now))


def test_what_is_kept_is_read_back_and_checked():
    kept = read_kept({"every": 1, "names": ["a"], "digests": []})
    assert kept == keep(holding("a"))
    for wrong in ({"every": 0}, {"names": [1]}, {"digests": None}):
        with pytest.raises((ValueError, TypeError)):
            read_kept({"every": 1, "names": ["a"], "digests": []} | wrong)


def digests(source):
    return {where: each.digest for where, each in contents_of("config.data", source).items()}


def test_files_are_known_by_names_and_labels(tmp_path):
    for name in ("x/a.png", "y/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    before = digests(FolderSource(tmp_path))
    assert before == digests(FolderSource(f"{tmp_path}/"))
    (tmp_path / "y/c.png").touch()
    assert before != digests(FolderSource(tmp_path))
    lists = []
    for text in ("x/a.png\t1\ny/b.png\t0", "x/a.png\t0\ny/b.png\t1", "y/b.png\t0\nx/a.png\t1"):
        (tmp_path / "list.txt").write_text(text)
        lists.append(digests(ListSource(tmp_path / "list.txt"))["config.data"])
    assert len(set(lists)) == 3


def test_the_parts_of_a_mixture_are_known_by_themselves():
    train, test = DigitsSource("train"), DigitsSource("test")
    found = digests(MixtureSource({"a": train, "b": test}, {"a": 1.0, "b": 1.0}))
    assert found == {
        "config.data.sources.a": digests(train)["config.data"],
        "config.data.sources.b": digests(test)["config.data"],
    }
    assert len(set(found.values())) == 2


def test_a_source_without_contents_is_asked_for_names(monkeypatch):
    monkeypatch.setattr(module, "MAX_ASKED", 1000)
    contents = contents_of("x", build_source({"kind": "digits", "split": "train"}))["x"]
    assert contents.images == 1438 and len(contents.names) == 719  # every second one
    assert contents.names[1] == "digits/train[2]"
