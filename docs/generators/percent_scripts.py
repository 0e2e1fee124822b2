"""Pages from Python scripts in cells (`# %%`, jupytext's percent format): docs/notebooks/*.py.

Nothing is run here; tests/docs/test_notebooks.py runs them.
"""

import re
from typing import Any

_CELL = re.compile(r"^# %%(.*)$", re.M)
# Links to code that is not a page of the site.
_TO_CODE = re.compile(r"\[([^]]+)\]\((?:\.\./)+(?:configs|dino_jax|tests)/[^)\s]*\.py\)")


def to_markdown(script: str) -> str:
    """The cells of a script as Markdown: those of text as they are, the others as Python blocks.

    Raises:
      ValueError: if it does not begin with a cell.
    """
    before, *cells = _CELL.split(script)
    if before.strip():
        raise ValueError(f"a script begins with a cell (# %%), this one with {before[:40]!r}")
    parts = []
    for kind, cell in zip(cells[::2], cells[1::2], strict=True):
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", cell.strip(), flags=re.M))
        elif cell.strip():
            parts.append(f"```python\n{cell.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def without_links_to_code(text: str) -> str:
    """A page in which what links to a file of code is plain text: GitHub alone can show it."""
    return _TO_CODE.sub(r"\1", text)


def rewrite_source(app: Any, name: str, source: list[str]) -> None:
    """Sphinx calls this for each page that it reads."""
    if str(app.env.doc2path(name)).endswith(".py"):
        source[0] = to_markdown(source[0])
    source[0] = without_links_to_code(source[0])


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_source_suffix(".py", "markdown")
    app.connect("source-read", rewrite_source)
    return {"parallel_read_safe": True}
