"""What files of weights are called, for those who must not import jax to say so."""

SUFFIXES = (".safetensors", ".safetensors.index.json", ".pth", ".pth.tar", ".pt", ".bin")
