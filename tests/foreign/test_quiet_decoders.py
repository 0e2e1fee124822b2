"""An image that can't be read is one line of ours: decoders write nothing to the terminal."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
DECODE = """
    import io, logging, warnings
    import numpy as np
    from PIL import Image
    from dino_jax.data.decode import decode_image
    from dino_jax.foreign.pictures import UnreadableImageError

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    torn = bytearray(buffer.getvalue())
    torn[500:600] = bytes(100)  # libtiff, in C
    large = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(large, "PNG")  # Pillow's warning of a bomb
    logging.basicConfig(level=logging.DEBUG)
    for data, limit in ((bytes(torn), 10_000), (large.getvalue(), 100)):
        with warnings.catch_warnings():
            try:
                decode_image(data, limit)
            except UnreadableImageError:
                print("unreadable")
    warnings.warn("still heard")
"""


def test_decoders_write_nothing_to_the_terminal():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DECODE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["unreadable"] * 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("DEBUG:PIL.Image:")]
    assert lines[0].endswith("UserWarning: still heard")
    assert lines[1:] in ([], ['  warnings.warn("still heard")'])  # Python 3.13 quotes the source
