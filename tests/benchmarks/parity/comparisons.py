"""Numbers that the official codes gave, each beside what ours gives for the same inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.objectives import gram, koleo, mae, mocov3, simclr
from dino_jax.objectives.byol import NORM_FLOOR, regression_loss
from dino_jax.objectives.centering import center_and_sharpen, sinkhorn_knopp, update_center
from dino_jax.objectives.dino import dino_losses
from dino_jax.objectives.grid_resize import resize_grid
from dino_jax.objectives.ibot import ibot_loss
from dino_jax.objectives.sphere import to_sphere
from tests.objectives.branches import image_major

GOLDEN = Path(__file__).parents[2] / "golden"


@dataclass(frozen=True)
class Comparison:
    """One thing that both codes compute.

    Attributes:
      name: what it is.
      recording: file in tests/golden and the names of its arrays.
      theirs: what was recorded, float64.
      ours: of the same shape.
      tolerance: largest difference, relative to the largest size of the recorded numbers.
    """

    name: str
    recording: str
    theirs: np.ndarray
    ours: np.ndarray
    tolerance: float

    @property
    def difference(self) -> float:
        """Largest difference over the largest size of the recorded numbers."""
        size = float(np.abs(self.theirs).max())
        return float(np.abs(self.ours - self.theirs).max()) / (size or 1.0)


def compare(name: str, recording: str, theirs: Any, ours: Any, tolerance: float) -> Comparison:
    """A comparison of arrays of any kind; an error if their shapes differ."""
    theirs, ours = (np.asarray(x, np.float64) for x in (theirs, ours))
    if theirs.shape != ours.shape:
        raise ValueError(f"{name}: recorded {theirs.shape}, ours {ours.shape}")
    return Comparison(name, recording, theirs, ours, tolerance)


def load(name: str) -> Any:
    """The arrays of a recording."""
    return np.load(GOLDEN / f"{name}.npz")


def compare_dino_steps() -> dict[str, list[Comparison]]:
    """DINO's loss and center over five steps with ten crops, each from the state before it."""
    file = "v1/dino_loss_mc10"
    arrays, center = load(file), jnp.zeros(512)
    losses, gradients, centers = [], {}, []
    loss = jax.jit(jax.value_and_grad(lambda s, t: sum(dino_losses(s, t, 0.1))))
    for step in range(5):
        student, teacher = (
            jnp.asarray(image_major(arrays[f"{who}_{step}"], 4)) for who in ("student", "teacher")
        )
        temperature = float(arrays["temps"][arrays["epochs"][step]])
        targets = center_and_sharpen(teacher, center, temperature)
        value, gradients[step] = loss(student, targets)
        center = update_center(center, teacher, 0.9)
        losses.append(value)
        centers.append(center)
    steps = range(5)
    return {
        "steps": [
            compare(
                "loss of DINO", f"{file}: loss_0 to loss_4",
                [arrays[f"loss_{i}"] for i in steps], losses, 1e-6,
            ),
            compare(
                "center of DINO", f"{file}: center_0 to center_4",
                [arrays[f"center_{i}"][0] for i in steps], centers, 2e-6,
            ),
        ],
        "gradients": [
            compare(
                f"DINO, step {i}", f"{file}: grad_student_{i}",
                image_major(arrays[f"grad_student_{i}"], 4), gradients[i], 3e-6,
            )
            for i in (0, 4)
        ],
    }  # fmt: skip


def compare_dinov2() -> dict[str, list[Comparison]]:
    """DINOv2's losses, targets and gradients."""
    file, arrays = "v2/b_losses", load("v2/b_losses")
    temperature = float(arrays["dino/teacher_temp"])
    student = np.concatenate(
        [image_major(arrays[f"dino/student_{kind}"], 6) for kind in ("global", "local")], axis=1
    )
    logits = arrays["dino/teacher_logits_1"]
    balance = jax.jit(sinkhorn_knopp, static_argnums=2)
    balanced = balance(jnp.asarray(logits), temperature, 3)
    # Recorded with the halves swapped: a row of the teacher meets the student's other crop.
    targets = jnp.asarray(image_major(np.asarray(balanced), 6)[:, ::-1])
    of_pairs = jax.jit(dino_losses)(jnp.asarray(student), targets, 0.1)
    found = {
        "losses": [
            compare(
                f"DINOv2, {kind}", f"{file}: dino/loss_{kind}_raw",
                arrays[f"dino/loss_{kind}_raw"] * share, loss, 2e-6,
            )
            for kind, share, loss in zip(("global", "local"), (0.2, 0.1), of_pairs, strict=True)
        ],
        "targets": [
            compare(
                "targets by Sinkhorn-Knopp", f"{file}: dino/probs_sinkhorn_it3",
                arrays["dino/probs_sinkhorn_it3"], balanced, 1e-5,
            )
        ],
        "gradients": [],
    }  # fmt: skip
    of_patches = jax.jit(jax.value_and_grad(ibot_loss))
    of_images = jax.jit(jax.value_and_grad(koleo.koleo_loss))
    weights = jnp.asarray(arrays["ibot/masks_weight"])
    patches = jnp.asarray(arrays["ibot/student_logits"])
    for name in ("centering", "sinkhorn"):
        of_teacher = jnp.asarray(arrays["ibot/teacher_logits"])
        if name == "centering":
            told = center_and_sharpen(of_teacher, arrays["ibot/center0"][0, 0], temperature)
        else:
            told = balance(of_teacher, temperature, 3)
        loss, grad = of_patches(patches, told, weights, 0.1, 12)
        names = f"ibot/loss_{name}", f"ibot/grad_student_{name}"
        title = f"iBOT, {name}"
        found["losses"].append(compare(title, f"{file}: {names[0]}", arrays[names[0]], loss, 2e-6))
        found["gradients"].append(
            compare(title, f"{file}: {names[1]}", arrays[names[1]], grad, 5e-6)
        )
    for case in ("rand", "two"):
        loss, grad = of_images(jnp.asarray(arrays[f"koleo/{case}/x"]))
        names, title = (f"koleo/{case}/loss", f"koleo/{case}/grad"), f"KoLeo, {case}"
        found["losses"].append(compare(title, f"{file}: {names[0]}", arrays[names[0]], loss, 5e-6))
        found["gradients"].append(
            compare(title, f"{file}: {names[1]}", arrays[names[1]], grad, 5e-6)
        )
    return found


