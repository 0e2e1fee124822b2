"""The license of released DINOv3 models, which stays with them and with models made of them."""

import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from dino_jax.weights.provenance import sha256_of

LICENCE = "DINOv3 License"
TEXT_AT = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"
NOTICE = (
    f"  {LICENCE}: {TEXT_AT}",
    "    not an open-source license: copies, and models tuned from these weights, may be passed on",
    "    only under it and with its text; publications name DINOv3; some uses are excluded.",
    "    dino-jax keeps its name in everything that it writes from them",
)
SAT_MEAN, SAT_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)  # of the models for satellites

_SAID = re.compile(r"dino[\s_-]?v3", re.IGNORECASE)
# dinov3_vits16_pretrain_lvd1689m-08c60483.pth: first digits of the SHA-256 of the content.
_RELEASED = re.compile(r"dinov3_\w+?-([0-9a-f]{8})\.\w+")


def is_under_it(licence: str) -> bool:
    """Whether a stated license is this one, in whatever spelling."""
    return _SAID.search(licence) is not None


def is_released(file: epath.Path) -> bool:
    """Whether a file has the name of a released one."""
    return _RELEASED.fullmatch(file.name) is not None


def is_for_satellites(file: epath.Path) -> bool:
    """Whether a file has the name of a model that was trained on images of satellites."""
    return is_released(file) and "_sat493m" in file.name


def check_hash(file: epath.Path) -> None:
    """Compares the content of a released file with the digits in its name.

    Raises:
      OSError: if it cannot be read.
      ValueError: if they differ.
    """
    match = _RELEASED.fullmatch(file.name)
    if match is None:
        return
    found = sha256_of(file)
    if not found.startswith(match[1]):
        raise ValueError(
            f"{file} has SHA-256 {found[:8]}…, and its name says {match[1]}: it is damaged or of "
            "other content; download it again, or give a file that you have changed another name"
        )


def check_stated(licence: str, found: str) -> None:
    """Checks that a license given by the user does not drop this one.

    Args:
      licence: given; "": none.
      found: the one that the file or what lies beside it states.

    Raises:
      ValueError: if it does.
    """
    if licence and is_under_it(found) and not is_under_it(licence):
        raise ValueError(
            f"these weights are under the {found}; --license={licence!r:.100} would drop it: leave "
            "--license out"
        )


def find_in(sources: Sequence[Any]) -> str:
    """Path of the first source under this license, among those of a provenance; "": none is."""
    for source in sources:
        if not isinstance(source, dict):
            continue
        path, told = str(source.get("path", "")), source.get("provenance") or {}
        stated = [source.get("license", ""), told.get("license", "") if told else ""]
        if is_released(epath.Path(path)) or any(is_under_it(str(x)) for x in stated):
            return path
        for inner in (source.get("sources"), told.get("sources") if told else None):
            if isinstance(inner, list) and (place := find_in(inner)):
                return place
    return ""
