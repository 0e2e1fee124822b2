"""Fine-tunes the whole backbone with a classifier (MAE, arXiv:2111.06377, Appendix A.2).

The usual way to judge MAE, whose frozen features are weak by design. The defaults are MAE's for
ViT-B: a LayerNorm and a linear classifier on the mean of the patch tokens, AdamW with a learning
rate that falls from block to block towards the input, RandAugment, mixup or cutmix, label
smoothing, random erasing and stochastic depth. --pool=cls takes the cls token after the backbone's
own norm, as DeiT and MoCo v3 do. The backbone in the checkpoint stays as it is.
"""

import argparse

from dino_jax.commands.arguments import BATCH, COUNT, NOT_NEGATIVE, POSITIVE, SEED, SHARE, real
from dino_jax.evaluation.options.groups import add_labelled_arguments, add_reading_arguments

POOLS = ("auto", "mean", "cls")
DROP = real(at_least=0, at_most=0.95)
AREA = real(above=0, at_most=1)
MAGNITUDE = real(at_least=0, at_most=10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_labelled_arguments(parser)
    add_reading_arguments(parser)
    add = parser.add_argument
    add("--pool", default="auto", choices=POOLS, help="auto: mean for ViTs, else cls")
    add("--epochs", type=COUNT, default=100, help="passes over the training images")
    add("--train-batch-size", type=BATCH, default=1024, help="over all devices")
    add("--lr", type=POSITIVE, default=5e-4, help="for 256 images; scaled with the batch")
    add("--min-lr", type=NOT_NEGATIVE, default=1e-6, help="at the end; not scaled")
    add("--warmup-epochs", type=NOT_NEGATIVE, default=5.0, help="epochs in which the rate rises")
    add("--weight-decay", type=NOT_NEGATIVE, default=0.05, help="of AdamW; not of tokens and norms")
    add("--layer-decay", type=POSITIVE, default=0.65, help="rate factor per block; 1 for ResNets")
    add("--drop-path", type=DROP, default=0.1, help="stochastic depth of the last block; 0: none")
    add("--label-smoothing", type=SHARE, default=0.1, help="share that all classes get")
    add("--mixup", type=NOT_NEGATIVE, default=0.8, help="alpha of its Beta distribution; 0: none")
    add("--cutmix", type=NOT_NEGATIVE, default=1.0, help="alpha of its Beta distribution; 0: none")
    add("--least-area", type=AREA, default=0.08, help="of a training crop, as a share of the image")
    add("--flip", type=SHARE, default=0.5, help="probability of mirroring a training crop")
    add("--erase", type=SHARE, default=0.25, help="probability of random erasing")
    add("--rand-augment", type=MAGNITUDE, default=9.0, help="magnitude of RandAugment; 0: none")
    add("--seed", type=SEED, default=0, help="seed of order, crops, classifier and noise")
