"""The section that says where images come from."""

import pytest

from configs.vits16_vanilla import images
from dino_jax.config.section import section
from dino_jax.data.sources import SOURCES, ImagesConfig, SourceKind, build_source, is_given


def test_a_mixture_has_sections_in_it():
    read = section(
        "config.data",
        {
            "kind": "mixture",
            "sources": {"a": {"kind": "digits", "weight": 2}, "b": {"kind": "tar"}},
        },
        ImagesConfig,
    )
    assert read.sources["a"] == ImagesConfig(kind="digits", weight=2.0)
    with pytest.raises(ValueError, match=r"config\.data\.sources\.a has no 'pat'.*'path'"):
        given = {"kind": "mixture", "sources": {"a": {"kind": "folder", "pat": "x"}}}
        section("config.data", given, ImagesConfig)


def test_the_base_config_has_the_defaults():
    assert section("config.data", images("folder", "train"), ImagesConfig) == ImagesConfig()


def test_images_are_given_by_a_path_unless_the_kind_needs_none():
    assert not is_given(ImagesConfig()) and is_given(ImagesConfig(path="photos"))
    assert is_given(ImagesConfig(kind="digits")) and is_given(ImagesConfig(kind="tfds"))
    given, missing = ImagesConfig(path="photos"), ImagesConfig()
    assert is_given(ImagesConfig(kind="mixture", sources={"a": given}))
    assert not is_given(ImagesConfig(kind="mixture", sources={"a": given, "b": missing}))
    assert not is_given(ImagesConfig(kind="mixture"))


@pytest.mark.parametrize(
    ("where", "given", "message"),
    [
        (
            "config.evaluations.knn.test",
            {"kind": "folder"},
            r"^config\.evaluations\.knn\.test: the folder source needs 'path', got none; "
            r"try --config\.evaluations\.knn\.test\.path=PATH",
        ),
        ("SOURCE", {"kind": "list"}, r"^SOURCE: the list source needs 'path', got none$"),
        ("--train", {"path": "/no/such"}, r"^--train: image folder '/no/such' does not exist"),
        ("config.x", {"kind": "digits", "split": "val"}, r"^config\.x: the digits have no split"),
        ("config.x", {"kind": "digit"}, r"^config\.x\.kind is 'digit'; did you mean 'digits'\?"),
        ("config.x", {"kind": "mixture"}, r"^config\.x: the mixture source needs 'sources', got"),
        (
            "config.x",
            {"kind": "mixture", "sources": {"a": {"kind": "digits", "split": "val"}}},
            r"^config\.x\.sources\.a: the digits have no split",
        ),
    ],
)
def test_messages_name_the_section_they_speak_of(where, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_source(given, where)


def test_the_order_of_a_mixture_does_not_depend_on_the_file():
    parts = {name: {"kind": "digits", "split": name} for name in ("train", "test")}
    mixture = build_source({"kind": "mixture", "sources": parts})
    assert mixture[0]["name"] == "test/0"


def test_a_kind_can_be_added_from_outside(monkeypatch):
    kind = SourceKind(("path",), lambda config, where: [config.path, where], ImagesConfig)
    monkeypatch.setitem(SOURCES, "mine", kind)
    assert build_source({"kind": "mine", "path": "x"}, "config.y") == ["x", "config.y"]
    assert not is_given(ImagesConfig(kind="mine"))
