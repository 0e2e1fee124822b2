"""Elements escape what is not markup."""

import pytest

from dino_jax.report.markup import Markup, element, escape, join


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = element("b", "a < b")
    assert element("p", inner, " & ", title='"x"') == (
        '<p title="&quot;x&quot;"><b>a &lt; b</b> &amp; </p>'
    )


def test_names_of_attributes_lose_the_last_underscore_and_get_hyphens():
    assert element("i", class_="a", aria_hidden="true") == '<i class="a" aria-hidden="true"></i>'
    assert element("img", alt="") == '<img alt="">'


def test_attributes_that_are_none_or_false_are_left_out_and_true_has_no_value():
    assert element("input", value=None, disabled=False, required=True) == "<input required>"


def test_none_is_no_child():
    assert join("a", None, Markup("<br>")) == "a<br>"


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x85", "\ud800", "\uffff"])
def test_characters_that_html_forbids_are_replaced(character):
    assert escape(f"a{character}b\n") == "a\ufffdb\n"
    escape(character).encode()
