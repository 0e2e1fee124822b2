"""The work of `dino-jax tune`: checks, the course, and what is handed out."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dino_jax.commands.batch_command import run_batch_command
from dino_jax.commands.facts import facts_of
from dino_jax.commands.one_writer import one_writer
from dino_jax.devices.sharding import make_mesh
from dino_jax.processes.agreement import Agreement
from dino_jax.tuning.catalogue import Catalogue, open_catalogue
from dino_jax.tuning.course import Result, tune
from dino_jax.tuning.guard import Queries
from dino_jax.tuning.near import find_near, write_near
from dino_jax.tuning.plan import Plan, prepare, say
from dino_jax.tuning.results import TUNING_JSON, describe_result
from dino_jax.tuning.skus import Skus, merge_skus
from dino_jax.tuning.ways import WAYS
from dino_jax.workdir.paths import absolute_path, write_atomically

NEAR_CSV = "near_duplicates.csv"
OURS = {TUNING_JSON, NEAR_CSV, "lock.json"}  # files that an earlier start may have left
SHOWN = 5  # pairs on the screen
NOT_BETTER = 1  # exit code


def look_for_near(arguments: argparse.Namespace, catalogue: Catalogue, out: Path) -> Skus:
    """Lists photographs of different SKUs that are almost the same; the SKUs to go on with.

    Raises:
      ValueError: if there are some, and the command line does not say what they are.
    """
    skus = catalogue.skus
    near = find_near(catalogue.vectors, skus, arguments.near)
    if not len(near.photos):
        return skus
    if jax.process_index() == 0:
        write_near(out / NEAR_CSV, near, catalogue.names, skus)
    pairs = f"{len(near.photos):,} pairs of photos of different SKUs have a cosine above"
    say(f"near        {pairs} {arguments.near:g}: {out / NEAR_CSV}")
    for (left, right), cosine in zip(near.photos[:SHOWN].tolist(), near.cosines, strict=False):
        sides = [f"{catalogue.names[i]} ({skus.names[skus.of[i]]})" for i in (left, right)]
        say(f"            {cosine:.4f}  {sides[0]}  ~  {sides[1]}")
    if arguments.merge:
        merged = merge_skus(skus, skus.of[near.photos])
        say(f"merged      {len(skus.names):,} SKUs are {len(merged.names):,} now")
        return merged
    if arguments.ignore:
        return skus
    raise ValueError(
        f"{pairs} {arguments.near:g} and would be learned as different. Look at "
        f"{out / NEAR_CSV}, and pass --merge if they are the same product, --ignore if they are "
        "not, or a larger --near"
    )


def check_out(out: Path) -> None:
    """Checks that a folder is free, or has nothing but what an earlier start left.

    Raises:
      ValueError: if it is not.
    """
    others = [path.name for path in out.iterdir() if path.name not in OURS] if out.is_dir() else []
    if others or (out.exists() and not out.is_dir()):
        raise ValueError(f"--out={out} exists and is not empty; choose a new folder")


def work(arguments: argparse.Namespace, out: Path) -> tuple[str, bool]:
    """Tunes; returns the last line, and whether something is handed out."""
    catalogue = open_catalogue(arguments)
    way = WAYS[arguments.what]
    way.check(arguments, catalogue)
    catalogue = catalogue._replace(skus=look_for_near(arguments, catalogue, out))
    plan = prepare(arguments, catalogue)
    candidate = way.make(arguments, plan, make_mesh(1))
    frozen = way.frozen(candidate, plan)
    result = tune(
        candidate, plan.sampler, plan.queries, frozen, plan.steps, arguments.evaluations, say
    )
    better = result.is_better
    told = describe(arguments, plan, result, better)
    if better:  # all processes take part in writing a checkpoint
        way.hand_out(out, result.snapshot, plan, told)
    if jax.process_index() == 0:
        write_atomically(os.fspath(out / TUNING_JSON), json.dumps(told, indent=1) + "\n")
    return conclude(arguments, out, result), better


def describe(
    arguments: argparse.Namespace, plan: Plan, result: Result, better: bool
) -> dict[str, Any]:
    """The content of tuning.json."""
    options = {name: value for name, value in vars(arguments).items() if name != "distributed"}
    return {
        "handed_out": better,
        "source": str(absolute_path(arguments.source)),
        "options": options,
        "loss": plan.loss,
        "skus": {"learned": len(plan.sampler.photos), "held_out": _held_out(plan.queries)},
        **describe_result(result),
        "code": facts_of({}),
    }


def _held_out(queries: Queries) -> int:
    return len(np.unique(queries.skus[queries.asked]))


def conclude(arguments: argparse.Namespace, out: Path, result: Result) -> str:
    """The last line on the screen."""
    gain, best = result.best.gain, result.best
    found = (
        f"Recall@1 on held-out SKUs {result.frozen:.4f} -> {best.recall:.4f} at step {best.step}, "
        f"gain {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    )
    if gain.is_proven and not result.is_better:
        return (
            f"{found}, but no more than chance finds: are the SKUs right? The frozen features "
            f"stay; nothing is handed out. {out / TUNING_JSON} has the numbers"
        )
    if not result.is_better:
        return (
            f"{found}: not more than its uncertainty. The frozen features stay; nothing is handed "
            f"out. {out / TUNING_JSON} has the numbers"
        )
    return f"{found}. {WAYS[arguments.what].advice(arguments, out)}"


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    outcome: list[bool] = []

    def locked(agreement: Agreement) -> str:
        out = Path(os.fspath(absolute_path(arguments.out)))
        check_out(out)
        with one_writer(out, "--out", agreement):
            line, better = work(arguments, out)
        outcome.append(better)
        return line if jax.process_index() == 0 else ""

    when_stopped = "nothing is handed out; the same command begins again"
    code = run_batch_command(locked, when_stopped, arguments)
    return code or (0 if outcome == [True] else NOT_BETTER)
