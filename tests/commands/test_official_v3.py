"""Official DINOv3 YAMLs: the four stages become the configs that they describe."""

import numpy as np
import pytest

from dino_jax.commands.config_from_yaml import convert
from dino_jax.run.whole_config import complete_config, read_config
from dino_jax.step.recipe import build_recipe
from tests.commands.test_config_from_yaml import load

# Values of the released stage files; keys at their defaults are left out.
IMAGENET = "student: {pos_embed_type: rope, mask_k_bias: false, ffn_ratio: 4.0}"
STAGE = """
compute_precision: {param_dtype: bf16, reduce_dtype: fp32}
dino: {head_n_prototypes: 262144, head_bottleneck_dim: 512, head_hidden_dim: 8192, KOLEO
       reweight_dino_local_loss: true, local_loss_weight_schedule: LOCAL}
ibot: {head_n_prototypes: 98304, head_bottleneck_dim: 384, head_hidden_dim: 4096}
gram: {use_loss: true, img_level: true, ckpt: ignore, update_frequency: 10000, rep_update: true,
       it_first_update: 1010000, max_updates: 3, GRAM}
train: {batch_size_per_gpu: 16, dataset_path: null, OFFICIAL_EPOCH_LENGTH: 1000, chunk_schedule: []}
student: {arch: vit_7b, drop_path_rate: 0.4, ffn_layer: swiglu64, ffn_ratio: 3, qkv_bias: false,
          norm_layer: layernormbf16, n_storage_tokens: 4, untie_global_and_local_cls_norm: true,
          mask_k_bias: true, pos_embed_rope_rescale_coords: 2, pos_embed_rope_dtype: fp32}
teacher: {momentum_teacher: null, final_momentum_teacher: null, warmup_teacher_temp: null,
          teacher_temp: null, warmup_teacher_temp_epochs: null}
optim: {epochs: 1200, weight_decay: null, weight_decay_end: null, lr: null, warmup_epochs: null,
        min_lr: null, schedule_trunc_extra: null, freeze_last_layer_epochs: null, clip_grad: 30.0,
        layerwise_decay: 0.98, adamw_beta2: 0.99}
crops: {global_crops_size: 256, local_crops_size: 112, gram_teacher_crops_size: 512,
        horizontal_flips: false, gram_teacher_no_distortions: PLAIN}
schedules:
  lr: {start: 0, peak: 3e-05, end: 3e-05, warmup_epochs: 100, freeze_last_layer_epochs: 5}
  weight_decay: {start: 0.04, peak: 0.04, end: 0.04, warmup_epochs: 0}
  teacher_temp: {start: 0.04, peak: 0.07, end: 0.07, warmup_epochs: 100}
  momentum: {start: 0.999, peak: 0.999, end: 0.999, warmup_epochs: 0}
"""
LOCAL = "{start: 1, peak: 1, end: 0.5, warmup_epochs: 1000, cosine_epochs: 1}"
GRAM = "loss_weight_schedule: {start: 0, peak: 0, end: 2.0, warmup_epochs: 1000, cosine_epochs: 1}"


def stage(local=LOCAL, gram=GRAM, koleo="", plain="true") -> bytes:
    text = STAGE.replace("LOCAL", local).replace("GRAM", gram).replace("PLAIN", plain)
    return text.replace("KOLEO", koleo).encode()


def build(data: bytes, gpus: int, tmp_path):
    source, notes = convert(data, "x.yaml", gpus)
    config = read_config(complete_config(load(source, tmp_path)))
    return config, build_recipe(config, 1_281_167), notes


def test_the_recipe_for_imagenet_has_the_values_of_our_config(tmp_path):
    from configs import vitl16_dinov3

    config, recipe, _ = build(IMAGENET.encode(), 32, tmp_path)
    ours = read_config(vitl16_dinov3.get_config())
    for name in ("batch_size", "steps_per_epoch", "epochs", "masking", "augment"):
        assert getattr(config, name) == getattr(ours, name), name
    assert config.optimizer == ours.optimizer
    assert config.roles["teacher"] == ours.roles["teacher"]
    assert config.objectives == ours.objectives
    assert config.network.heads == ours.network.heads
    np.testing.assert_allclose(recipe.schedules["lr"](12_499), 4e-3 * 2**0.5)


