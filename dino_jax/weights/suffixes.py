"""What files of weights are called, for those who must not import jax to say so."""

SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin")
