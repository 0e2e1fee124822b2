"""The configs of the official DINOv3 code: maps their keys and defaults to ours.

Where the released code does not do what a key says, `notes` names both.
"""

import math
from typing import Any

from dino_jax.commands.official_config import BLUR, Sections, Values, choose, dataset_folder
from dino_jax.commands.official_v3_keys import PARTS, SCHEDULES

# (our size, ratio of the FFN) of an architecture; the ratio is the builder's, not the file's.
ARCHITECTURES = {
    "vit_small": ("small", 4.0),
    "vit_base": ("base", 4.0),
    "vit_large": ("large", 4.0),
    "vit_huge2": ("huge", 4.0),
    "vit_giant2": ("giant", 4.0),
    "vit_7b": ("7b", 3.0),
}
FFNS = {"mlp": "mlp", "swiglu": "swiglu", **{f"swiglu{n}": f"swiglu{n}" for n in (32, 64, 128)}}
NORMS = {"layernorm": 1e-6, "layernormbf16": 1e-5}  # epsilon
DTYPES = {"fp16": "bfloat16", "bf16": "bfloat16", "fp32": "float32"}
PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}
NEW_SECTIONS = (
    "network.heads.ibot",
    "objectives.ibot",
    "objectives.koleo",
    "objectives.gram",
    "roles.gram",
    "augment.crops.gram_1",
    "augment.crops.gram_2",
)
_RATE = 4.0  # the released rule multiplies the rate at 1024 images


def notes(values: Values) -> list[str]:
    """What the released code does otherwise than its file says, and where the choice is here."""
    place = "--config.network.backbone.rope.precision"
    lines = [
        f"student.pos_embed_rope_dtype is {values['student.pos_embed_rope_dtype']}, but the "
        f"released trainer makes the angles in bf16 whatever it says; choose with {place}",
        "the released code blurs with one minus its probabilities; choose with "
        "--config.augment.blur",
    ]
    later = [place for place in SCHEDULES if (values[f"{place}.warmup_epochs"] or 0) >= 500]
    if later:
        lines.append(
            f"{', '.join(later)}: the file is meant to resume a longer run; for a stage of its "
            "own, take the steps before it from warmup_epochs, epochs and roles.gram.first_step"
        )
    return lines


def translate(values: Values, gpus: int) -> Sections:
    """Values of our config by section; this table is all there is to know about the mapping.

    Args:
      values: every key of `DEFAULTS`.
      gpus: number of GPUs of the official run.

    Returns:
      As `official_config.translate`.

    Raises:
      ValueError: if a name is unknown or a combination has no counterpart.
    """
    v, images = values, values["train.batch_size_per_gpu"]
    every = v["evaluation.eval_period_iterations"] / v["train.OFFICIAL_EPOCH_LENGTH"]
    sections: Sections = {
        "": dict(
            seed=v["train.seed"],
            batch_size=images * gpus,
            epochs=v["optim.epochs"],
            steps_per_epoch=v["train.OFFICIAL_EPOCH_LENGTH"],
            image_size=v["crops.global_crops_size"],
        ),
        "data": dict(kind="folder", path=dataset_folder(v["train.dataset_path"] or "")),
        **_crops(v),
        "masking": dict(
            group_size=images,
            probability=v["ibot.mask_sample_probability"],
            ratio=tuple(v["ibot.mask_ratio_min_max"]),
        ),
        "network": dict(
            dtype=choose(v, "compute_precision.param_dtype", DTYPES),
            mean=tuple(v["crops.rgb_mean"]),
            std=tuple(v["crops.rgb_std"]),
        ),
        "network.backbone": _backbone(v),
        "network.backbone.rope": _rope(v),
        "network.heads.dino": _head(v, "dino"),
        "network.heads.ibot": _head(v, "ibot"),
        **_objectives(v),
        "optimizer": _optimizer(v),
        "optimizer.adamw": dict(b1=v["optim.adamw_beta1"], b2=v["optim.adamw_beta2"], eps=1e-8),
        "roles.teacher": _teacher(v),
        "evaluations.knn": dict(every_epochs=every),
        "evaluations.proxies": dict(every_epochs=every),
        "runtime": dict(workers=v["train.num_workers"]),
    }
    if v["gram.use_loss"] and not v["gram.ema_teacher"]:
        most = v["gram.max_updates"] if v["gram.rep_update"] else 0
        sections["roles.gram"] = dict(
            follow="copies",
            of="teacher",
            sees=(_anchor_crops(v),),
            leaves_out=("dino", "ibot"),
            every_steps=v["gram.update_frequency"],
            first_step=v["gram.it_first_update"],
            most_copies=None if most is None else int(most),
        )
    return sections


