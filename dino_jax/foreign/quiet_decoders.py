"""Decoders say nothing of their own: an image that can't be read is one line of ours.

Pillow warns and logs, and libtiff below it writes to stderr, for many an image that is read well
and several times for one that is not.
"""

import ctypes
import functools
import logging
import re
import warnings
from typing import Any

from PIL import Image

_core: Any = Image.core
_LIBTIFF_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")
_RULE = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as `warnings` keeps it


def quiet_decoders() -> None:
    """Silences what decoders in this process say of images; quick if they are silent already.

    For the whole process: warnings can't be silenced for one thread. Only those that Pillow raises
    are ignored, and of its log what is below `logging.CRITICAL`.
    """
    if _RULE not in warnings.filters:  # a context of somebody else may have taken it away
        warnings.filterwarnings("ignore", module=_RULE[3].pattern)
    _quiet_once()


@functools.cache
def _quiet_once() -> None:
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        decoders = ctypes.CDLL(_core.__file__)  # with the libraries that it has loaded
        handlers = [getattr(decoders, name) for name in _LIBTIFF_HANDLERS]
    except (OSError, AttributeError, TypeError):  # built without libtiff, or as one file
        return
    for set_handler in handlers:
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)
