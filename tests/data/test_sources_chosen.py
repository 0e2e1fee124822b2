"""The images of a source that a list of `dino-jax curate` names."""

import pickle
import re

import pytest
from PIL import Image

from dino_jax.data.sources import build_source
from dino_jax.data.sources.contents import contents_of


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        path = tmp_path / "in" / ("even" if number % 2 == 0 else "odd") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return str(tmp_path / "in")


def config(folder, tmp_path, text):
    path = tmp_path / "kept.csv"
    path.write_text(text)
    parts = {"pool": {"kind": "folder", "path": folder}}
    return {"kind": "chosen", "path": str(path), "sources": parts}


GOOD = "index,name,times\n1,even/2.png,1\n3,odd/1.png,3\n"


def test_images_come_as_often_as_the_list_says(folder, tmp_path):
    source = pickle.loads(pickle.dumps(build_source(config(folder, tmp_path, GOOD))))
    assert [source[index]["name"] for index in range(len(source))] == [
        "even/2.png",
        *["odd/1.png"] * 3,
    ]
    assert source.class_names == ("even", "odd")
    assert [source[index]["label"] for index in range(len(source))] == [0, 1, 1, 1]
    assert source.name(3).endswith("in/odd/1.png")


def test_another_list_is_another_data_set(folder, tmp_path):
    first = contents_of("x", build_source(config(folder, tmp_path, GOOD)))["x"]
    other = GOOD.replace("png,3", "png,2")
    second = contents_of("x", build_source(config(folder, tmp_path, other)))["x"]
    assert (first.images, second.images) == (4, 3)
    assert first.digest != second.digest


def test_a_list_of_other_images_is_an_error_when_they_are_read(folder, tmp_path):
    text = GOOD.replace("odd/1.png", "odd/9.png")
    source = build_source(config(folder, tmp_path, text))
    with pytest.raises(OSError, match=r"image 3 is 'odd/1.png', the list has 'odd/9.png'"):
        source[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its columns are []; expected ['index', 'name', 'times']"),
        ("index,name,times\n", "names no images"),
        (GOOD + "4,odd/3.png\n", "line 4 is ['4', 'odd/3.png']; expected INDEX,NAME,TIMES"),
        (GOOD + "-1,a,1\n", "line 4 is ['-1', 'a', '1']"),
        (GOOD + "9,a,1\n", "line 4 names image 9; the source has 6"),
        (GOOD + "4,a,0\n", "line 4 takes an image 0 times; 1 to 1,000,000"),
        (GOOD + f"4,a,{'9' * 30}\n", "expected INDEX,NAME,TIMES"),
        (GOOD + '4,"a,1\n', "is no list of images"),
    ],
)
def test_what_is_no_list_is_refused(folder, tmp_path, text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        build_source(config(folder, tmp_path, text))


def test_a_list_is_of_one_source(folder, tmp_path):
    both = config(folder, tmp_path, GOOD)
    both["sources"]["more"] = {"kind": "digits", "split": "train"}
    with pytest.raises(ValueError, match=r"sources has \['more', 'pool'\]; a list is of one"):
        build_source(both)
    with pytest.raises(ValueError, match="the chosen source needs 'path'"):
        build_source({**both, "path": ""})
