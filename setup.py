"""Package metadata; every bound was tested (see README, "Supported versions")."""

from setuptools import find_packages, setup

setup(
    name="dino_jax",
    version="0.1.0",
    description="DINO and DINOv2 self-supervised learning of vision features, in JAX for TPUs",
    license="Apache-2.0",
    packages=find_packages(include=["dino_jax", "dino_jax.*"]),
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "etils[epath]>=1.9",
        "flax>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "jax>=0.10.2,<0.11",
        "ml-collections>=1.1,<2",
        "numpy>=2.0",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pillow>=11",
        "scikit-learn>=1.6",
        "tensorboardX>=2.6.2",
        "tqdm>=4.66",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.11"],
        "tfds": ["tensorflow-datasets>=4.9.9", "importlib_resources>=6"],
        "test": [
            "tensorflow-datasets>=4.9.9",
            "importlib_resources>=6",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff==0.17.6",
            "pyright[nodejs]==1.1.414",
        ],
    },
)
