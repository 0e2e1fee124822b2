"""Linear classifiers on frozen features (arXiv:2104.14294, Section 4.1; arXiv:2304.07193, 7.1).

--convention=dino trains one classifier on the cls tokens of the last 4 blocks for 100 epochs and
reports its best epoch; the paper uses --last-blocks 1 --avgpool yes for ViT-B. --convention=dinov2
trains 52 (13 learning rates, the last 1 or 4 blocks, with and without the mean of the patch tokens)
for 12,500 iterations and reports the best one. --convention=mae (arXiv:2111.06377, Appendix A.1)
trains one on the cls token after a BatchNorm without scale and shift, with LARS for 90 epochs, and
reports its best epoch. All choose on the test images. Several values of --learning-rates,
--last-blocks and --avgpool are trained together.
"""

import argparse
import dataclasses

from dino_jax.commands.arguments import BATCH, COUNT, LAYERS, POSITIVE
from dino_jax.evaluation.options.groups import add_labelled_arguments, add_reading_arguments

TRAIN_BATCH = 1024  # 8 GPUs of 128 images, of DINO and DINOv2; MAE has 16,384
AVGPOOL = {"no": False, "yes": True}


@dataclasses.dataclass(frozen=True)
class Convention:
    """Defaults of one paper for the options of the command line.

    Attributes:
      learning_rates: learning rates for batches of 256 images.
      last_blocks: numbers of blocks, each with its own classifiers.
      avgpool: keys of `AVGPOOL`, each with its own classifiers.
      resampling: resampling of the training crops.
      unit: option with the length: "epochs" or "iterations".
      length: default of this option.
      warmup_epochs: epochs in which the learning rate rises from 0; it then moves at every step,
        without a warm-up once per epoch.
      crops: key of `labelled_stream.DRAWS`.
      standardizes: whether a BatchNorm without scale and shift comes first.
      rule: key of `linear_heads.RULES`.
    """

    learning_rates: tuple[float, ...]
    last_blocks: tuple[int, ...]
    avgpool: tuple[str, ...]
    resampling: str
    unit: str
    length: int
    warmup_epochs: float = 0.0
    crops: str = "tries"
    standardizes: bool = False
    rule: str = "sgd"


CONVENTIONS = {
    "dino": Convention((1e-3,), (4,), ("no",), "bilinear", "epochs", 100),
    "dinov2": Convention(
        (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
        (1, 4),
        ("no", "yes"),
        "bicubic",
        "iterations",
        12_500,
    ),
    "mae": Convention(
        (0.1,),
        (1,),
        ("no",),
        "bicubic",
        "epochs",
        90,
        warmup_epochs=10.0,
        crops="clamped",
        standardizes=True,
        rule="lars",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_labelled_arguments(parser)
    add_reading_arguments(parser)
    add = parser.add_argument
    add("--convention", default="dino", choices=sorted(CONVENTIONS))
    add("--learning-rates", type=POSITIVE, nargs="+", help="for 256 images; scaled with the batch")
    add(
        "--last-blocks",
        type=LAYERS,
        nargs="+",
        help="number of last blocks whose cls tokens are used",
    )
    add(
        "--avgpool",
        nargs="+",
        choices=sorted(AVGPOOL),
        help="whether to use the mean of the patch tokens",
    )
    add("--epochs", type=COUNT, help="dino, mae; default: 100, 90")
    add("--iterations", type=COUNT, help="dinov2; default: 12500")
    add("--classifier", default="", help="file of a released classifier; then nothing is trained")
    add("--train-batch-size", type=BATCH, default=TRAIN_BATCH, help="over all devices")
