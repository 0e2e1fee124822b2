"""What can be tuned: a new way is one file and one line of this table."""

from typing import Any

from dino_jax.tuning import adapter_way
from dino_jax.tuning.photo_way import KINDS, PhotoWay

# Things with check, make, frozen, hand_out and advice, see `adapter_way`.
WAYS: dict[str, Any] = {"adapter": adapter_way, **dict.fromkeys(KINDS, PhotoWay())}
