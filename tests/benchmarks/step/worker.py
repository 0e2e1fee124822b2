"""One side of the benchmark, a process of its own: python -m tests.benchmarks.step.worker.

Reads a line of JSON for every step, {"step": 3}, and answers with its loss and CPU seconds.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dino_jax.devices.host_memory import keep_freed_memory
from tests.benchmarks.step.cases import CPU_CASES, IMAGES, cpu_config

BATCHES = 2  # different batches, in turn
WEIGHTS, CROPS, PLAN = "weights.npz", "crops.npz", "plan.json"
Step = Callable[[int], float]


def make_ours(case: str, options: dict[str, Any], folder: Path) -> Step:
    """Our step, as dino_jax.train compiles it; leaves what the other side needs in `folder`."""
    import jax

    from dino_jax.commands.compilation_cache import keep_programs
    from dino_jax.devices.sharding import jit_step, make_mesh, state_sharding
    from dino_jax.step.recipe import build_recipe
    from dino_jax.weights import to_torch

    keep_programs(options.pop("cache"))
    config = cpu_config(CPU_CASES[case], options)
    recipe = build_recipe(config, IMAGES)
    mesh = make_mesh(1)
    abstract = jax.eval_shape(recipe.init, jax.random.key(0))
    shardings = state_sharding(mesh, abstract)
    state = jax.jit(recipe.init, out_shardings=shardings)(jax.random.key(0))
    draws = np.random.default_rng(0)
    crops = config.augment.crops
    shapes = {
        "global_crops": (config.batch_size, 2, *crops["global_1"].size, 3),
        "local_crops": (config.batch_size, crops["local"].count, *crops["local"].size, 3),
    }
    batches = [
        {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(BATCHES)
    ]
    write_for_torch(folder, config, recipe, to_torch(state.networks["student"]), batches)
    step = jit_step(recipe.make_step(config.runtime.log_every_steps, mesh), mesh, shardings)
    on_device = [jax.device_put(batch) for batch in batches]
    start = time.process_time()
    compiled = step.lower(state, on_device[0]).compile()
    print(json.dumps({"compile": time.process_time() - start}), flush=True)

    def run(index: int) -> float:
        nonlocal state
        state, metrics = compiled(state, on_device[index % BATCHES])
        return float(metrics["loss"])

    return run


def write_for_torch(folder: Path, config: Any, recipe: Any, weights: Any, batches: Any) -> None:
    """Weights, crops and numbers that the other side will use."""
    np.savez(folder / WEIGHTS, **weights)
    # [B, V, H, W, C] -> [V * B, C, H, W]: official crops count view by view.
    flat = {
        f"{name}_{index}": x.transpose(1, 0, 4, 2, 3).reshape(-1, 3, *x.shape[2:4])
        for index, batch in enumerate(batches)
        for name, x in batch.items()
    }
    np.savez(folder / CROPS, **flat)
    backbone, head = recipe.network.backbone, config.network.heads["dino"]
    dino, optimizer = config.objectives["dino"], config.optimizer
    steps = range(100)
    schedules = [recipe.schedule_values(step + 1) for step in steps]
    plan = {
        "shape": {
            "dim": backbone.embed_dim,
            "depth": backbone.depth,
            "heads": backbone.num_heads,
            "patch": backbone.patch_size,
            "image_size": backbone.image_size[0],
            "prototypes": head.out_dim,
        },
        "hyper": {
            "lr": [values["lr"] for values in schedules],
            "weight_decay": [values["weight_decay"] for values in schedules],
            "momentum": [float(recipe.roles["teacher"].follow.momentum(step)) for step in steps],
            "b1": optimizer.adamw.b1,
            "b2": optimizer.adamw.b2,
            "eps": optimizer.adamw.eps,
            "clip_grad": optimizer.clip_grad,
            "student_temperature": dino.student_temperature,
            "teacher_temperature": dino.teacher_temperature,
            "center_momentum": dino.center_momentum,
        },
    }
    (folder / PLAN).write_text(json.dumps(plan))


def make_torch(case: str, options: dict[str, Any], folder: Path) -> Step:
    """A PyTorch step on what our side has left in `folder`."""
    import torch

    from tests.benchmarks.step.torch_dino import Trainer
    from tests.benchmarks.step.torch_variants import VARIANTS

    del case
    torch.set_num_threads(1)
    plan, variant = json.loads((folder / PLAN).read_text()), VARIANTS[options["variant"]]
    trainer = Trainer(plan["shape"], dict(np.load(folder / WEIGHTS)), plan["hyper"], variant)
    arrays = np.load(folder / CROPS)
    batches = [
        [torch.from_numpy(arrays[f"{name}_{i}"]) for name in ("global_crops", "local_crops")]
        for i in range(BATCHES)
    ]
    print(json.dumps({"compile": 0.0}), flush=True)
    return lambda index: trainer.step(index, batches[index % BATCHES])


SIDES = {"ours": make_ours, "torch": make_torch}


def main() -> None:
    side, case, options, folder = sys.argv[1:]
    keep_freed_memory()  # as dino_jax.train does; it helps both sides
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    step = SIDES[side](case, json.loads(options), Path(folder))
    for line in sys.stdin:
        index = json.loads(line)["step"]
        start = time.process_time()
        loss = step(index)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"loss": loss, "seconds": seconds, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
