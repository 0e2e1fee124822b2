"""What tests/golden keeps of a recorded gradient: at most 128 evenly spaced values and the norm."""

import numpy as np


def sketch(x: np.ndarray) -> np.ndarray:
    flat = np.ravel(x)
    chosen = np.linspace(0, flat.size - 1, min(flat.size, 128)).astype(int)
    return np.append(flat[chosen], np.linalg.norm(flat)).astype(np.float32)


def assert_gradients_equal(ours: dict[str, np.ndarray], recorded, prefix: str, atol: float = 2e-5):
    """Compares every gradient under `prefix` ("case/grad/") with ours of the same name.

    The tolerance grows with the largest recorded value of a tensor, as the golden README asks.
    """
    official = {n.removeprefix(prefix): recorded[n] for n in recorded.files if n.startswith(prefix)}
    assert official
    for name, expected in official.items():
        scale = max(1.0, float(np.abs(expected[:-1]).max()))
        np.testing.assert_allclose(
            sketch(ours[name])[:-1], expected[:-1], rtol=0, atol=atol * scale, err_msg=name
        )
        np.testing.assert_allclose(
            sketch(ours[name])[-1], expected[-1], rtol=1e-4, atol=atol * scale, err_msg=name
        )
