"""Draws what the network will see, to be looked at before a run.

  python -m dino_jax.data.show --config=configs/vits16_vanilla.py --out=sheet.png \
    --config.data.path=/data/imagenet/train [--images=8] [--config.seed=1]

One row per image: the original with the box of every crop, then the crops themselves after all
augmentation, framed in the color of their box. Parameters come from the sampler of the training
stream; images and crops depend on config.seed only.
"""

import sys
from functools import partial

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from dino_jax.commands.command_line import UsageError, fail, mendable
from dino_jax.data.preview import draw_preview

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_OUT = flags.DEFINE_string("out", None, "PNG file to write, local or gs://.")
_IMAGES = flags.DEFINE_integer("images", 8, "How many images.", lower_bound=1)


def parse_flags(argv: list[str]) -> list[str]:
    """Flags parser for `absl.app.run`: a wrong command line ends with one clear line."""
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # ml_collections, for a name that does not exist
        fail(f"the config has no {error.args[0]}".partition("\n")[0])
    except (OSError, TypeError, ValueError, flags.Error) as error:
        fail(error)
    missing = [f"--{name}" for name in ("config", "out") if not flags.FLAGS[name].value]
    if missing:
        fail(
            f"missing {' and '.join(missing)}; a command looks like python -m dino_jax.data.show "
            "--config=configs/quickstart.py --out=sheet.png"
        )
    return rest


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    title = config_flags.get_config_filename(flags.FLAGS["config"])
    out = epath.Path(_OUT.value or "").expanduser()
    try:
        with mendable():
            say = partial(print, file=sys.stderr)
            sheet = draw_preview(_CONFIG.value, title, _IMAGES.value, say)
            with out.open("wb") as file:
                sheet.save(file, "PNG")
    except UsageError as error:
        fail(error)
    print(f"{out}: {sheet.width} x {sheet.height} pixels")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
