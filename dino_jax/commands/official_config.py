"""The configs of the official DINOv2 code: maps their keys and defaults to ours."""

import math
from collections.abc import Mapping
from typing import Any

from dino_jax.config.range import Range

Values = dict[str, Any]
Sections = dict[str, dict[str, Any]]

# Official defaults (dinov2/configs/ssl_default_config.yaml) of the keys that have a counterpart.
DEFAULTS: Values = {
    "compute_precision.student.backbone.mixed_precision.param_dtype": "fp16",
    "dino.loss_weight": 1.0,
    "dino.head_n_prototypes": 65536,
    "dino.head_bottleneck_dim": 256,
    "dino.head_nlayers": 3,
    "dino.head_hidden_dim": 2048,
    "dino.koleo_loss_weight": 0.1,
    "ibot.loss_weight": 1.0,
    "ibot.mask_sample_probability": 0.5,
    "ibot.mask_ratio_min_max": [0.1, 0.5],
    "ibot.separate_head": False,
    "ibot.head_n_prototypes": 65536,
    "ibot.head_bottleneck_dim": 256,
    "ibot.head_nlayers": 3,
    "ibot.head_hidden_dim": 2048,
    "train.batch_size_per_gpu": 64,
    "train.dataset_path": "ImageNet:split=TRAIN",
    "train.seed": 0,
    "train.num_workers": 10,
    "train.OFFICIAL_EPOCH_LENGTH": 1250,
    "train.centering": "centering",
    "student.arch": "vit_large",
    "student.patch_size": 16,
    "student.drop_path_rate": 0.3,
    "student.layerscale": 1e-5,
    "student.drop_path_uniform": True,
    "student.ffn_layer": "mlp",
    "student.qkv_bias": True,
    "student.proj_bias": True,
    "student.ffn_bias": True,
    "student.num_register_tokens": 0,
    "student.interpolate_antialias": False,
    "student.interpolate_offset": 0.1,
    "teacher.momentum_teacher": 0.992,
    "teacher.final_momentum_teacher": 1.0,
    "teacher.warmup_teacher_temp": 0.04,
    "teacher.teacher_temp": 0.07,
    "teacher.warmup_teacher_temp_epochs": 30,
    "optim.epochs": 100.0,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.base_lr": 0.004,
    "optim.warmup_epochs": 10.0,
    "optim.min_lr": 1e-6,
    "optim.clip_grad": 3.0,
    "optim.freeze_last_layer_epochs": 1.0,
    "optim.scaling_rule": "sqrt_wrt_1024",
    "optim.patch_embed_lr_mult": 0.2,
    "optim.layerwise_decay": 0.9,
    "optim.adamw_beta1": 0.9,
    "optim.adamw_beta2": 0.999,
    "crops.global_crops_scale": [0.32, 1.0],
    "crops.local_crops_number": 8,
    "crops.local_crops_scale": [0.05, 0.32],
    "crops.global_crops_size": 224,
    "crops.local_crops_size": 96,
    "evaluation.eval_period_iterations": 12500,
}

# Ranges of numbers; any other integer is at least 1, and any other number at least 0.
_ZERO, _POSITIVE = Range(at_least=0), Range(above=0)
_SHARE, _BELOW_1 = Range(at_least=0, at_most=1), Range(at_least=0, below=1)
RANGES = {
    "train.seed": _ZERO,
    "train.num_workers": _ZERO,
    "student.num_register_tokens": _ZERO,
    "crops.local_crops_number": _ZERO,
    "teacher.warmup_teacher_temp_epochs": _ZERO,
    "evaluation.eval_period_iterations": _ZERO,
    "optim.epochs": _POSITIVE,
    "optim.layerwise_decay": _POSITIVE,
    "optim.patch_embed_lr_mult": _POSITIVE,
    "teacher.teacher_temp": _POSITIVE,
    "teacher.warmup_teacher_temp": _POSITIVE,
    "teacher.momentum_teacher": _SHARE,
    "teacher.final_momentum_teacher": _SHARE,
    "optim.adamw_beta1": _BELOW_1,
    "optim.adamw_beta2": _BELOW_1,
    "student.drop_path_rate": _BELOW_1,
    "ibot.mask_sample_probability": _SHARE,
    "ibot.mask_ratio_min_max": _SHARE,
    "crops.global_crops_scale": _SHARE,
    "crops.local_crops_scale": _SHARE,
}


def range_of(key: str) -> Range:
    """The range of a number under a key of `DEFAULTS`."""
    return RANGES.get(key, Range(at_least=1) if type(DEFAULTS[key]) is int else _ZERO)


