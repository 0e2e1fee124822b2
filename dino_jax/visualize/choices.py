"""The choices and usual sizes of `dino-jax visualize`, which its command line names without jax."""

PICTURES = ("attention", "neighbours", "pca", "similar_patches")  # keys of `draw.DRAW`
# The network sees images larger than in its evaluation, as in the official visualize_attention.py.
SIZE, USUAL_SIZE = 480, 224  # pixels
IMAGES_PER_SECOND = 30  # for a film of images, as there
