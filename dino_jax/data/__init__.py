"""Images in, uint8 multi-crop batches out; NumPy, numba and grain, no jax.

sources/       encoded images from folders, lists, shards, TFDS, the digits, mixtures
decode.py      bytes -> RGB uint8, or one error for everything that is not a readable image
augment.py     the random choices of a crop, with torchvision's distributions
geometry.py    crop, resize and flip, Pillow's bit by bit; kernel.py compiles it
recolor.py     jitter, grayscale, blur and solarization, Pillow's bit by bit
photometric.py the numbers for recolor.py, or for dino_jax.step.photometric on the device
multi_crop.py  the crops of one image or clip, by groups (groups.py): the section config.augment
back_ends.py   who makes the crops, workers or devices; canvas.py: whole images for the devices
masking.py     choice of masked patches: the section config.masking; block_masking.py,
               random_masking.py, mask_indices.py
slots.py       memory that workers fill over and over
worker_process.py  workers end with their parent and leave signals to it; worker_main.py: imports
pipeline.py    the training stream, a pure function of (seed, step), and the evaluation stream
building/      any source -> ArrayRecord shards, on one machine or on Apache Beam
preview.py     a contact sheet of the crops of a config (contact_sheet.py)
"""