def _schedule(values: Values, place: str, scale: float = 1.0) -> dict[str, Any] | None:
    """A schedule in parts, None if the file has none; peak and end are scaled."""
    v = {key: values[f"{place}.{key}"] for key in PARTS}
    if all(v[key] is None for key in ("start", "peak", "end")):
        return None
    missing = [key for key in ("start", "peak", "end", "warmup_epochs") if v[key] is None]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}")
    return dict(
        start=v["start"],
        peak=v["peak"] * scale,
        end=v["end"] * scale,
        warmup_epochs=v["warmup_epochs"],
        cosine_epochs=v["cosine_epochs"],
    )


def _given(values: Values, key: str, schedule: dict[str, Any] | None, otherwise: float) -> float:
    """A number that may be missing where a schedule replaces it."""
    if values[key] is None and schedule is None:
        raise ValueError(f"{key} is null, and no schedule replaces it")
    return otherwise if values[key] is None else values[key]


def _crops(v: Values) -> Sections:
    side, flip = v["crops.global_crops_size"], 0.5 if v["crops.horizontal_flips"] else 0.0
    shared = dict(size=(side, side), scale=tuple(v["crops.global_crops_scale"]), flip=flip)
    local = (v["crops.local_crops_size"],) * 2
    sections = {
        "augment": dict(blur="as_trained"),
        "augment.crops.global_1": dict(**shared, blur=BLUR["global_1"], solarize=0.0),
        "augment.crops.global_2": dict(**shared, blur=BLUR["global_2"], solarize=0.2),
        "augment.crops.local": dict(
            count=v["crops.local_crops_number"],
            size=local,
            scale=tuple(v["crops.local_crops_scale"]),
            flip=flip,
            blur=BLUR["local"],
            solarize=0.0,
        ),
    }
    if not v["gram.use_loss"] or _anchor_crops(v) == "global":
        return sections
    larger = int(v["crops.gram_teacher_crops_size"])
    for number, solarize in ((1, 0.0), (2, 0.2)):
        name = f"global_{number}"
        crop = dict(group="gram", box_of=name, size=(larger, larger), scale=shared["scale"])
        if v["crops.gram_teacher_no_distortions"]:
            # "as_trained" turns probabilities of a blur around: 1 is none.
            crop |= dict(jitter=0.0, grayscale=0.0, blur=1.0, solarize=0.0)
        else:
            radius = (0.1 * larger / side, 2.0 * larger / side)
            crop |= dict(same_colors=True, blur=BLUR[name], solarize=solarize, blur_radius=radius)
        sections[f"augment.crops.gram_{number}"] = crop
    return sections


def _anchor_crops(v: Values) -> str:
    own = v["crops.gram_teacher_crops_size"] is not None and not v["gram.ema_teacher"]
    return "gram" if own else "global"


def _backbone(v: Values) -> dict[str, Any]:
    size, ratio = choose(v, "student.arch", ARCHITECTURES)
    side, images = v["crops.global_crops_size"], v["train.batch_size_per_gpu"]
    return dict(
        kind="vit",
        size=size,
        mlp_ratio=ratio,
        patch_size=v["student.patch_size"],
        image_size=(side, side),
        ffn=choose(v, "student.ffn_layer", FFNS),
        layer_scale=v["student.layerscale"],
        registers=v["student.n_storage_tokens"],
        has_mask_token=True,
        token_std=0.02,
        qkv_bias=v["student.qkv_bias"],
        key_bias=not v["student.mask_k_bias"],
        proj_bias=v["student.proj_bias"],
        ffn_bias=v["student.ffn_bias"],
        norm_epsilon=choose(v, "student.norm_layer", NORMS),
        cls_norm=v["student.untie_cls_and_patch_norms"],
        local_cls_norm=v["student.untie_global_and_local_cls_norm"],
        position="rope",
        drop_path_rate=v["student.drop_path_rate"],
        drop_path_kind="subset",
        drop_path_schedule="uniform",
        drop_path_group=images * math.gcd(2, v["crops.local_crops_number"]),
    )


def _rope(v: Values) -> dict[str, Any]:
    def number(name: str, otherwise: float | None) -> float | None:
        given = v[f"student.pos_embed_rope_{name}"]
        return otherwise if given is None else given

    return dict(
        base=v["student.pos_embed_rope_base"],
        min_period=number("min_period", None),
        max_period=number("max_period", None),
        normalize=v["student.pos_embed_rope_normalize_coords"],
        shift=number("shift_coords", 0.0),
        jitter=number("jitter_coords", 1.0),
        rescale=number("rescale_coords", 1.0),
        precision=choose(v, "student.pos_embed_rope_dtype", PRECISIONS),
    )


