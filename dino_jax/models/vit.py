"""The backbone of kind "vit": its options, and the `VisionTransformer` that they describe."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from dino_jax.config.range import MOST_IMAGES, MOST_SIDE, MOST_WIDTH
from dino_jax.config.section import option, section, suggest
from dino_jax.models.layers import FFNS, FIRST_KERNELS, Dtype
from dino_jax.models.position import POSITION_KERNELS, POSITIONS
from dino_jax.models.rope import Config as Rope
from dino_jax.models.rope import check as check_rope
from dino_jax.models.stem import HALVINGS, STEM_PATCH
from dino_jax.models.stochastic_depth import DROP_PATH_KINDS, DROP_PATH_SCHEDULES
from dino_jax.models.vision_transformer import REMAT_POLICIES, VisionTransformer

STEMS = ("patches", "convolutions")


class Size(NamedTuple):
    embed_dim: int
    depth: int
    num_heads: int


SIZES = {
    "tiny": Size(192, 12, 3),  # DeiT, arXiv:2012.12877, Table 1
    "small": Size(384, 12, 6),  # DeiT, arXiv:2012.12877, Table 1
    "base": Size(768, 12, 12),  # ViT, arXiv:2010.11929, Table 1
    "large": Size(1024, 24, 16),  # ViT, arXiv:2010.11929, Table 1
    "so400m": Size(1152, 27, 18),  # SigLIP's, arXiv:2305.13035; 18 heads as in DINOv3
    "huge": Size(1280, 32, 20),  # DINOv3's ViT-H+, arXiv:2508.10104
    "giant": Size(1536, 40, 24),  # DINOv2's ViT-g, arXiv:2304.07193, Table 17
    "7b": Size(4096, 40, 32),  # DINOv3, arXiv:2508.10104
}


@dataclass(frozen=True)
class Config:
    """The section `config.network.backbone` of a ViT."""

    kind: str = option("vit", "Vision Transformer (arXiv:2010.11929)")
    size: str = option("small", "gives embed_dim, depth and num_heads, if they do not")
    embed_dim: int | None = option(
        None, "width of the tokens; None: as `size`", at_least=1, at_most=MOST_WIDTH
    )
    depth: int | None = option(None, "blocks; None: as `size`", at_least=1, at_most=1000)
    num_heads: int | None = option(
        None, "attention heads; None: as `size`", at_least=1, at_most=MOST_WIDTH
    )
    patch_size: int = option(16, "side of a patch in pixels", at_least=1, at_most=MOST_SIDE)
    image_size: tuple[int, int] = option(
        (224, 224),
        "(height, width) of the position table; it is resampled for others",
        at_least=1,
        at_most=MOST_SIDE,
    )
    in_channels: int = option(3, "channels of an image", at_least=1, at_most=1000)
    mlp_ratio: float = option(4.0, "hidden width of the FFN over embed_dim", above=0, at_most=1000)
    ffn: str = option("mlp", "kind of the FFN", among=FFNS)
    layer_scale: float = option(
        0.0, "first factors of the branches; 0: none", at_least=0, at_most=1000
    )
    registers: int = option(0, "register tokens (arXiv:2309.16588)", at_least=0, at_most=10_000)
    has_mask_token: bool = option(False, "has a token for masked patches")
    token_std: float = option(
        0.02, "of the first cls and register tokens (DINOv2 1e-6)", at_least=0, at_most=1000
    )
    qkv_bias: bool = option(True, "bias of the queries, keys and values")
    key_bias: bool = option(True, "that of the keys counts; DINOv3 has it masked")
    proj_bias: bool = option(True, "bias of the output of the attention")
    ffn_bias: bool = option(True, "biases of the FFN")
    norm_epsilon: float = option(
        1e-6, "added to the variance in every LayerNorm", above=0, at_most=1
    )
    drop_path_rate: float = option(
        0.1, "stochastic depth of the last block in training", at_least=0, below=1
    )
    drop_path_schedule: str = option(
        "linear",
        "rates over depth: from 0 (DINO), or all the same (DINOv2)",
        among=DROP_PATH_SCHEDULES,
    )
    drop_path_kind: str = option(
        "per_sample", "subset computes only the samples that are kept", among=DROP_PATH_KINDS
    )
    drop_path_group: int | None = option(
        None,
        "samples that a subset is drawn from; None: all of a pass",
        at_least=1,
        at_most=MOST_IMAGES,
    )
    position_kernel: str = option(
        "bicubic",
        "for other image sizes: bicubic (DINO, DINOv2) | antialiased (with registers) | "
        "bicubic_plain (transformers)",
        among=POSITION_KERNELS,
    )
    position: str = option(
        "learned",
        "first position table: learned (random), or the sines and cosines of MAE (columns_first) "
        "or MoCo v3 (rows_first), which optimizer.fixed keeps; rope has no table, see there",
        among=(*POSITIONS, "rope"),
    )
    rope: Rope = option(Rope(), 'with position="rope": queries and keys turn by angles (DINOv3)')
    cls_norm: bool = option(False, "cls and registers have a final LayerNorm of their own")
    local_cls_norm: bool = option(
        False, 'those of crops of the group "local" have one of their own (DINOv3 7B)'
    )
    first_kernels: str = option(
        "normal",
        "normal (DINO) | xavier (MAE) | xavier_split (MoCo v3: queries, keys and values apart)",
        among=FIRST_KERNELS,
    )
    stem: str = option(
        "patches",
        "patches (one linear map of each) | convolutions (MoCo v3: four of stride 2 with "
        "BatchNorm, in place of one block)",
        among=STEMS,
    )
    remat: str = option(
        "none",
        "what the backward pass keeps: none (all) | names | full (nothing)",
        among=REMAT_POLICIES,
    )
    scan_unroll: int = option(
        0, "blocks per iteration of a loop; 0: all on TPUs, one elsewhere", at_least=0, at_most=1000
    )


def build(config: Config, dtype: Dtype) -> VisionTransformer:
    """Builds a ViT.

    Args:
      config: the section; embed_dim, depth and num_heads that are None come from the named size.
      dtype: dtype of the activations.

    Raises:
      ValueError: if options do not fit together.
    """
    names = {field.name for field in dataclasses.fields(Config)} - {"kind", "size"}
    given: dict[str, Any] = {name: getattr(config, name) for name in names}
    if None in (config.embed_dim, config.depth, config.num_heads):
        size = find_size(config.size)._asdict()
        given |= {name: value for name, value in size.items() if given[name] is None}
    given["image_size"] = tuple(config.image_size)
    given["rope"] = section("config.network.backbone.rope", config.rope, Rope)
    vit = VisionTransformer(**given, dtype=dtype)
    _check(vit)
    return vit


def find_size(name: str) -> Any:
    """The widths of a named size."""
    if name not in SIZES:
        raise ValueError(
            f"config.network.backbone.size is {name!r}; {suggest(name, SIZES)}; or give embed_dim, "
            "depth and num_heads"
        )
    return SIZES[name]


def _check(vit: VisionTransformer) -> None:
    """Raises a ValueError if options do not fit together."""
    dim, heads, (height, width) = vit.embed_dim, vit.num_heads, vit.image_size
    if dim % heads:
        raise ValueError(
            f"config.network.backbone.embed_dim ({dim}) must be a multiple of num_heads ({heads})"
        )
    if int(dim * vit.mlp_ratio) < 1:
        raise ValueError(
            f"config.network.backbone.mlp_ratio ({vit.mlp_ratio:g}) of {dim} channels leaves no "
            "hidden ones; use a larger one"
        )
    if vit.turns:
        check_rope(vit.rope, dim // heads)
    if vit.position in ("columns_first", "rows_first") and dim % 4:
        raise ValueError(
            f"config.network.backbone.position ({vit.position!r}) has sines and cosines of two "
            f"axes: embed_dim ({dim}) must be a multiple of 4"
        )
    if vit.stem == "convolutions" and (vit.patch_size != STEM_PATCH or dim % 2 ** (HALVINGS - 1)):
        raise ValueError(
            f"config.network.backbone.stem='convolutions' halves images {HALVINGS} times and "
            f"doubles channels: patch_size ({vit.patch_size}) must be {STEM_PATCH}, embed_dim "
            f"({dim}) a multiple of {2 ** (HALVINGS - 1)}"
        )
    if min(height, width) < vit.patch_size:
        raise ValueError(
            f"config.network.backbone.image_size ({height} x {width}) is smaller than one patch of "
            f"{vit.patch_size} pixels; use a larger one or a smaller patch_size"
        )
    if vit.drop_path_kind == "subset" and vit.drop_path_schedule != "uniform":
        raise ValueError(
            "config.network.backbone.drop_path_kind ('subset') runs every block on equally many "
            f"samples: it needs drop_path_schedule='uniform', got {vit.drop_path_schedule!r}"
        )


def as_vit(backbone: Any, purpose: str) -> VisionTransformer:
    """Returns a backbone that must be a ViT.

    Args:
      backbone: any.
      purpose: purpose that needs a ViT, such as "--names=huggingface".

    Raises:
      ValueError: if it is of another kind.
    """
    if not isinstance(backbone, VisionTransformer):
        raise ValueError(f"{purpose} is for ViTs, and this is a {type(backbone).__name__}")
    return backbone
