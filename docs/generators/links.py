"""Links between pages: one text for GitHub and the site, where some files lie elsewhere."""

import posixpath
import re
from typing import Any

# Files outside docs/ that are pages of the site, too.
OUTSIDE = {
    "CHANGELOG.md": "docs/generated/changelog.md",
    "CONTRIBUTING.md": "docs/generated/contributing.md",
    "README.md": "docs/index.md",
    "launch/README.md": "docs/generated/launch.md",
}
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def rewrite(text: str, written_for: str, shown_at: str) -> str:
    """Markdown with the links of one place as links of another.

    Args:
      text: the page.
      written_for: its path in the repository, such as "docs/plan.md".
      shown_at: where the site has it, as a path in the repository.
    """

    def move(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(written_for), match[1]))
        target = OUTSIDE.get(target, target)
        return posixpath.relpath(target, posixpath.dirname(shown_at))

    return _LINK.sub(move, text)


def rewrite_source(app: Any, name: str, source: list[str]) -> None:
    """Sphinx calls this for each page that it reads."""
    if not name.startswith("generated/"):
        place = f"docs/{name}.md"
        source[0] = rewrite(source[0], place, place)
