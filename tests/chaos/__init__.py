"""Trainings that are disturbed at random; a checkpoint is compared on the CPU."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
