"""Losses of similarities between rows with labels: what is alike comes together, the rest apart.

All of them take cosines s and two masks, P(i) and N(i): the positives and the negatives of row i,
in the batch or in a reference set; logarithms are natural. A row or pair without partners drops
out, and where nothing is left, the loss and its gradient are 0.

Under jit the batch is that of all devices: similarities are global, which costs an all-gather of
the vectors, as DINO's center costs a mean. The values equal those of pytorch-metric-learning 2.9.0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LEFT_OUT = -1e9  # in place of what does not count in a sum of exponentials
LEAST_SQUARE = 1e-12  # of a distance whose root has a finite slope
UNIT_FLOOR = 1e-12  # least length of a vector that is divided by it


class Masks(NamedTuple):
    """Which pairs of rows belong together, and which do not.

    Attributes:
      positives: bool [B, M], other rows of the same label.
      negatives: bool [B, M], rows of other labels.
    """

    positives: jax.Array
    negatives: jax.Array


def match(labels: jax.Array, reference_labels: jax.Array | None = None) -> Masks:
    """The pairs of a batch, in which no row is its own partner, or of a batch and a reference set.

    Args:
      labels: int32 [B].
      reference_labels: int32 [M] of a reference set; None: the batch itself.
    """
    others = labels if reference_labels is None else reference_labels
    same = labels[:, None] == others[None, :]
    itself = jnp.eye(len(labels), dtype=bool) if reference_labels is None else jnp.zeros_like(same)
    return Masks(same & ~itself, ~same)


def to_unit(x: jax.Array) -> jax.Array:
    """Rows of length 1, with a finite gradient at zero: [..., D] float32."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, UNIT_FLOOR**2))


def cosines(x: jax.Array, y: jax.Array) -> jax.Array:
    """[B, M] cosines of rows [B, D] and [M, D] of any length."""
    return jnp.einsum("id,jd->ij", to_unit(x), to_unit(y), precision="highest")


def distances(similar: jax.Array) -> jax.Array:
    """L2 distances of rows of length 1 by their cosines, with a gradient of 0 at equal rows."""
    return jnp.sqrt(jnp.maximum(2 - 2 * similar, LEAST_SQUARE))


