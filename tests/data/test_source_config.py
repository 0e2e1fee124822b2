"""The section that says where images come from."""

from typing import get_args

import pytest

from configs.vits16_vanilla import images
from dino_jax.config.section import section
from dino_jax.data.sources import _BUILDERS, SourceConfig, is_given
from dino_jax.data.sources.config import Kind


def test_every_source_is_a_kind_of_the_section():
    assert set(get_args(Kind)) == set(_BUILDERS)


def test_a_mixture_has_sections_in_it():
    read = section(
        "config.data",
        {
            "kind": "mixture",
            "sources": {"a": {"kind": "digits", "weight": 2}, "b": {"kind": "tar"}},
        },
        SourceConfig,
    )
    assert read.sources["a"] == SourceConfig(kind="digits", weight=2.0)
    with pytest.raises(ValueError, match=r"config\.data\.sources\.a has no 'pat'.*'path'"):
        given = {"kind": "mixture", "sources": {"a": {"kind": "folder", "pat": "x"}}}
        section("config.data", given, SourceConfig)


def test_the_base_config_has_the_defaults():
    assert section("config.data", images("folder", "train"), SourceConfig) == SourceConfig()


def test_images_are_given_by_a_path_unless_the_kind_needs_none():
    assert not is_given(SourceConfig()) and is_given(SourceConfig(path="photos"))
    assert is_given(SourceConfig(kind="digits")) and is_given(SourceConfig(kind="tfds"))
    given, missing = SourceConfig(path="photos"), SourceConfig()
    assert is_given(SourceConfig(kind="mixture", sources={"a": given}))
    assert not is_given(SourceConfig(kind="mixture", sources={"a": given, "b": missing}))
    assert not is_given(SourceConfig(kind="mixture"))
