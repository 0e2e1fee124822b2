"""Self-supervised objectives: small frozen dataclasses over jnp with explicit state."""