def test_the_gram_stage_becomes_schedules_and_a_copy_at_double_resolution(tmp_path):
    config, recipe, notes = build(stage(), 256, tmp_path)
    assert config.batch_size == 4096 and recipe.total_steps == 1_200_000
    rate, last = recipe.schedules["lr"], 1_199_999
    np.testing.assert_allclose([rate(0), rate(50_000), rate(last)], [0, 1.2e-4, 2.4e-4])
    dino, gram = recipe.objectives["dino"], recipe.objectives["gram"]
    for step, local, weight in ((999_999, 1.0, 0.0), (1_000_999, 0.5, 2.0), (last, 0.5, 2.0)):
        np.testing.assert_allclose([dino.local_weight(step), gram.weight(step)], [local, weight])
    np.testing.assert_allclose(dino.teacher_temperature(50_000), 0.055)
    np.testing.assert_allclose(recipe.roles["teacher"].follow.momentum(0), 0.999)
    follow = recipe.roles["gram"].follow
    due = [n for n in range(990_000, 1_060_000, 10_000) if follow.is_due(n)]
    assert due == [1_010_000, 1_020_000, 1_030_000]
    assert recipe.crop_sizes == {"global": (256, 256), "local": (112, 112), "gram": (512, 512)}
    assert (gram.level, gram.negatives, gram.crops) == ("image", "keep", "gram")
    crop = config.augment.crops["gram_1"]
    assert (crop.jitter, crop.grayscale, crop.solarize, crop.flip) == (0, 0, 0, 0.5)
    backbone = config.network.backbone
    assert (backbone.size, backbone.mlp_ratio, backbone.key_bias) == ("7b", 3.0, False)
    assert backbone.norm_epsilon == 1e-5 and backbone.rope.rescale == 2.0
    told = "\n".join(notes)
    for part in ("ffn_ratio has no counterpart", "rope.precision", "meant to resume a longer run"):
        assert part in told


def test_distorted_anchors_own_koleo_groups_and_the_running_teacher(tmp_path):
    koleo = "koleo_loss_distributed: true, koleo_topk: 2, koleo_distributed_loss_group_size: 32,"
    config, recipe, _ = build(stage(koleo=koleo, plain="false"), 8, tmp_path)
    assert config.objectives["koleo"].neighbors == 2 and config.objectives["koleo"].group_size == 32
    crop = config.augment.crops["gram_2"]
    assert crop.same_colors and crop.blur_radius == (0.2, 4.0) and crop.solarize == 0.2
    config, recipe, _ = build(stage(gram="ema_teacher: true"), 8, tmp_path)
    assert "gram" not in recipe.roles and recipe.objectives["gram"].targets == "teacher"
    np.testing.assert_allclose(recipe.objectives["gram"].weight(0), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gram: {use_los: true}", "unknown key gram.use_los; do you mean gram.use_loss"),
        ("optim: {optimizer: sgd}", "optim.optimizer is 'sgd'; here it can be 'adamw'"),
        ("multidistillation: {enabled: true}", "multidistillation.enabled is True; here it can"),
        ("crops: {global_crops_size: [512, 768]}", "crops.global_crops_size is .*like 224"),
        ("student: {pos_embed_type: rope, arch: vit_nano}", "student.arch is 'vit_nano'; known"),
        ("optim: {lr: null}", "optim.lr is null, and no schedule replaces it"),
        ("schedules: {lr: {start: 0}}", "schedules.lr lacks peak, end, warmup_epochs"),
        ("gram: {max_updates: -1}", "gram.max_updates must be at least 0"),
    ],
)
def test_what_has_no_counterpart_is_an_error(change, message):
    mark = "" if "student" in change else "student: {n_storage_tokens: 0}\n"
    with pytest.raises(ValueError, match=message):
        convert(f"{mark}{change}".encode(), "x.yaml", 1)
