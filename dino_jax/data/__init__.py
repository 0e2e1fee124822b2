"""Images in, uint8 multi-crop batches out; NumPy, numba and grain, no jax.

sources.py     encoded images from a folder, TFDS / ArrayRecord or scikit-learn's digits
decode.py      bytes -> RGB uint8, or one error for everything that is no readable image
augment.py     what is random about a crop, with torchvision's distributions
geometry.py    crop, resize and flip, Pillow's bit by bit; kernel.py compiles it
recolor.py     jitter, grayscale, blur and solarization, Pillow's bit by bit
photometric.py what recolor.py, or dino_jax.photometric on the device, is told
multi_crop.py  the global and local crops of one image
slots.py       memory that workers fill over and over
pipeline.py    the training stream, a pure function of (seed, step), and the evaluation stream
"""
