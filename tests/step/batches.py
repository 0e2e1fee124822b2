"""Random batches for train steps."""

import numpy as np

IMAGES = 8


def draw_batch(step: int) -> dict[str, np.ndarray]:
    """Two global crops of each image, the second one much like the first."""
    rng = np.random.default_rng(step)
    crops = np.repeat(rng.normal(size=(IMAGES, 1, 32, 32, 3)), 2, axis=1)
    noise = 0.3 * rng.normal(size=crops.shape)
    return {"global_crops": (crops + noise).astype(np.float32)}
