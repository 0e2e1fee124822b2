"""--what=blocks, lora and all: networks that learn from photographs, and are handed out whole."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.search.origin import open_named_model
from dino_jax.search.photos import Photos
from dino_jax.tuning.catalogue import Catalogue
from dino_jax.tuning.linear import Recipe
from dino_jax.tuning.looks import Looks
from dino_jax.tuning.model_folder import Told, write_model
from dino_jax.tuning.moved import Moved, Params, move_all, move_last_blocks, move_low_rank
from dino_jax.tuning.network import NetworkCandidate, Settings
from dino_jax.tuning.plan import Plan
from dino_jax.weights.limits import check_batch


def _blocks(backbone: Params, given: argparse.Namespace) -> Moved:
    return move_last_blocks(backbone, given.blocks, given.layer_decay)


def _low_rank(backbone: Params, given: argparse.Namespace) -> Moved:
    return move_low_rank(backbone, given.rank, given.alpha or 2 * given.rank, given.seed)


def _all(backbone: Params, given: argparse.Namespace) -> Moved:
    return move_all(backbone, given.layer_decay)


class Kind(NamedTuple):
    """What moves, and the rate of Adam that is usual for it."""

    move: Any
    rate: float


KINDS = {"blocks": Kind(_blocks, 1e-4), "lora": Kind(_low_rank, 1e-3), "all": Kind(_all, 1e-5)}


class PhotoWay:
    """One of `KINDS`, see `adapter_way` for what a way has."""

    def check(self, arguments: argparse.Namespace, catalogue: Catalogue) -> None:
        """Checks what photographs and their network need.

        Raises:
          ValueError: if there are none, or the vectors are not the last cls tokens.
        """
        origin = catalogue.origin
        if origin.tokens != "cls" or origin.layers != 1:
            raise ValueError(
                f"--what={arguments.what} tunes the cls token of the last block; {catalogue.place} "
                f"has --tokens={origin.tokens} --layers={origin.layers}"
            )
        if not (arguments.photo_folder or catalogue.folder):
            raise ValueError(f"{catalogue.place} does not know its photos; pass --photo-folder=DIR")
        if not (arguments.model or origin.path):
            raise ValueError(
                f"{catalogue.place} does not know its model's place; pass --model=PATH"
            )
        check_batch(arguments.batch_size, jax.device_count())

    def make(self, arguments: argparse.Namespace, plan: Plan, mesh: Mesh) -> NetworkCandidate:
        """The network as it is."""
        catalogue, kind = plan.catalogue, KINDS[arguments.what]
        model = open_named_model(catalogue.origin, arguments.model, arguments.step, catalogue.place)
        if "batch_stats" in model.variables:
            raise ValueError(f"{model.title} has BatchNorm; tune an adapter on its vectors")
        looks = Looks(
            Photos(arguments.photo_folder or catalogue.folder),
            catalogue.names,
            model.view,
            catalogue.origin.image_size,
            arguments.max_pixels,
            arguments.threads,
        )
        looks.require(np.union1d(np.concatenate(plan.sampler.photos), plan.queries.gallery))
        moved = kind.move(model.variables["params"]["backbone"], arguments)
        recipe = Recipe(arguments.lr or kind.rate, arguments.weight_decay or 0.0)
        settings = Settings(
            plan.objective, plan.vectors, recipe, arguments.batch_size, arguments.seed
        )
        return NetworkCandidate(model, moved, looks, settings, mesh)

    def frozen(self, candidate: NetworkCandidate, plan: Plan) -> np.ndarray:
        """[G, D] vectors of the gallery by the network before its first step."""
        return candidate.vectors(plan.queries.gallery)

    def hand_out(self, out: Path, snapshot: Any, plan: Plan, told: dict[str, Any]) -> None:
        """Writes a folder like that of `dino-jax import`."""
        given = argparse.Namespace(**told["options"])
        origin = plan.catalogue.origin
        path = given.model or origin.path
        step = given.step if given.model else origin.step
        gain = told["best"]["gain"]
        lines = [f"gain in Recall@1 {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"]
        facts = {"tuned": {name: told[name] for name in ("source", "loss", "skus", "best")}}
        made = Told("tuned", "dino-jax tune", lines, facts)
        variables = {"params": {"backbone": snapshot}}
        write_model(out, variables, path, step, made, origin.image_size)

    def advice(self, arguments: argparse.Namespace, out: Path) -> str:
        """What to do with it."""
        return (
            f"{out} is handed out, a model as from dino-jax import; dino-jax search build NEW "
            f"{out} PHOTOS makes an index with it"
        )
