"""The protocol that every head follows, and the order in which heads feed each other."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

# What a head may take: a feature of a backbone, or (cls [B, D], patches [B, k, D], visible) of one
# view, where visible is that of `Crops`: int32 [B, k], or None for all patches in order.
FEATURES = ("cls", "patches", "tokens")


class Head(Protocol):
    """A Flax module that maps features [..., D] to [..., K], or tokens as in `FEATURES`.

    Attributes:
      of: its input: one of `FEATURES`, or the name of another head.
      row_wise: whether it treats every row on its own, so that each device of a mesh can run it on
        its own rows.
    """

    of: str

    @property
    def row_wise(self) -> bool: ...

    def __call__(self, x: Any) -> jax.Array: ...


def order_heads(heads: Mapping[str, Any]) -> list[str]:
    """The names of heads, each after the head that it takes.

    Raises:
      ValueError: if a head takes something unknown, or heads take each other in a circle.
    """
    ordered: list[str] = []
    waiting = dict(heads)
    for name in set(FEATURES) & waiting.keys():
        raise ValueError(f"config.network.heads.{name}: a head cannot have the name of a feature")
    for name, head in heads.items():
        if head.of not in (*FEATURES, *heads):
            raise ValueError(
                f"config.network.heads.{name}.of ({head.of!r}) must be one of {list(FEATURES)} or "
                f"the name of another head; there are {sorted(heads)}"
            )
    while waiting:
        ready = [name for name, head in waiting.items() if head.of in (*FEATURES, *ordered)]
        if not ready:
            raise ValueError(
                f"config.network.heads: {', '.join(sorted(waiting))} wait for each other's output; "
                f"let one of them take one of {list(FEATURES)}"
            )
        ordered += ready
        waiting = {name: head for name, head in waiting.items() if name not in ready}
    return ordered
