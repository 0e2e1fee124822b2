"""The first weights of a run, from a run of dino_jax or an official file, for `config.init_from`.

Only weights are taken, and the centers that belong to them: the run starts at step 0 with its own
schedules and optimizer. All networks of the state start from the one that the source evaluates.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from dino_jax.config.section import option
from dino_jax.models.backbone import Backbone, ImplicitSettings
from dino_jax.models.position import resize_position_embedding
from dino_jax.step.train_state import TrainState, Variables
from dino_jax.weights.first_kernel import choose_channels, find_first_kernel, mix_channels
from dino_jax.weights.source import BACKBONE, POSITIONS, Source, open_source, take_part
from dino_jax.weights.suffixes import SUFFIXES
from dino_jax.weights.torch_names import Path
from dino_jax.workdir import checkpointing
from dino_jax.workdir.paths import absolute_path


@dataclasses.dataclass(frozen=True)
class InitFromConfig:
    """The section `config.init_from`."""

    path: str = option(
        "", "workdir of a run, import or file of weights (docs/weights.md); '': random numbers"
    )
    step: int | None = option(None, "checkpoint of the workdir; None: the newest", at_least=0)
    heads: Literal["import", "fresh"] = option(
        "import", "import those that fit, the others are random; or all are random"
    )
    channels: str = option(
        "",
        "weights for images of other channels: mean, repeat, or for each of ours the number of one "
        "of theirs, as 0,1,2,2; '': an error",
    )


@dataclasses.dataclass(frozen=True)
class FirstWeights:
    """Initial weights for the networks of a run, instead of random numbers.

    Attributes:
      variables: NumPy arrays of the parts that are imported; {} for none.
      centers: [K] imported centers by objective.
      lines: lines for the console about what was imported and what was not.
    """

    variables: Variables = dataclasses.field(default_factory=dict)
    centers: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def init(
        self, init: Callable[[jax.Array], TrainState], rng: jax.Array, shardings: TrainState
    ) -> TrainState:
        """First state on the mesh; imported weights replace random numbers in every network.

        Args:
          init: makes a state with random networks.
          rng: base key of the run.
          shardings: shardings of the state.
        """

        def init_all(rng: jax.Array, imported: Variables, centers: Variables) -> TrainState:
            state = init(rng)
            # Copies: donated buffers must not be those of another network.
            networks = {
                name: _replace(network, jax.tree.map(jnp.copy, _take_known(imported, network)))
                for name, network in state.networks.items()
            }
            objectives = _replace(state.objectives, centers)
            return state.replace(networks=networks, objectives=objectives)

        places = _fullest(shardings.networks)
        variables = _place(self.variables, places)
        centers = {name: {"center": center} for name, center in self.centers.items()}
        centers = _place(centers, shardings.objectives)
        return jax.jit(init_all, out_shardings=shardings)(rng, variables, centers)


def check_init_from(config: Any, workdir: epath.PathLike) -> None:
    """Checks that there is what `config.init_from` names, unless the workdir has checkpoints.

    Args:
      config: the section.
      workdir: of the run; "": a new one.

    Raises:
      OSError: if there is no such file, run or checkpoint.
      ValueError: if a file is given with a step.
    """
    if not config.path or (workdir and checkpointing.checkpoint_steps(workdir)):
        return
    where = f"config.init_from.path ({config.path})"
    if config.path.endswith(SUFFIXES):
        if not absolute_path(config.path).exists():
            raise FileNotFoundError(f"{where} does not exist")
        if config.step is not None:
            raise ValueError(
                f"config.init_from.step ({config.step}) is for workdirs, not for a file"
            )
        return
    steps = checkpointing.checkpoint_steps(config.path)
    if not steps:
        raise FileNotFoundError(
            f"{where} has no checkpoints; give the workdir of a run, an import, or a file that "
            f"ends in one of {', '.join(SUFFIXES)}"
        )
    if config.step is not None and config.step not in steps:
        raise FileNotFoundError(
            f"config.init_from.step ({config.step}) is not a checkpoint of {config.path}; steps "
            f"found: {sorted(steps)}"
        )


def load_first_weights(
    config: Any, abstract: TrainState, backbone: Backbone, workdir: epath.PathLike
) -> FirstWeights:
    """Reads what `config.init_from` names, unless the workdir has checkpoints: those win.

    Args:
      config: the section `init_from`: path, step, heads.
      abstract: the state of the run, as shapes.
      backbone: backbone module of the run.
      workdir: workdir of the run.

    Raises:
      OSError: if there is no such file or checkpoint, or it cannot be read.
      ValueError: if a tensor of the backbone is missing, left over or of another shape (lists all
        of them), the source is of another kind, or a value of the section is unknown.
    """
    if not config.path:
        return FirstWeights()
    if checkpointing.checkpoint_steps(workdir):
        return FirstWeights(lines=("init_from   ignored: the workdir has checkpoints of its own",))
    like = _fullest(abstract.networks)
    source = open_source(config.path, config.step, like)
    variables, lines = _import_backbone(source, like, backbone, config.channels)
    for name in sorted(set(like["params"]) - {BACKBONE}):
        head, line = _import_head(source, name, like, config.heads)
        variables = _replace(variables, head)
        lines.append(line)
    fresh = set(like["params"]) - set(variables["params"])
    centers, center_lines = _import_centers(source, abstract.objectives, fresh)
    lines += center_lines
    unused = sorted(source.parts() - set(like["params"]))
    if unused:
        lines.append(f"            not used, this network has no such head: {', '.join(unused)}")
    return FirstWeights(variables, centers, (f"init_from   {source.title}", *lines))


def _import_backbone(
    source: Source, like: Variables, backbone: Backbone, channels: str
) -> tuple[Variables, list[str]]:
    """The backbone with a position table of our size, and the lines that say so."""
    flat: dict[Path, Any] = flatten_dict(take_part(like, BACKBONE))
    count, lines = source.positions(), []
    if POSITIONS in flat and count is not None:
        flat[POSITIONS] = jax.ShapeDtypeStruct((1, count, flat[POSITIONS].shape[2]), jnp.float32)
    flat, factors = _ask_for_channels(flat, source, channels)
    variables = source.read(unflatten_dict(flat))
    if factors is not None:
        variables = mix_channels(variables, factors)
    ours = backbone.implicit
    _check_attention_heads(source, ours)
    variables, lines = _fit_positions(variables, source, ours)
    lines += _name_differences(source, ours)
    if factors is not None:
        here, there = factors.shape
        lines.append(f"            first layer: MADE for {here} channels of {there} ({channels})")
    size = sum(leaf.size for leaf in jax.tree.leaves(variables))
    return variables, [f"            backbone: imported, {size:,} numbers", *lines]


def _ask_for_channels(
    flat: dict[Path, Any], source: Source, channels: str
) -> tuple[dict[Path, Any], np.ndarray | None]:
    """Shapes with the first kernel of the source, and how ours is made of it; None: it is ours.

    Raises:
      ValueError: if the channels differ and `channels` does not say what to do.
    """
    path, theirs = find_first_kernel(flat), source.channels()
    if path is None or theirs in (None, ours := flat[path].shape[2]):
        return flat, None
    if not channels:
        raise ValueError(
            f"the {source.title} takes images of {theirs} channels, the network of {ours}; set "
            "--config.init_from.channels to mean, repeat, or the number of one of theirs for each "
            "of ours"
        )
    height, width, _, dim = flat[path].shape
    asked = jax.ShapeDtypeStruct((height, width, theirs, dim), jnp.float32)
    return flat | {path: asked}, choose_channels(channels, theirs, ours)


def _check_attention_heads(source: Source, ours: ImplicitSettings) -> None:
    theirs = source.implicit.num_heads
    if theirs not in (None, ours.num_heads):
        raise ValueError(
            f"the {source.title} has {theirs} attention heads, network.backbone.num_heads is "
            f"{ours.num_heads}: the shapes match, but the weights would be split into other heads"
        )


def _name_differences(source: Source, ours: ImplicitSettings) -> list[str]:
    """Lines about settings that change the features although all shapes match."""
    lines = []
    for name in ("position_kernel", "norm_epsilon", "rope", "key_bias"):
        here, there = getattr(ours, name), getattr(source.implicit, name)
        if None not in (here, there) and here != there:
            line = (
                f"            note: {name} is {here!r} here, {there!r} where the weights are from"
            )
            lines.append(line)
    return lines


def _fit_positions(
    variables: Variables, source: Source, ours: ImplicitSettings
) -> tuple[Variables, list[str]]:
    """Resamples the position table to the grid of our backbone, if there is one and it differs."""
    flat: dict[Path, Any] = flatten_dict(variables)
    grid, image_size, kernel = ours.grid, ours.image_size, ours.position_kernel
    if grid is None or image_size is None or kernel is None:
        return variables, []
    table = flat[POSITIONS]
    count = table.shape[1] - 1
    side = math.isqrt(count)
    theirs = source.implicit.grid or (grid if count == grid[0] * grid[1] else (side, side))
    if theirs == grid:
        return variables, []
    if theirs[0] * theirs[1] != count:
        raise ValueError(
            f"the position table of {source.title} has {count} patches, which is not a square, and "
            f"the network has {grid[0]} x {grid[1]}: give network.backbone.image_size the size "
            "for which the table was made"
        )
    resized = resize_position_embedding(jnp.asarray(table), theirs, grid, image_size, kernel)
    flat[POSITIONS] = np.asarray(resized)
    said = (
        f"            position table: RESAMPLED from {theirs[0]} x {theirs[1]} to "
        f"{grid[0]} x {grid[1]} patches ({kernel})"
    )
    return unflatten_dict(flat), [said]


def _import_head(source: Source, name: str, like: Variables, heads: str) -> tuple[Variables, str]:
    """One head, {} if it starts fresh; and the line that says which and why."""
    title = f"            {name.replace('heads_', 'head ')}"
    if heads == "fresh":
        return {}, f"{title}: FRESH (random), as config.init_from.heads says"
    if name not in source.parts():
        return {}, f"{title}: FRESH (random), the source has none"
    try:
        return source.read(take_part(like, name)), f"{title}: imported"
    except ValueError as error:
        return {}, f"{title}: FRESH (random), because {error}"


def _import_centers(
    source: Source, objectives: Variables, fresh: set[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Centers that fit, unless heads start fresh, and the lines that say which and why."""
    centers, lines = {}, []
    for name, center in sorted(source.centers().items()):
        ours = objectives.get(name, {}).get("center")
        title = f"            center of {name}"
        if ours is None:
            lines.append(f"{title}: not used, this run has none")
        elif fresh:
            lines.append(f"{title}: FRESH (zero), as {', '.join(sorted(fresh))} is random")
        elif ours.shape != center.shape:
            lines.append(f"{title}: FRESH (zero), the source has {center.shape}, we {ours.shape}")
        else:
            centers[name] = np.asarray(center, np.float32)
            lines.append(f"{title}: imported")
    return centers, lines


def _fullest(networks: dict[str, Variables]) -> Variables:
    """Variables of the role that learns: it has all heads, others may lack some."""
    return max(networks.values(), key=lambda tree: len(tree["params"]))


def _take_known(variables: Variables, network: Variables) -> Variables:
    """The parts of the variables that a network has."""
    return {
        kind: {name: part for name, part in parts.items() if name in network.get(kind, {})}
        for kind, parts in variables.items()
    }


def _place(tree: Variables, shardings: Variables) -> Variables:
    """NumPy arrays as global ones, with the shardings of their names."""
    places: dict[Path, Any] = flatten_dict(shardings)
    leaves: dict[Path, Any] = flatten_dict(tree)
    placed = {
        path: jax.make_array_from_callback(leaf.shape, places[path], leaf.__getitem__)
        for path, leaf in leaves.items()
    }
    return unflatten_dict(placed)


def _replace(variables: Variables, parts: Variables) -> Variables:
    """`variables` with some leaves replaced or added."""
    whole = flatten_dict(variables, keep_empty_nodes=True) | flatten_dict(parts)
    return unflatten_dict(whole)