def _head(v: Values, name: str) -> dict[str, Any]:
    return dict(
        kind="dino",
        of={"dino": "cls", "ibot": "patches"}[name],
        out_dim=v[f"{name}.head_n_prototypes"],
        hidden_dim=v[f"{name}.head_hidden_dim"],
        bottleneck_dim=v[f"{name}.head_bottleneck_dim"],
        layers=v[f"{name}.head_nlayers"],
        batch_norm=False,
        train_gain=False,
        last_layer="linear",
    )


def _objectives(v: Values) -> Sections:
    temperature = _schedule(v, "schedules.teacher_temp")
    parts = {} if temperature is None else {"teacher_temperature": temperature}
    shared: dict[str, Any] = dict(
        targets="teacher",
        student_temperature=0.1,
        teacher_temperature=_given(v, "teacher.teacher_temp", temperature, 0.07),
        warmup_teacher_temperature=_given(v, "teacher.warmup_teacher_temp", temperature, 0.04),
        warmup_teacher_temperature_epochs=_given(
            v, "teacher.warmup_teacher_temp_epochs", temperature, 0.0
        ),
        warmup_teacher_temperature_every="step",
        centering="sinkhorn",
        sinkhorn_iterations=3,
    )
    local = {}
    if v["dino.reweight_dino_local_loss"]:
        local = {"local_weight": _schedule(v, "dino.local_loss_weight_schedule")}
    sections: Sections = {
        "objectives.dino": dict(
            kind="dino",
            weight=v["dino.loss_weight"],
            head="dino",
            min_local_pairs=0,
            parts={**parts, **local},
            **shared,
        ),
        "objectives.ibot": dict(
            kind="ibot", weight=v["ibot.loss_weight"], head="ibot", parts=parts, **shared
        ),
    }
    if v["dino.koleo_loss_weight"] > 0:
        own = v["dino.koleo_distributed_loss_group_size"]
        spread = v["dino.koleo_loss_distributed"]
        group = int(own or 0) if spread else v["train.batch_size_per_gpu"]
        sections["objectives.koleo"] = dict(
            kind="koleo",
            weight=v["dino.koleo_loss_weight"],
            group_size=group,
            neighbors=v["dino.koleo_topk"] if spread else 1,
        )
    if v["gram.use_loss"]:
        sections["objectives.gram"] = _gram(v)
    return sections


def _gram(v: Values) -> dict[str, Any]:
    schedule = _schedule(v, "gram.loss_weight_schedule")
    negatives = "remove_targets" if v["gram.remove_only_teacher_neg"] else "keep"
    of_images = v["gram.img_level"]
    return dict(
        kind="gram",
        weight=v["gram.loss_weight"],
        parts={} if schedule is None else {"weight": schedule},
        targets="teacher" if v["gram.ema_teacher"] else "gram",
        crops=_anchor_crops(v),
        level="image" if of_images else "batch",
        group_size=0 if of_images else v["train.batch_size_per_gpu"],
        tokens=v["gram.tokens_used"],
        normalize=v["gram.normalized"],
        negatives="remove" if v["gram.remove_neg"] else negatives,
    )


def _optimizer(v: Values) -> dict[str, Any]:
    rate, decay = _schedule(v, "schedules.lr", _RATE), _schedule(v, "schedules.weight_decay")
    frozen = v["schedules.lr.freeze_last_layer_epochs"]
    if frozen is None:
        frozen = _given(v, "optim.freeze_last_layer_epochs", rate, 0.0)
    parts = {"lr": rate, "weight_decay": decay}
    return dict(
        kind="adamw",
        lr=_RATE * _given(v, "optim.lr", rate, 0.0),
        reference_batch=1024,
        lr_scaling="sqrt",
        min_lr=_given(v, "optim.min_lr", rate, 0.0),
        warmup_epochs=_given(v, "optim.warmup_epochs", rate, 0.0),
        weight_decay=_given(v, "optim.weight_decay", decay, 0.0),
        weight_decay_end=_given(v, "optim.weight_decay_end", decay, 0.0),
        parts={name: each for name, each in parts.items() if each is not None},
        layer_decay=v["optim.layerwise_decay"],
        patch_embed_lr_multiplier=v["optim.patch_embed_lr_mult"],
        clip_grad=v["optim.clip_grad"],
        clip="module",
        freeze_last_layer_epochs=frozen,
        freeze="zero_lr",
    )


def _teacher(v: Values) -> dict[str, Any]:
    schedule = _schedule(v, "schedules.momentum")
    return dict(
        momentum=_given(v, "teacher.momentum_teacher", schedule, 0.0),
        momentum_end=_given(v, "teacher.final_momentum_teacher", schedule, 0.0),
        parts={} if schedule is None else {"momentum": schedule},
    )
