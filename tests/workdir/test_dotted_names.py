"""Nested sections as one flat table of dotted names."""

from dino_jax.workdir.dotted_names import flatten


def test_flatten_gives_dotted_names_and_keeps_empty_sections():
    sections = {"b": {"c": 1, "d": {}}, "a": [1]}
    assert flatten(sections) == {"b.c": 1, "b.d": {}, "a": [1]}
    assert flatten(sections, "config") == {"config.b.c": 1, "config.b.d": {}, "config.a": [1]}
    assert flatten({}, "config") == {"config": {}}
