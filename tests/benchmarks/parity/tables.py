"""Schedules, optimizers and augmentation of the official codes, beside ours."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.data.augment import CropParameters
from dino_jax.data.photometric import blur_taps, encode_photometric
from dino_jax.data.recolor import recolor_crops
from dino_jax.models.position import resize_position_embedding
from dino_jax.models.rope import Config, make_rotation
from dino_jax.optim import schedules
from dino_jax.optim.optimizer import make_lars
from dino_jax.optim.schedules import Constant
from tests.benchmarks.parity.comparisons import GOLDEN, Comparison, compare, load
from tests.crops import OFFICIAL

SETTING = "boost_small"  # the official README's run of 300 epochs, cut down in steps per epoch
NOTHING = CropParameters(
    box=(0, 0, 1, 1), flip=False, jitter=(), grayscale=False, blur_radius=None, solarize=False
)
OPERATIONS = {
    "brightness_1.3": {"jitter": (("brightness", 1.3),)},
    "contrast_0.7": {"jitter": (("contrast", 0.7),)},
    "saturation_1.15": {"jitter": (("saturation", 1.15),)},
    "hue_0.07": {"jitter": (("hue", 0.07),)},
    "hue_-0.07": {"jitter": (("hue", -0.07),)},
    "blur_0.1": {"blur_radius": 0.1},
    "blur_0.7": {"blur_radius": 0.7},
    "blur_1.0": {"blur_radius": 1.0},
    "blur_2.0": {"blur_radius": 2.0},
    "solarize": {"solarize": True},
}


def compare_schedules() -> list[Comparison]:
    """The four schedules of a run of DINO, step by step."""
    arrays = load("v1/schedules")
    meta = json.loads((GOLDEN / "v1/schedules_meta.json").read_text())[SETTING]
    each = meta["niter_per_epoch"]
    total = meta["epochs"] * each
    length, clock = dict(total_steps=total, steps_per_epoch=each), np.arange(total)
    ours = {
        "lr": schedules.build_warmup_cosine(
            meta["peak_lr"], meta["min_lr"], warmup_epochs=meta["warmup_epochs"], **length
        ),
        "wd": schedules.build_cosine(meta["wd"], meta["wd_end"], total_steps=total),
        "momentum": schedules.build_cosine(meta["momentum"], 1.0, total_steps=total),
        "teacher_temp": schedules.build_teacher_temperature(
            meta["warmup_teacher_temp"],
            meta["teacher_temp"],
            warmup_epochs=meta["warmup_teacher_temp_epochs"],
            **length,
        ),
    }
    titles = {
        "lr": "learning rate",
        "wd": "weight decay",
        "momentum": "momentum",
        "teacher_temp": "temperature",
    }
    found = []
    for key, schedule in ours.items():
        theirs = arrays[f"{SETTING}/{key}"]
        theirs = np.repeat(theirs, total // len(theirs))
        where = f"v1/schedules: {SETTING}/{key}"
        found.append(compare(titles[key], where, theirs, schedule(clock), 1e-12))
    return found


def compare_lars() -> list[Comparison]:
    """Six steps of LARS on a kernel, in both conventions."""
    arrays = load("ssl/s_losses")
    rates = jnp.asarray(arrays["lars/lr"])
    found = []
    for rate, case in (
        ("in_momentum", "simclr_lr_in_buffer"),
        ("outside", "moco_byol_lr_outside"),
    ):
        rule = make_lars(
            lambda step: rates[step],
            Constant(1e-2),
            momentum=0.9,
            trust_coefficient=1e-3,
            rate=rate,
        )
        params = {"kernel": jnp.asarray(arrays["lars/init/kernel"])}
        state, moved = rule.init(params), []
        for step in range(6):
            grads = {"kernel": jnp.asarray(arrays[f"lars/step{step}/grad/kernel"])}
            updates, state = rule.update(grads, state, params, step=jnp.asarray(step))
            params = jax.tree.map(jnp.add, params, updates)
            moved.append(params["kernel"])
        theirs = [arrays[f"lars/step{step}/{case}/kernel"] for step in range(6)]
        where = f"ssl/s_losses: lars/step0 to 5/{case}/kernel"
        found.append(compare(f"LARS, {rate}", where, theirs, moved, 1e-6))
    return found


def compare_positions() -> list[Comparison]:
    """Positions at other sizes, and tables of rotations."""
    table = 0.5 * np.random.RandomState(5).standard_normal((1, 197, 384)).astype(np.float32)
    crop = resize_position_embedding(jnp.asarray(table), (14, 14), (6, 6), (96, 96), "bicubic")
    recorded = load("v1/pos_interp")["out_6x6"]
    rope = load("v3/rope")
    keys = [f"rope/base100_separate/{wave}_3x5" for wave in ("sin", "cos")]
    return [
        compare(
            "positions of a crop of 96 pixels", "v1/pos_interp: out_6x6", recorded,
            crop[..., : recorded.shape[-1]], 2e-6,
        ),
        compare(
            "rotations of 3 x 5 patches", f"v3/rope: {keys[0]}, cos_3x5",
            [rope[key] for key in keys], make_rotation(Config(), 16, (3, 5)), 3e-7,
        ),
    ]  # fmt: skip


def compare_augmentation() -> list[Comparison]:
    """Every operation of Pillow on an image of 96 x 80 pixels, bit by bit."""
    arrays = load("v1/aug_pil")
    config = dataclasses.replace(OFFICIAL, blur_radius=(0.0, 9.0))
    found = []
    for key, changes in OPERATIONS.items():
        image = arrays["img"]
        parameters = dataclasses.replace(NOTHING, **changes)
        photometric = encode_photometric([parameters], [config], blur_taps([config]))
        out = np.zeros((1, *image.shape), np.uint8)
        recolor_crops(image.transpose(2, 0, 1)[None].copy(), photometric, out)
        found.append(compare(key.replace("_", " "), f"v1/aug_pil: {key}", arrays[key], out[0], 0.0))
    return found
