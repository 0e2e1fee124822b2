"""DINO and DINOv2 self-supervised learning of vision features, in JAX and Flax for TPUs."""
