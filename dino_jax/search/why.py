"""Why a photograph was found: the patches of two photographs that are alike, drawn on both."""

import numpy as np

from dino_jax.visualize.pictures import apply_heat, overlay, tile_row
from dino_jax.visualize.sheets import patch_features
from dino_jax.weights.model import Model

SHOWN = 448  # pixels of a side, about


def best_matches(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The largest cosine of every patch of one picture with the patches of another.

    Args:
      one: [h, w, D] features.
      other: [h', w', D] features.

    Returns:
      [h, w] float32.
    """
    left, right = (x.reshape(-1, x.shape[-1]).astype(np.float32) for x in (one, other))
    left, right = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (left, right)
    )
    return (left @ right.T).max(axis=1).reshape(one.shape[:2])


def draw_why(model: Model, size: int, query: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """The query and the hit side by side, the part that the network sees; bright is alike.

    Args:
      model: of the index.
      size: side of what it sees, in pixels.
      query, hit: [H, W, 3] uint8.

    Returns:
      [H', W', 3] uint8.
    """
    side = size // model.network.backbone.patch_size * model.network.backbone.patch_size
    seen = [model.view(pixels, side) for pixels in (query, hit)]
    features = [patch_features(model, view) for view in seen]
    maps = [best_matches(*features), best_matches(*features[::-1])]
    low, high = min(map(np.min, maps)), max(map(np.max, maps))
    shown = side * max(1, round(SHOWN / side))  # the same part, for people
    drawn = [
        overlay(
            model.view(pixels, shown),
            apply_heat((one - low) / max(float(high - low), 1e-6)),
        )
        for pixels, one in zip((query, hit), maps, strict=True)
    ]
    return tile_row(drawn, gap=8)
