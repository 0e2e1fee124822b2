"""Writes all generated pages."""

from pathlib import Path

from docs.generators.commands import command_pages
from docs.generators.links import OUTSIDE, rewrite
from docs.generators.options import option_pages

ROOT = Path(__file__).parents[2]


def all_pages() -> dict[str, str]:
    """The Markdown of each page, by its path below docs/generated."""
    pages = {f"options/{name}.md": text for name, text in option_pages().items()}
    pages |= {f"commands/{name}.md": text for name, text in command_pages().items()}
    for file, place in OUTSIDE.items():
        if place.startswith("docs/generated/"):
            text = (ROOT / file).read_text(encoding="utf-8")
            pages[place.removeprefix("docs/generated/")] = rewrite(text, file, place)
    return pages


def write_pages(folder: Path) -> None:
    """Writes the pages; those that did not change keep their time, and others go."""
    pages = all_pages()
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).as_posix() not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
