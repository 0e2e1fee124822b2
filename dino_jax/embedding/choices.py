"""The choices of `dino-jax embed`, which its command line names without importing jax."""

TOKENS = ("cls", "mean", "both")  # of a layer; the mean is that of the patch tokens
REDUCTIONS = ("none", "pca", "random")  # of the numbers per image
FORMATS = ("npy", "parquet")  # of a shard