def mean_of(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean of the values that count; 0 if there are none."""
    return jnp.sum(jnp.where(counted, values, 0)) / jnp.maximum(jnp.sum(counted), 1)


def log_sum(logits: jax.Array, counted: jax.Array) -> jax.Array:
    """[B] logarithms of sums of exponentials along the last axis; about `LEFT_OUT` of nothing."""
    return jax.nn.logsumexp(jnp.where(counted, logits, LEFT_OUT), axis=-1)


def nt_xent(similar: jax.Array, masks: Masks, temperature: float) -> jax.Array:
    """NT-Xent (arXiv:2002.05709, Eq. 1): each pair against the negatives of its row.

    Other positives of the row are not in the denominator. Two views of each row under one label are
    SimCLR's pairs.

    Args:
      similar: [B, M] cosines.
      masks: the pairs.
      temperature: > 0.

    Returns:
      Mean over all positive pairs.
    """
    logits = similar / temperature
    against = log_sum(logits, masks.negatives)[:, None]
    return mean_of(jax.nn.softplus(against - logits), masks.positives)


def symmetric_cross_entropy(similar: jax.Array, temperature: float) -> jax.Array:
    """Row i of one side finds row i of the other among all of that side, in both directions.

    (As in CLIP, arXiv:2103.00020, Figure 3.)

    Args:
      similar: [B, B] cosines of the rows of both sides.
      temperature: > 0.

    Returns:
      Mean over rows and directions.
    """
    logits = similar / temperature
    shares = jax.nn.log_softmax(logits), jax.nn.log_softmax(logits.T)
    there, back = (jnp.mean(jnp.diagonal(one)) for one in shares)
    return -(there + back) / 2


def supervised_contrastive(similar: jax.Array, masks: Masks, temperature: float) -> jax.Array:
    """SupCon (arXiv:2004.11362, Eq. 2): all other rows are in the denominator.

    Args:
      similar: [B, M] cosines.
      masks: the pairs.
      temperature: > 0.

    Returns:
      Mean over the rows whose loss is positive.
    """
    logits = similar / temperature
    total = log_sum(logits, masks.positives | masks.negatives)
    positives = jnp.sum(masks.positives, axis=-1)
    attracted = jnp.sum(jnp.where(masks.positives, logits, 0), axis=-1) / jnp.maximum(positives, 1)
    losses = jnp.where(positives > 0, total - attracted, 0)
    return mean_of(losses, losses > 0)


def multi_similarity(
    similar: jax.Array, masks: Masks, alpha: float, beta: float, base: float
) -> jax.Array:
    """Multi-similarity loss (arXiv:1904.06627, Eq. 15).

    Args:
      similar: [B, M] cosines.
      masks: the pairs, all of them or those of `mine`.
      alpha: sharpness among positives, > 0.
      beta: sharpness among negatives, > 0.
      base: cosine about which both turn.

    Returns:
      Mean over all rows; of a row without pairs a part is 0.
    """
    near = jax.nn.softplus(log_sum(-alpha * (similar - base), masks.positives)) / alpha
    far = jax.nn.softplus(log_sum(beta * (similar - base), masks.negatives)) / beta
    return jnp.mean(near + far)


def mine(similar: jax.Array, masks: Masks, epsilon: float) -> Masks:
    """Pairs from which there is something to learn (arXiv:1904.06627, Eq. 11 and 12).

    A positive stays if it is less similar than the nearest negative, a negative if it is more
    similar than the farthest positive, both up to `epsilon`; a row that lacks either keeps none.
    """
    nearest = jnp.max(jnp.where(masks.negatives, similar, -jnp.inf), axis=-1, keepdims=True)
    farthest = jnp.min(jnp.where(masks.positives, similar, jnp.inf), axis=-1, keepdims=True)
    return Masks(
        masks.positives & (similar - epsilon < nearest),
        masks.negatives & (similar + epsilon > farthest),
    )


def contrastive(
    similar: jax.Array, masks: Masks, positive_margin: float, negative_margin: float
) -> jax.Array:
    """Contrastive loss on L2 distances (Hadsell et al. 2006, Eq. 4, without the squares).

    Args:
      similar: [B, M] cosines.
      masks: the pairs.
      positive_margin: distance up to which positives cost nothing.
      negative_margin: distance from which on negatives cost nothing.

    Returns:
      The mean of what is not 0 among positives, and that among negatives, added.
    """
    far = distances(similar)
    near = jax.nn.relu(far - positive_margin)
    close = jax.nn.relu(negative_margin - far)
    return mean_of(near, masks.positives & (near > 0)) + mean_of(
        close, masks.negatives & (close > 0)
    )


def triplet(similar: jax.Array, masks: Masks, margin: float) -> jax.Array:
    """Triplet loss on L2 distances over all triplets of the batch, [B, M, M] in memory.

    (arXiv:1503.03832, Eq. 3, without the squares.)

    Args:
      similar: [B, M] cosines.
      masks: the pairs.
      margin: by which a negative is to be farther than a positive.

    Returns:
      Mean over the triplets whose loss is not 0.
    """
    far = distances(similar)
    losses = jax.nn.relu(far[:, :, None] - far[:, None, :] + margin)
    there = masks.positives[:, :, None] & masks.negatives[:, None, :]
    return mean_of(losses, there & (losses > 0))


def hardest(similar: jax.Array, masks: Masks) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distances of the farthest positive and the nearest negative of each row.

    Returns:
      [B], [B] and bool [B], whether the row has both.
    """
    farthest = jnp.min(jnp.where(masks.positives, similar, 1), axis=-1)
    nearest = jnp.max(jnp.where(masks.negatives, similar, -1), axis=-1)
    both = jnp.any(masks.positives, axis=-1) & jnp.any(masks.negatives, axis=-1)
    return distances(farthest), distances(nearest), both


def hard_triplet(similar: jax.Array, masks: Masks, margin: float) -> jax.Array:
    """Batch-hard triplet loss (arXiv:1703.07737, Eq. 5).

    Returns:
      Mean over the rows that have positives and negatives, zeros among them.
    """
    positive, negative, both = hardest(similar, masks)
    return mean_of(jax.nn.relu(positive - negative + margin), both)


def soft_triplet(similar: jax.Array, masks: Masks) -> jax.Array:
    """Batch-hard triplet loss with the soft margin log(1 + exp(d_ap - d_an)) (arXiv:1703.07737)."""
    positive, negative, both = hardest(similar, masks)
    return mean_of(jax.nn.softplus(positive - negative), both)