_MEMORY = "how arrays are split follows from --config.runtime.fsdp, which changes no result"
_PRECISION = "activations have network.dtype; parameters, gradients and losses are float32"
WITHOUT_COUNTERPART = {
    "MODEL.WEIGHTS": "start weights are not part of a config file",
    "compute_precision.grad_scaler": "bfloat16 has the range of float32 and needs no scaling",
    **{
        f"compute_precision.{network}.{module}.{key}": reason
        for network in ("teacher", "student")
        for module in ("backbone", "dino_head", "ibot_head")
        for key, reason in (
            ("sharding_strategy", _MEMORY),
            ("mixed_precision.param_dtype", _PRECISION),
            ("mixed_precision.reduce_dtype", _PRECISION),
            ("mixed_precision.buffer_dtype", _PRECISION),
        )
        if f"compute_precision.{network}.{module}.{key}" not in DEFAULTS
    },
    "train.output_dir": "the folder of a run is --workdir",
    "train.saveckp_freq": "the official trainer does not read it; see runtime.save_every_steps",
    "train.cache_dataset": "the official trainer does not read it",
    "student.pretrained_weights": "start weights are not part of a config file",
    "student.block_chunks": "groups blocks for FSDP and changes no result; " + _MEMORY,
    "optim.lr": "the official trainer computes it from base_lr",
}

# Sections that configs/vits16_vanilla.py has not.
NEW_SECTIONS = ("network.heads.ibot", "objectives.ibot", "objectives.koleo")

ARCHITECTURES = {
    "vit_small": "small",
    "vit_base": "base",
    "vit_large": "large",
    "vit_giant2": "giant",
}
FFNS = {"mlp": "mlp", "swiglu": "swiglu", "swiglufused": "swiglu"}
CENTERINGS = {"centering": "center", "sinkhorn_knopp": "sinkhorn"}
DTYPES = {"fp16": "bfloat16", "bf16": "bfloat16", "fp32": "float32"}
SCALING_RULES = {"sqrt_wrt_1024": ("sqrt", 1024)}
POSITION_KERNELS = {
    (False, 0.1): "bicubic",
    (False, 0.0): "bicubic_plain",
    (True, 0.0): "antialiased",
}
# (kind, schedule) of drop path by drop_path_uniform.
DROP_PATHS = {True: ("subset", "uniform"), False: ("per_sample", "linear")}
# As the official code says them; see "as_trained" in `dino_jax.data.multi_crop`.
BLUR = {"global_1": 1.0, "global_2": 0.1, "local": 0.5}


