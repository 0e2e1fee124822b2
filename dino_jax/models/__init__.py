"""Backbones, heads and the network that joins them; the only place that imports flax.linen."""
