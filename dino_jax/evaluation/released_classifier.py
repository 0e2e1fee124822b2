"""The linear classifiers that were released with DINO and DINOv2."""

import numpy as np

from dino_jax.evaluation.logistic import Classifier
from dino_jax.weights.state_dict import read_state_dict


def read_classifier(path: str, dim: int, classes: int) -> Classifier:
    """Reads one linear layer, under any names that end in weight and bias.

    Args:
      path: path of the file of weights.
      dim: expected numbers per image.
      classes: expected number of classes.

    Raises:
      OSError: if there is no such file.
      ValueError: if it holds something else, or its sizes differ.
    """
    tensors = read_state_dict(path)
    parts = {name.rpartition(".")[2]: value for name, value in tensors.items()}
    if len(tensors) != 2 or set(parts) != {"weight", "bias"}:
        raise ValueError(
            f"{path} is not a linear classifier: it holds {sorted(tensors)[:5]}, expected one "
            "weight and one bias"
        )
    weight, bias = (parts[name].astype(np.float32) for name in ("weight", "bias"))
    if weight.shape != (classes, dim) or bias.shape != (classes,):
        raise ValueError(
            f"the classifier {path} has a weight of shape {weight.shape}, expected ({classes}, "
            f"{dim}) for {classes} classes of test images and these features; see --convention, "
            "--last-blocks and --avgpool"
        )
    return Classifier(weight.T, bias)
