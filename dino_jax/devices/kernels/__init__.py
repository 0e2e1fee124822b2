"""TPU kernels (Pallas) of the ViT's residual branches; jnp and Pallas only."""
