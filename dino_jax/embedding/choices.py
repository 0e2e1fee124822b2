"""The choices of `dino-jax embed`, which its command line names without importing jax."""

PATCHES = "patches"
TOKENS = ("cls", "mean", "both", PATCHES)  # of a layer; the mean is that of the patch tokens
REDUCTIONS = ("none", "pca", "random")  # of the numbers per image
FORMATS = ("npy", "parquet")  # of a shard
DTYPES = ("float16", "float32")  # of the features of patches
OF_VECTORS = ("reduce", "dim", "sample", "format")  # options that --tokens=patches does not have
OF_PATCHES = ("tile", "overlap", "dtype", "own_size")  # options that only it has
