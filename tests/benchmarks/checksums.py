"""Cost of checksums in saving and restoring: python -m tests.benchmarks.checksums.

The state is that of a ViT-S/16 with 65,536 prototypes. Both forms take turns; the smallest times
are compared, since other work of the machine only adds to them.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax

from configs import vits16_vanilla
from dino_jax.devices.sharding import with_sharding
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.workdir import checkpoint_reading, checkpointing

IMAGES = 1_281_167  # ImageNet


class Seconds(NamedTuple):
    """What something took."""

    wall: float
    cpu: float  # of all threads; other work of the machine hardly changes it


def measure(work: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def save(folder: Path, state: Any) -> None:
    manager = checkpointing.open_checkpoints(folder, save_every_steps=1, keep=1)
    checkpointing.save(manager, 1, state)
    checkpointing.close(manager)


def restore(folder: Path, abstract: Any) -> None:
    manager = checkpointing.open_checkpoints(folder, save_every_steps=1, keep=1)
    state, _ = checkpointing.restore_or_init(manager, lambda: None, abstract)
    jax.block_until_ready(state)
    checkpointing.close(manager)


@contextlib.contextmanager
def without_checksums() -> Iterator[None]:
    nothing = mock.patch.object(checkpointing, "compute_checksums", lambda tree: {})
    unread = mock.patch.object(checkpoint_reading, "check_kinds", lambda *_: None)
    unchecked = mock.patch.object(checkpoint_reading, "check_arrays", lambda *_: None)
    with nothing, unread, unchecked:
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    recipe = build_recipe(read_config(vits16_vanilla.get_config()), IMAGES)
    state = jax.block_until_ready(jax.jit(recipe.init)(jax.random.key(0)))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = with_sharding(jax.eval_shape(lambda: state), jax.tree.map(lambda _: device, state))
    print(f"{sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6:.0f} MB")
    forms = {"with": contextlib.nullcontext, "without": without_checksums}
    times: dict[tuple[str, str], list[Seconds]] = {}
    for number in range(options.rounds + 1):
        for form in list(forms)[:: 1 if number % 2 else -1]:
            with tempfile.TemporaryDirectory() as folder, forms[form]():
                saved = measure(lambda: save(Path(folder), state))
                restored = measure(lambda: restore(Path(folder), abstract))
            if number:  # the first round warms up
                times.setdefault(("save", form), []).append(saved)
                times.setdefault(("restore", form), []).append(restored)
    for what in ("save", "restore"):
        for kind in Seconds._fields:
            ours, plain = (
                min(getattr(seconds, kind) for seconds in times[what, form]) for form in forms
            )
            ratio = f"{ours / plain:.3f}"
            print(f"{what} {kind} {plain:.2f} s, with checksums {ours:.2f} s, ratio {ratio}")


if __name__ == "__main__":
    main()
