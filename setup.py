"""Package metadata; every bound was tested (see docs/install.md)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "dino_jax/__init__.py").read_text())[1]
# Its ArrayRecord reader needs importlib_resources but does not ask for it.
TFDS = ["tensorflow-datasets>=4.9.10,<5", "importlib_resources>=6"]
# libtpu, which also compiles where there is no TPU (dino_jax.plan).
TPU = ["jax[tpu]>=0.10.2,<0.13"]
CUDA12, CUDA13 = ["jax[cuda12]>=0.10.2,<0.13"], ["jax[cuda13]>=0.10.2,<0.13"]  # NVIDIA GPUs
WANDB = ["wandb>=0.25,<0.32"]
MLFLOW = ["mlflow-skinny>=3.7,<4"]
PARQUET = ["pyarrow>=26,<27"]
VIDEO = ["av>=18,<19"]
ONNX = ["onnx>=1.23,<2", "onnxruntime>=1.32,<2"]  # of `dino-jax export --format=onnx`
TEXT = ["tokenizers>=0.23.1,<0.24"]  # of text queries
FAISS = ["faiss-cpu>=1.15,<1.16"]  # of `dino-jax search approximate`
DOCS = ["sphinx>=9.0.4,<9.1", "myst-parser>=5.2,<6", "furo==2025.12.19"]  # of the site
# What tests/parity compares with; nothing else needs it.
PARITY = ["torch>=2.13,<2.14", "transformers>=5.23,<6"]

setup(
    name="dino_jax",
    version=VERSION,
    description="Self-supervised vision features (DINO, DINOv2, DINOv3), in JAX for TPUs",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="self-supervised learning, computer vision, DINO, DINOv2, JAX, Flax, TPU",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    # configs/ is the one copy of the shipped configs; a wheel carries it inside of the package.
    packages=[*find_packages(include=["dino_jax", "dino_jax.*"]), "dino_jax.configs"],
    package_dir={"dino_jax.configs": "configs"},
    package_data={
        "dino_jax": ["py.typed"],
        "dino_jax.report": ["*.css", "*.js"],
        "dino_jax.search": ["*.css", "*.html", "*.js"],
        "dino_jax.data.sources": ["digits.npz"],
    },
    entry_points={"console_scripts": ["dino-jax = dino_jax.__main__:main"]},
    python_requires=">=3.11",
    # One command each imports scipy, PyYAML and packaging: jax, ml-collections and tensorboardX
    # bring them.
    install_requires=[
        "absl-py>=2.1,<3",
        "array_record>=0.8.6,<0.9",
        "etils[epath]>=1.15,<2",
        "flax>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "jax>=0.10.2,<0.13",
        "llvmlite>=0.50,<0.51",  # that of numba
        "ml-collections>=1.1,<2",
        "msgpack>=1.2,<2",
        "numba>=0.68,<0.69",
        "numpy>=2.0,<3",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pillow>=11,<14",
        "rich>=13.9,<16",
        "safetensors>=0.8,<0.9",
        "simplejpeg>=1.9,<2",
        "tensorboardX>=2.6.2,<3",
    ],
    extras_require={
        "tpu": TPU,
        "cuda12": CUDA12,  # neither was run on a GPU yet
        "cuda13": CUDA13,
        "tfds": TFDS,
        "parquet": PARQUET,
        "wandb": WANDB,
        "mlflow": MLFLOW,
        "video": VIDEO,
        "onnx": ONNX,
        "faiss": FAISS,
        "text": TEXT,
        "docs": DOCS,
        "parity": PARITY,
        "gcs": ["gcsfs"],  # not tested: no bucket was at hand
        # Does not fit beside the newest Pillow and pyarrow: an environment of its own.
        "beam": ["apache-beam>=2.77,<3"],
        "test": [
            *TFDS,
            *PARQUET,
            *VIDEO,
            *ONNX,
            *FAISS,
            *TEXT,
            f"{TPU[0]}; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "setuptools>=65",  # builds the wheel that tests look into; Python 3.12 brings none
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "scikit-learn>=1.6,<2",  # what k-NN, PCA and classifiers are compared with
            "ruff==0.17.6",
            "pyright[nodejs]==1.1.414",
        ],
    },
)
