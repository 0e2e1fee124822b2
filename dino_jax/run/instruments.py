"""Evaluations, pictures and guard: periodic looks at the networks of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from dino_jax.data.decoding import build_decoding
from dino_jax.data.sources import ImageSource
from dino_jax.evaluation.online.base import Context
from dino_jax.evaluation.online.build import (
    Scheduled,
    build_evaluations,
    check_evaluations,
    every_steps,
    left_out,
)
from dino_jax.models.arithmetic import suited_to
from dino_jax.run.guard import Guard, check_guard
from dino_jax.step.recipe import Recipe
from dino_jax.step.roles import in_state
from dino_jax.visualize.probe_images import ProbeImages, check_probes
from dino_jax.workdir.paths import absolute_path


@dataclass(frozen=True)
class Instruments:
    """Evaluations, pictures and guard of a run.

    Attributes:
      evaluations: evaluations by name.
      evaluated: role whose pictures are drawn.
      show_every_steps: intervals at which probes and report are drawn: those of all evaluations,
        including the ones that are left out.
      probes: probe images, None for none.
      guard: guards against a network that gets worse than the model that it started from.
      sources: open sources of images by section, that of the training images among them.
      lines: lines for the screen.
    """

    evaluations: Mapping[str, Scheduled]
    evaluated: str
    show_every_steps: frozenset[int]
    probes: ProbeImages | None
    guard: Guard
    sources: Mapping[str, ImageSource]
    lines: tuple[str, ...]

    def due(self, step: int, last: bool) -> list[Scheduled]:
        """The evaluations that measure after a step."""
        return [found for found in self.evaluations.values() if found.due(step, last)]

    def show_pictures(self, step: int, last: bool) -> bool:
        """Whether probes and report are drawn after a step."""
        rhythms = self.show_every_steps
        return bool(rhythms) and (last or any(step % every == 0 for every in rhythms))


def build_instruments(
    config: Any, recipe: Recipe, mesh: Mesh, source: ImageSource, workdir: str
) -> Instruments:
    """Opens what the evaluations need.

    Args:
      config: the whole config.
      recipe: recipe of the run.
      mesh: mesh of the devices.
      source: source of the training images.
      workdir: workdir of the run.

    Raises:
      ValueError: as `check_instruments`, and if something does not fit the images.
      OSError: if images are missing.
    """
    check_instruments(config, recipe, mesh)
    context = make_context(config, recipe, mesh, workdir)
    context.share(config.data, source)
    evaluations = build_evaluations(config, context, recipe.steps_per_epoch)
    rhythms = {every_steps(x, recipe.steps_per_epoch) for _, x in config.evaluations.items()}
    show = frozenset(rhythms - {0})
    probes = ProbeImages(config, context, source) if show and config.probes.count else None
    return Instruments(
        evaluations=evaluations,
        evaluated=context.evaluated,
        show_every_steps=show,
        probes=probes,
        guard=Guard(config, context, evaluations, recipe.steps_per_epoch, recipe.total_steps),
        sources=context.sources,
        lines=tuple(left_out(config)),
    )


def check_instruments(config: Any, recipe: Recipe, mesh: Mesh) -> None:
    """Checks evaluations, guard and probes without opening any images.

    Args:
      config: the whole config.
      recipe: recipe of the run.
      mesh: mesh of the devices.

    Raises:
      ValueError: if a name is unknown, or a value does not fit devices or networks.
    """
    context = make_context(config, recipe, mesh, workdir="")
    check_evaluations(config, context)
    check_guard(config)
    check_probes(config, context)


def make_context(config: Any, recipe: Recipe, mesh: Mesh, workdir: str) -> Context:
    """The run, as its evaluations know it; opens nothing."""
    return Context(
        networks={
            name: suited_to(role.network, mesh.devices.flat[0])
            for name, role in recipe.roles.items()
        },
        frozen=frozenset(recipe.roles) - set(in_state(recipe.roles)),
        evaluated=recipe.evaluated,
        image_size=config.image_size,
        max_pixels=config.max_pixels,
        decoding=build_decoding("config.data", config.data),
        mesh=mesh,
        folder=absolute_path(workdir),
    )
