"""HTML and SVG as text: everything that is not markup yet is escaped."""

import html
import re

VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})

# What may not stand in an HTML document, even as a reference: controls, surrogates, non-characters.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Markup(str):
    """Text that already is HTML."""


def escape(text: object) -> Markup:
    """Text as HTML that shows it; characters that HTML forbids become U+FFFD."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(_FORBIDDEN.sub("\ufffd", str(text))))


def join(*children: object) -> Markup:
    """Joins markup and escaped text; skips None."""
    return Markup("".join(escape(child) for child in children if child is not None))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """`element("p", "a < b", class_="note")` is `<p class="note">a &lt; b</p>`.

    Args:
      name: name of the element.
      children: markup, or text that is escaped; None is skipped.
      attributes: a trailing "_" is dropped and "_" becomes "-"; None and False are skipped, True
        is an attribute without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{escape(value)}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in VOID else f"{opening}{join(*children)}</{name}>")
