"""The forms in which the other side of the benchmark is written; imports no torch."""

from typing import NamedTuple


class Variant(NamedTuple):
    """A way to write it.

    Attributes:
      title: for the table.
      quick: scaled_dot_product_attention, the fused AdamW, one log-softmax per view.
      onednn: float32 products by oneDNN, not by MKL, which is slow on processors not of Intel.
      bfloat16: autocast of both forward passes.
      compiled: torch.compile of student and teacher, with their gradients.
    """

    title: str
    quick: bool = True
    onednn: bool = False
    bfloat16: bool = False
    compiled: bool = False


VARIANTS = {
    "plain": Variant("plain, as users write it", quick=False),
    "quick": Variant("SDPA, fused AdamW"),
    "compiled": Variant("SDPA, fused AdamW, torch.compile", compiled=True),
    "onednn": Variant("SDPA, fused AdamW, oneDNN products", onednn=True),
    "bfloat16": Variant("SDPA, fused AdamW, bfloat16 autocast", bfloat16=True),
}
