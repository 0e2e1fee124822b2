"""--what=adapter: a linear layer on stored vectors."""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.embedding.adapter import Adapter, save_adapter
from dino_jax.tuning.catalogue import Catalogue
from dino_jax.tuning.linear import LinearCandidate, Recipe, init_params
from dino_jax.tuning.plan import Plan

RATE, DECAY = 1e-3, 1e-6  # of ILIAS (arXiv:2502.11748)


def check(arguments: argparse.Namespace, catalogue: Catalogue) -> None:
    """Nothing can be wrong with vectors that are there."""


def make(arguments: argparse.Namespace, plan: Plan, mesh: Mesh) -> LinearCandidate:
    """The first adapter."""
    vectors = plan.catalogue.vectors
    params = init_params(vectors.shape[1], arguments.dim, plan.vectors, arguments.seed)
    decay = DECAY if arguments.weight_decay is None else arguments.weight_decay
    recipe = Recipe(arguments.lr or RATE, decay)
    return LinearCandidate(vectors, params, plan.objective, recipe, mesh)


def frozen(candidate: LinearCandidate, plan: Plan) -> np.ndarray:
    """[G, D] vectors of the gallery as they are stored."""
    return plan.catalogue.vectors[plan.queries.gallery]


def hand_out(out: Path, snapshot: Adapter, plan: Plan, told: dict[str, Any]) -> None:
    """Writes the adapter; process 0 does."""
    if jax.process_index() == 0:
        save_adapter(out, snapshot, {"origin": plan.catalogue.described, **told})


def advice(arguments: argparse.Namespace, out: Path) -> str:
    """What to do with it."""
    return (
        f"{out} is handed out; dino-jax search build NEW --from={arguments.source} --adapter={out} "
        "makes an index with it"
    )
