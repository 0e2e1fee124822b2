"""The names of DINOv3's ViTs and ConvNeXts to those of DINOv2 and back.

Registers are "storage_tokens" there; gate and value of a SwiGLU are two layers, w1 and w2; the
periods of the angles and the mask of the bias of queries, keys and values are tensors, although
nothing of them is learned. The final LayerNorm of a ConvNeXt has two names.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dino_jax.models.rope import PRECISIONS, periods
from dino_jax.models.rope import Config as Rope

Tensors = dict[str, np.ndarray]

_PREFIX = re.compile(r"^(module\.|backbone\.)*")
_PERIODS, _MASK = "rope_embed.periods", "attn.qkv.bias_mask"
_LAST_NORM = "norms.3."  # of a ConvNeXt, the same as "norm."
_TOLERANCE = 1e-6  # relative, of periods: powers differ by their last bits


def is_dinov3(names: list[str]) -> bool:
    """Whether tensors have the names of DINOv3."""
    plain = [_PREFIX.sub("", name) for name in names]
    return _PERIODS in plain or is_convnext(plain)


def is_convnext(names: list[str]) -> bool:
    """Whether tensors are those of a ConvNeXt."""
    return any(_PREFIX.sub("", name) == "stages.0.0.dwconv.weight" for name in names)


class Plain(NamedTuple):
    """What `from_dinov3` gives.

    Attributes:
      tensors: tensors under the names of DINOv2; those of a ConvNeXt keep their own, once each.
      rope: how queries and keys turn; None for a ConvNeXt.
      key_bias: whether the bias of the keys counts.
      num_heads: attention heads, which the number of periods shows.
    """

    tensors: Tensors
    rope: Rope | None = None
    key_bias: bool = True
    num_heads: int | None = None


def from_dinov3(tensors: Mapping[str, np.ndarray]) -> Plain:
    """Gives tensors the names of DINOv2.

    Args:
      tensors: tensors of a file, perhaps with heads.

    Raises:
      ValueError: if periods or masks are unknown ones.
    """
    if is_convnext(list(tensors)):
        return Plain(_without_second_norm(tensors))
    renamed, rope, masks, width, quarter = {}, None, [], 0, 1
    for name, tensor in tensors.items():
        prefix = (_PREFIX.match(name) or [""])[0]
        plain = name.removeprefix(prefix)
        if plain == _PERIODS:
            rope, quarter = find_rope(np.asarray(tensor, np.float32)), tensor.size
        elif plain.endswith(_MASK):
            masks.append(_counts_keys(name, tensor))
        elif plain == "storage_tokens":
            renamed[f"{prefix}register_tokens"] = tensor
        else:
            renamed[name] = tensor
            width = tensor.shape[-1] if plain == "cls_token" else width
    if len(set(masks)) > 1:
        raise ValueError(f"the blocks have different {_MASK}")
    if width % (4 * quarter):
        raise ValueError(f"{quarter} {_PERIODS} are not for heads of a width of {width}")
    key_bias = not masks or masks[0]
    return Plain(_join_gates(renamed), rope, key_bias, width // (4 * quarter) or None)


def to_dinov3(tensors: Mapping[str, np.ndarray], vit: Any) -> Tensors:
    """Inverse of `from_dinov3`, in the order of its modules.

    Args:
      tensors: tensors under the names of DINOv2, perhaps with heads.
      vit: the ViT, or a ConvNeXt.
    """
    renamed = {}
    if hasattr(vit, "depths"):
        for name, tensor in tensors.items():
            renamed[name] = tensor
            if match := re.fullmatch(r"((?:backbone\.)?)norm\.(\w+)", name):
                renamed[f"{match[1]}{_LAST_NORM}{match[2]}"] = tensor
        return renamed
    third = np.ones(vit.embed_dim, np.float32)
    for name, tensor in tensors.items():
        if name.endswith("register_tokens"):
            renamed[name.replace("register_tokens", "storage_tokens")] = tensor
        elif ".mlp.w12." in name:
            for part, half in zip(("w1", "w2"), np.split(tensor, 2), strict=True):
                renamed[name.replace("w12", part)] = np.ascontiguousarray(half)
        else:
            renamed[name] = tensor
        if name.endswith("cls_token"):
            prefix = name.removesuffix("cls_token")
            renamed[prefix + _PERIODS] = periods(vit.rope, vit.embed_dim // vit.num_heads)
        if name.endswith("attn.qkv.bias") and not vit.key_bias:
            mask = np.concatenate([third, np.zeros_like(third), third])
            renamed[f"{name}_mask"] = mask
    return renamed


def find_rope(given: np.ndarray) -> Rope:
    """The options that give these periods; coordinates over both sides are assumed.

    Args:
      given: [d / 4] float32 periods.

    Raises:
      ValueError: if no options do.
    """
    head_dim = 4 * given.size
    if given.ndim != 1 or given.size < 2 or not np.isfinite(given).all() or given.min() <= 0:
        raise ValueError(f"{_PERIODS} {given.shape} must be two or more positive numbers")
    base = float(np.float64(given[-1]) ** (given.size / (given.size - 1)))
    candidates = [Rope(base=x) for x in (100.0, float(f"{base:.3g}"), base) if x > 1]
    if given[0] < given[-1]:
        candidates.append(Rope(min_period=float(given[0]), max_period=float(given[-1])))
    for candidate in candidates:
        for precision in PRECISIONS[:2]:
            rope = Rope(
                base=candidate.base,
                min_period=candidate.min_period,
                max_period=candidate.max_period,
                precision=precision,
            )
            if np.allclose(periods(rope, head_dim), given, rtol=_TOLERANCE, atol=0):
                return rope
    raise ValueError(
        f"{_PERIODS} {given[:4].tolist()} … grow neither from 1 as powers of a base nor "
        "geometrically between two periods"
    )


def _counts_keys(name: str, mask: np.ndarray) -> bool:
    """Whether a mask lets the bias of the keys count."""
    thirds = np.asarray(mask, np.float32).reshape(3, -1) if mask.size % 3 == 0 else np.full(3, 2)
    values = [float(third.min()) for third in thirds]
    same = all(float(third.max()) == value for third, value in zip(thirds, values, strict=True))
    if not same or values not in ([1, 0, 1], [1, 1, 1]):
        raise ValueError(f"{name} must be 1 but for the keys, and 0 or 1 for them")
    return values[1] == 1


def _join_gates(tensors: Tensors) -> Tensors:
    joined = dict(tensors)
    for name in tensors:
        other = name.replace(".mlp.w1.", ".mlp.w2.")
        if other != name and other in tensors:
            pair = [joined.pop(name), joined.pop(other)]
            joined[name.replace(".mlp.w1.", ".mlp.w12.")] = np.concatenate(pair)
    return joined


def _without_second_norm(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """The tensors, once each.

    Raises:
      ValueError: if the two norms differ.
    """
    kept = {}
    for name, tensor in tensors.items():
        prefix = (_PREFIX.match(name) or [""])[0]
        plain = name.removeprefix(prefix)
        if not plain.startswith(_LAST_NORM):
            kept[name] = tensor
            continue
        first = f"{prefix}norm.{plain.removeprefix(_LAST_NORM)}"
        if not np.array_equal(tensors.get(first, tensor), tensor):
            raise ValueError(f"{name} and {first} are one tensor in DINOv3, and differ here")
        kept[first] = tensor
    return kept