def translate(values: Values, gpus: int) -> Sections:
    """Values of our config by section; this table is all there is to know about the mapping.

    Args:
      values: every key of `DEFAULTS`.
      gpus: number of GPUs of the official run.

    Returns:
      {"optimizer": {"lr": 0.004, …}, …}, where "" is the config itself.

    Raises:
      ValueError: if a name is unknown or a combination has no counterpart.
    """
    v = values
    images = v["train.batch_size_per_gpu"]
    side, patch = v["crops.global_crops_size"], v["student.patch_size"]
    drop_path_kind, drop_path_schedule = DROP_PATHS[v["student.drop_path_uniform"]]
    lr_scaling, reference_batch = choose(v, "optim.scaling_rule", SCALING_RULES)
    global_crop = dict(count=1, size=(side, side), scale=tuple(v["crops.global_crops_scale"]))
    distillation = dict(
        targets="teacher",
        student_temperature=0.1,
        teacher_temperature=v["teacher.teacher_temp"],
        warmup_teacher_temperature=v["teacher.warmup_teacher_temp"],
        warmup_teacher_temperature_epochs=float(v["teacher.warmup_teacher_temp_epochs"]),
        warmup_teacher_temperature_every="step",
        centering=choose(v, "train.centering", CENTERINGS),
        center_momentum=0.9,
        sinkhorn_iterations=3,
        parts={},
    )
    evaluation_epochs = v["evaluation.eval_period_iterations"] / v["train.OFFICIAL_EPOCH_LENGTH"]
    sections: Sections = {
        "": dict(
            seed=v["train.seed"],
            batch_size=images * gpus,
            epochs=v["optim.epochs"],
            steps_per_epoch=v["train.OFFICIAL_EPOCH_LENGTH"],
        ),
        "data": dict(kind="folder", path=dataset_folder(v["train.dataset_path"])),
        "augment": dict(blur="as_trained"),
        "augment.crops.global_1": dict(**global_crop, blur=BLUR["global_1"], solarize=0.0),
        "augment.crops.global_2": dict(**global_crop, blur=BLUR["global_2"], solarize=0.2),
        "augment.crops.local": dict(
            count=v["crops.local_crops_number"],
            size=(v["crops.local_crops_size"],) * 2,
            scale=tuple(v["crops.local_crops_scale"]),
            blur=BLUR["local"],
            solarize=0.0,
        ),
        "masking": dict(
            group_size=images,
            probability=v["ibot.mask_sample_probability"],
            ratio=tuple(v["ibot.mask_ratio_min_max"]),
        ),
        "network": dict(
            dtype=choose(
                v, "compute_precision.student.backbone.mixed_precision.param_dtype", DTYPES
            )
        ),
        "network.backbone": dict(
            kind="vit",
            size=choose(v, "student.arch", ARCHITECTURES),
            patch_size=patch,
            image_size=(side, side),
            ffn=choose(v, "student.ffn_layer", FFNS),
            layer_scale=v["student.layerscale"],
            registers=v["student.num_register_tokens"],
            has_mask_token=True,
            token_std=1e-6,
            qkv_bias=v["student.qkv_bias"],
            proj_bias=v["student.proj_bias"],
            ffn_bias=v["student.ffn_bias"],
            drop_path_rate=v["student.drop_path_rate"],
            drop_path_kind=drop_path_kind,
            drop_path_schedule=drop_path_schedule,
            drop_path_group=images * math.gcd(2, v["crops.local_crops_number"]),
            position_kernel=_position_kernel(v),
        ),
        "network.heads.dino": _head(v, "dino"),
        "objectives.dino": dict(
            kind="dino",
            weight=v["dino.loss_weight"],
            head="dino",
            **distillation,
            min_local_pairs=1,
        ),
        "optimizer": dict(
            kind="adamw",
            lr=v["optim.base_lr"],
            reference_batch=reference_batch,
            lr_scaling=lr_scaling,
            min_lr=v["optim.min_lr"],
            warmup_epochs=v["optim.warmup_epochs"],
            weight_decay=v["optim.weight_decay"],
            weight_decay_end=v["optim.weight_decay_end"],
            layer_decay=v["optim.layerwise_decay"],
            patch_embed_lr_multiplier=v["optim.patch_embed_lr_mult"],
            clip_grad=v["optim.clip_grad"],
            clip="module",
            freeze_last_layer_epochs=v["optim.freeze_last_layer_epochs"],
            freeze="zero_lr",
        ),
        "optimizer.adamw": dict(b1=v["optim.adamw_beta1"], b2=v["optim.adamw_beta2"], eps=1e-8),
        "roles.teacher": dict(
            momentum=v["teacher.momentum_teacher"],
            momentum_end=v["teacher.final_momentum_teacher"],
        ),
        "evaluations.knn": dict(every_epochs=evaluation_epochs),
        "evaluations.proxies": dict(every_epochs=evaluation_epochs),
        "runtime": dict(workers=v["train.num_workers"]),
    }
    if v["ibot.loss_weight"] > 0:
        head = "ibot" if v["ibot.separate_head"] else "dino"
        weight = v["ibot.loss_weight"]
        sections["objectives.ibot"] = dict(kind="ibot", weight=weight, head=head, **distillation)
        if head == "ibot":
            sections["network.heads.ibot"] = _head(v, "ibot")
    if v["dino.loss_weight"] > 0 and v["dino.koleo_loss_weight"] > 0:
        weight = v["dino.koleo_loss_weight"]
        sections["objectives.koleo"] = dict(
            kind="koleo", weight=weight, group_size=images, neighbors=1
        )
    return sections


def choose(values: Values, key: str, table: Mapping[Any, Any]) -> Any:
    """What a table has for the value of a key; raises a ValueError if it has nothing."""
    if values[key] not in table:
        raise ValueError(f"{key} is {values[key]!r}; known: {sorted(table)}")
    return table[values[key]]


def notes(values: Values) -> list[str]:
    """What is done otherwise here than in the official code."""
    if not values["student.drop_path_rate"] or values["student.drop_path_uniform"]:
        return []
    return [
        f"student.drop_path_uniform=false becomes {DROP_PATHS[False]}: each sample is dropped "
        "independently; the official code drops a fixed number of them"
    ]


def _position_kernel(values: Values) -> str:
    pair = values["student.interpolate_antialias"], values["student.interpolate_offset"]
    if pair not in POSITION_KERNELS:
        raise ValueError(
            f"student.interpolate_antialias and interpolate_offset are {pair}; "
            f"known: {sorted(POSITION_KERNELS)}"
        )
    return POSITION_KERNELS[pair]


def _head(values: Values, name: str) -> dict[str, Any]:
    return dict(
        kind="dino",
        of={"dino": "cls", "ibot": "patches"}[name],
        out_dim=values[f"{name}.head_n_prototypes"],
        hidden_dim=values[f"{name}.head_hidden_dim"],
        bottleneck_dim=values[f"{name}.head_bottleneck_dim"],
        layers=values[f"{name}.head_nlayers"],
        batch_norm=False,
        train_gain=True,
        last_layer="prototypes",
    )


def dataset_folder(dataset: str) -> str:
    """The folder of images of an official "Name:split=…:root=…:extra=…"; "" without a root."""
    name, *options = dataset.split(":")
    given = dict(option.split("=", 1) for option in options if "=" in option)
    root, split = given.get("root", ""), given.get("split", "").lower()
    return f"{root}/{split}" if root and split and name == "ImageNet" else root
