"""The whole document: the parts of a report in their order."""

from collections.abc import Sequence
from datetime import datetime
from importlib import resources

from dino_jax.report.config import draw_config
from dino_jax.report.curves import draw_sections
from dino_jax.report.history import Run, is_number
from dino_jax.report.markup import Markup, element, join
from dino_jax.report.overview import draw_diagnosis, draw_facts
from dino_jax.report.probes import draw_crops, draw_neighbours, draw_probes


def draw_page(runs: Sequence[Run], written: datetime) -> str:
    """The report as one HTML document without outside references.

    Args:
      runs: at least one; several are drawn over each other.
      written: time of the report, shown on the page.
    """
    names = [run.name for run in runs]
    title = names[0] if len(names) == 1 else " vs. ".join(names)
    body = element(
        "body",
        element(
            "header",
            element("div", "dino_jax · run report", class_="kicker"),
            element("h1", title),
            *(describe(run, several=len(runs) > 1) for run in runs),
            draw_facts(runs),
        ),
        element(
            "main",
            draw_diagnosis(runs),
            draw_sections(runs),
            draw_probes(runs),
            draw_neighbours(runs),
            draw_crops(runs),
            draw_config(runs),
        ),
        element("footer", *_closing_lines(runs, written)),
        element("script", _asset("page.js")),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · dino_jax"),
        element("style", _asset("page.css")),
    )
    return join(Markup("<!DOCTYPE html>\n"), element("html", head, body, lang="en"), Markup("\n"))


def describe(run: Run, several: bool) -> Markup:
    """One line about network, data and batch, as far as the config tells."""
    batch_size, epochs, seed = (run.option(name) for name in ("batch_size", "epochs", "seed"))
    known = [
        run.name if several else None,
        _describe_backbone(run.table("network", "backbone")),
        run.option("data", "kind"),
        f"batch {batch_size}" if is_number(batch_size) else None,
        f"{epochs:g} epochs" if is_number(epochs) else None,
        f"seed {seed}" if is_number(seed) else None,
    ]
    return element("p", " · ".join(str(part)[:200] for part in known if part), class_="soft")


def _describe_backbone(backbone: dict) -> str | None:
    if backbone.get("kind") == "resnet":
        return f"ResNet-{backbone.get('size')}"
    if backbone.get("kind") != "vit":
        return None
    size = str(backbone.get("size", "")).capitalize()
    if backbone.get("embed_dim"):
        size = f"{backbone['embed_dim']} wide, {backbone.get('depth') or '?'} deep"
    return f"ViT {size}, patch {backbone.get('patch_size')}"


def _closing_lines(runs: Sequence[Run], written: datetime) -> list[Markup]:
    lines = [f"{run.name}: {note}." for run in runs for note in run.notes]
    places = ", ".join(str(run.folder) for run in runs)
    lines.append(f"Written {written:%Y-%m-%d %H:%M} UTC from {places}")
    return [element("p", line) for line in lines]


def _asset(name: str) -> Markup:
    return Markup((resources.files("dino_jax.report") / name).read_text("utf-8"))
