"""The keys of the official DINOv3 configs: defaults, ranges, and what has no counterpart here.

Names and numbers are facts about the released files (dinov3 @ 6876159); nothing else of them is
here.
"""

from typing import Any

from dino_jax.commands.official_config import Values
from dino_jax.config.range import Range

_OF_OPTIM = (
    "weight_decay",
    "weight_decay_end",
    "lr",
    "warmup_epochs",
    "min_lr",
    "freeze_last_layer_epochs",
)
_FOR_SPEED = (
    "saveckp_freq",
    "monitor_gradient_norm",
    "chunk_schedule",
    "checkpointing",
    "checkpointing_full",
    "compile",
    "cudagraphs",
    "fsdp_reshard_after_forward",
    "sharded_eval_checkpoint",
    "cache_dataset",
)
PARTS = {"start": None, "peak": None, "end": None, "warmup_epochs": None, "cosine_epochs": None}
SCHEDULES = {
    "dino.local_loss_weight_schedule": {
        "start": 0.5, "peak": 0.5, "end": 0.5, "warmup_epochs": 0.0, "cosine_epochs": None
    },
    "gram.loss_weight_schedule": PARTS,
    "schedules.lr": {**PARTS, "freeze_last_layer_epochs": None},
    "schedules.weight_decay": PARTS,
    "schedules.momentum": PARTS,
    "schedules.teacher_temp": PARTS,
}  # fmt: skip
# Defaults of the keys that have a counterpart (dinov3 @ 6876159). None: a number, if it is given.
DEFAULTS: Values = {
    "compute_precision.param_dtype": "bf16",
    "dino.loss_weight": 1.0,
    "dino.head_n_prototypes": 65536,
    "dino.head_bottleneck_dim": 256,
    "dino.head_nlayers": 3,
    "dino.head_hidden_dim": 2048,
    "dino.koleo_loss_weight": 0.1,
    "dino.koleo_loss_distributed": False,
    "dino.koleo_topk": 1,
    "dino.koleo_distributed_loss_group_size": None,
    "dino.reweight_dino_local_loss": False,
    "ibot.loss_weight": 1.0,
    "ibot.mask_sample_probability": 0.5,
    "ibot.mask_ratio_min_max": [0.1, 0.5],
    "ibot.head_n_prototypes": 65536,
    "ibot.head_bottleneck_dim": 256,
    "ibot.head_nlayers": 3,
    "ibot.head_hidden_dim": 2048,
    "gram.use_loss": False,
    "gram.loss_weight": 1.0,
    "gram.ema_teacher": False,
    "gram.rep_update": True,
    "gram.update_frequency": 50000,
    "gram.it_first_update": 0,
    "gram.max_updates": None,
    "gram.normalized": True,
    "gram.img_level": False,
    "gram.remove_neg": False,
    "gram.remove_only_teacher_neg": False,
    "gram.tokens_used": "all",
    "train.batch_size_per_gpu": 64,
    "train.dataset_path": "ImageNet:split=TRAIN",
    "train.seed": 0,
    "train.num_workers": 10,
    "train.OFFICIAL_EPOCH_LENGTH": 1250,
    "student.arch": "vit_large",
    "student.patch_size": 16,
    "student.drop_path_rate": 0.3,
    "student.layerscale": 1e-5,
    "student.ffn_layer": "mlp",
    "student.qkv_bias": True,
    "student.proj_bias": True,
    "student.ffn_bias": True,
    "student.norm_layer": "layernorm",
    "student.n_storage_tokens": 0,
    "student.mask_k_bias": False,
    "student.untie_cls_and_patch_norms": False,
    "student.untie_global_and_local_cls_norm": False,
    "student.pos_embed_rope_base": 100.0,
    "student.pos_embed_rope_min_period": None,
    "student.pos_embed_rope_max_period": None,
    "student.pos_embed_rope_normalize_coords": "separate",
    "student.pos_embed_rope_shift_coords": None,
    "student.pos_embed_rope_jitter_coords": None,
    "student.pos_embed_rope_rescale_coords": None,
    "student.pos_embed_rope_dtype": "bf16",
    "teacher.momentum_teacher": 0.992,
    "teacher.final_momentum_teacher": 1.0,
    "teacher.warmup_teacher_temp": 0.04,
    "teacher.teacher_temp": 0.07,
    "teacher.warmup_teacher_temp_epochs": 30.0,
    "optim.epochs": 100.0,
    "optim.weight_decay": 0.04,
    "optim.weight_decay_end": 0.4,
    "optim.lr": 0.001,
    "optim.warmup_epochs": 10.0,
    "optim.min_lr": 1e-6,
    "optim.clip_grad": 3.0,
    "optim.freeze_last_layer_epochs": 1.0,
    "optim.patch_embed_lr_mult": 0.2,
    "optim.layerwise_decay": 0.9,
    "optim.adamw_beta1": 0.9,
    "optim.adamw_beta2": 0.999,
    "crops.global_crops_scale": [0.32, 1.0],
    "crops.local_crops_number": 8,
    "crops.local_crops_scale": [0.05, 0.32],
    "crops.global_crops_size": 224,
    "crops.local_crops_size": 96,
    "crops.gram_teacher_crops_size": None,
    "crops.horizontal_flips": True,
    "crops.gram_teacher_no_distortions": False,
    "crops.rgb_mean": [0.485, 0.456, 0.406],
    "crops.rgb_std": [0.229, 0.224, 0.225],
    "evaluation.eval_period_iterations": 12500,
    **{f"{place}.{key}": x for place, keys in SCHEDULES.items() for key, x in keys.items()},
}
# Keys that must have one of these values: nothing here does what the others ask for.
ONLY: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("SSLMetaArch",),
    "dino.global_ignore_diagonal": (True,),
    "dino.force_weight_norm": (False,),
    "dino.koleo_distributed_replicas": (0,),
    "ibot.mask_random_circular_shift": (False,),
    "ibot.separate_head": (True,),
    "gram.it_load_ema_teacher": (-1,),
    "gram.global_teacher_resize_method": ("bicubic",),
    "gram.global_teacher_resize_antialias": (False,),
    "train.centering": ("sinkhorn_knopp",),
    "student.in_chans": (3,),
    "student.patch_drop": (0.0,),
    "student.pos_embed_type": ("rope", "ropenew"),
    "teacher.in_chans": (3,),
    "distillation.enabled": (False,),
    "multidistillation.enabled": (False,),
    "hrft.enabled": (False,),
    "optim.optimizer": ("adamw",),
    "optim.scaling_rule": ("sqrt_wrt_1024",),
    "optim.schedule_trunc_extra": (0.0, None),
    "optim.dino_head_wd_multiplier": (1.0,),
    "crops.global_local_crop_pairs_ratios": (1.0,),
    "crops.localcrops_subset_of_globalcrops": (False,),
    "crops.share_color_jitter": (False,),
    "crops.teacher_to_student_resolution_scale": (1.0,),
}
_START = "the first weights are --config.init_from.path"
_SPEED = "changes no result, or is done by --config.runtime and --config.network.backbone.remat"
_FP8 = "products are in bfloat16"
WITHOUT_COUNTERPART = {
    "MODEL.DEVICE": _SPEED,
    "MODEL.WEIGHTS": _START,
    "MODEL.DTYPE": "parameters, gradients and losses are float32",
    "compute_precision.reduce_dtype": "see --config.runtime.gradient_dtype",
    "dino.head_norm_last_layer": "the released heads have a plain last layer and do not read it",
    "ibot.head_norm_last_layer": "the released heads have a plain last layer and do not read it",
    "dino.koleo_distributed_loss_group_data": "groups are successive images of the batch",
    "ibot.force_masking_even_with_zero_weight": "without its loss nothing is masked",
    "gram.compute_stats": "further numbers for the log",
    "gram.ckpt": "the anchor starts as the model of --config.init_from.path",
    "train.output_dir": "the folder of a run is --workdir",
    "train.use_teacher_head": "the released trainer does not read it",
    "train.learn_from_teacher_tokens": "the released trainer does not read it",
    "train.data_config": "see --config.data",
    "train.cell_augmentation": "the released trainer reads it for cell images only",
    "train.cell_augmentation_type": "the released trainer reads it for cell images only",
    **{f"train.{key}": _SPEED for key in _FOR_SPEED},
    "student.ffn_ratio": "the released builder ignores it: the size decides",
    "student.pretrained_weights": _START,
    "student.resume_from_teacher_chkpt": _START,
    "student.fp8_enabled": _FP8,
    "student.fp8_filter": _FP8,
    "distillation.full_cfg_path": "read by distillation only",
    "distillation.checkpoint_path": "read by distillation only",
    "hrft.checkpoint_path": _START,
    "optim.multi_tensor_optim": _SPEED,
    "optim.dump_fsdp_weights_path": _SPEED,
    "evaluation.low_freq_every": "see --config.evaluations",
    "evaluation.config_files.high_freq": "see --config.evaluations",
    "evaluation.config_files.low_freq": "see --config.evaluations",
    "checkpointing.period": "see --config.runtime.save_every_steps",
    "checkpointing.max_to_keep": "see --config.runtime.keep_checkpoints",
    "checkpointing.keep_every": "see --config.runtime.keep_checkpoints",
}
# Keys that are null in files whose "schedules" replace them.
NULLABLE = (
    "train.dataset_path",
    *(f"teacher.{key}" for key in ("momentum_teacher", "final_momentum_teacher")),
    *(
        f"teacher.{key}"
        for key in ("warmup_teacher_temp", "teacher_temp", "warmup_teacher_temp_epochs")
    ),
    *(f"optim.{key}" for key in _OF_OPTIM),
)
# Keys that only these configs have: one of them tells the file from DINOv2's.
MARKS = ("compute_precision.param_dtype", "student.n_storage_tokens", "student.pos_embed_type")

_ZERO, _SHARE, _BELOW_1 = Range(at_least=0), Range(at_least=0, at_most=1), Range(0, below=1)
RANGES = {
    "train.seed": _ZERO,
    "train.num_workers": _ZERO,
    "student.n_storage_tokens": _ZERO,
    "crops.local_crops_number": _ZERO,
    "gram.it_first_update": _ZERO,
    "gram.max_updates": _ZERO,
    "evaluation.eval_period_iterations": _ZERO,
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