def compare_dinov3() -> dict[str, list[Comparison]]:
    """DINOv3's Gram loss, and the features that it resizes."""
    file, arrays = "v3/losses", load("v3/losses")
    loss, grad = jax.jit(jax.value_and_grad(gram.gram_loss))(
        *(jnp.asarray(arrays[f"gram/{who}"]) for who in ("student", "teacher"))
    )
    resized = resize_grid(jnp.asarray(arrays["gram/teacher_hires_6x6"]), (6, 6), (3, 3))
    keys = "gram/img_norm/loss", "gram/img_norm/grad", "gram/teacher_resized_3x3_bicubic"
    return {
        "losses": [compare("Gram", f"{file}: {keys[0]}", arrays[keys[0]], loss, 2e-6)],
        "gradients": [compare("Gram", f"{file}: {keys[1]}", arrays[keys[1]], grad, 5e-6)],
        "targets": [
            compare(
                "features resized to half", f"{file}: {keys[2]}", arrays[keys[2]], resized, 2e-6
            )
        ],
    }


def compare_two_views() -> dict[str, list[Comparison]]:
    """SimCLR, BYOL and MoCo v3."""
    losses, gradients = [], []

    def add(name: str, file: str, keys: tuple[str, str], loss: Callable[[Any], Any], x: Any):
        arrays = load(file)
        value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(x))
        losses.append(compare(name, f"{file}: {keys[0]}", np.mean(arrays[keys[0]]), value, 2e-6))
        gradients.append(compare(name, f"{file}: {keys[1]}", arrays[keys[1]], grad, 5e-6))

    hidden = load("ssl/s_losses")["hidden"]
    for t in (0.1, 0.5):

        def both(x, t=t):
            a, b = jnp.split(to_sphere(x, simclr.NORM_FLOOR), 2)
            return simclr.nt_xent(a, b, t)[0]

        add(f"SimCLR, {t}", "ssl/s_losses", (f"T{t}/loss", f"T{t}/grad"), both, hidden)
    rows = load("ssl/b_losses")

    def distance(x):
        y = to_sphere(jnp.asarray(rows["y"]), NORM_FLOOR)
        return jnp.mean(regression_loss(to_sphere(x, NORM_FLOOR), y))

    add("BYOL", "ssl/b_losses", ("regression_loss", "grad_x_of_mean"), distance, rows["x"])
    pair = load("ssl/c_contrastive")
    for t in (0.2, 1.0):

        def info_nce(q, t=t):
            k = to_sphere(jnp.asarray(pair["contrastive/k"]), 1e-12)
            return mocov3.contrastive_loss(to_sphere(q, 1e-12), k, t)[0]

        keys = f"contrastive/T{t}/loss", f"contrastive/T{t}/grad_q"
        add(f"MoCo v3, {t:g}", "ssl/c_contrastive", keys, info_nce, pair["contrastive/q"])
    return {"losses": losses, "gradients": gradients}


def compare_mae() -> dict[str, list[Comparison]]:
    """MAE's losses of the recorded predictions."""
    file, arrays = "ssl/m_forward", load("ssl/m_forward")
    predictions, pixels, masks = (
        jnp.asarray(arrays[name]) for name in ("pred", "target_patches", "mask")
    )
    targets = {"normpix": mae.normalize_patches(pixels), "pix": pixels}
    return {
        "losses": [
            compare(
                f"MAE, {name}", f"{file}: {name}/loss",
                arrays[f"{name}/loss"], mae.masked_error(predictions, target, masks), 2e-6,
            )
            for name, target in targets.items()
        ]
    }  # fmt: skip
