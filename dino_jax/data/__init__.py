"""Images in, uint8 multi-crop batches out; NumPy, Pillow and grain only, no jax.

sources.py     encoded images from a folder, TFDS / ArrayRecord or scikit-learn's digits
decode.py      bytes -> RGB uint8, or one error for everything that is no readable image
augment.py     one random crop: parameters are sampled first, then applied (PIL semantics)
multi_crop.py  the global and local crops of one image
pipeline.py    the training stream, a pure function of (seed, step), and the evaluation stream
"""
