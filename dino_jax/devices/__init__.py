"""Where arrays live and how devices share them; the TPU kernels."""
