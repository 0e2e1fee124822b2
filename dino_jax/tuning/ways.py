"""What can be tuned: a new way is one file and one line of this table."""

from dino_jax.tuning import adapter_way

# Modules with check, make, frozen, hand_out and advice, see `adapter_way`.
WAYS = {"adapter": adapter_way}
