"""Information from the files beside a file of weights, such as its license."""

import math
import re
from typing import Any, NamedTuple

from etils import epath

from dino_jax.foreign.files import open_regular, read_bytes
from dino_jax.foreign.json_text import read_json
from dino_jax.foreign.names import one_line
from dino_jax.models.rope import Config as Rope
from dino_jax.weights import dinov3_license
from dino_jax.weights.dinov3_huggingface import rope_of
from dino_jax.weights.provenance import licence_in
from dino_jax.weights.safetensors_file import read_metadata

# Names of the files that facebookresearch/dino and facebookresearch/dinov2 release; the licences of
# both repositories cover code and weights.
_RELEASED = {
    r"dino_(deitsmall|vitbase|resnet50).*_pretrain.*": "facebookresearch/dino",
    r"dinov2_vit[sblg]14.*_pretrain.*": "facebookresearch/dinov2",
}
MAX_CARD_BYTES = 1 << 24  # of each file beside the weights
TOLD = " (stated in its provenance)"
IN_FILE = " (stated in the file)"
UNKNOWN_LICENCE = "unknown, check the source of the file"


class ModelCard(NamedTuple):
    """Information about a file beyond its tensors; None where unknown.

    Attributes:
      licence: license of the weights, and how it is known.
      num_heads: attention heads.
      decoder_heads: attention heads of the decoder of an MAE.
      rope: how queries and keys turn.
      norm_epsilon: epsilon of the LayerNorms.
      mean: mean of every channel, for images in [0, 1].
      std: standard deviation of every channel, for images in [0, 1].
      by_timm: whether timm wrote the config beside it.
    """

    licence: str
    num_heads: int | None = None
    norm_epsilon: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    by_timm: bool = False
    decoder_heads: int | None = None
    rope: Rope | None = None


def read_model_card(path: epath.PathLike, licence: str = "") -> ModelCard:
    """Reads config.json, preprocessor_config.json and README.md beside a file of weights.

    Args:
      path: path of the file of weights.
      licence: license given by the user; "": that of README.md, of the provenance, or of a
        released file by its name.

    Raises:
      OSError: if one of them cannot be read.
      ValueError: if one is not a JSON object, or names an activation that our ViT does not have; if
        `licence` would drop that of DINOv3, or a file does not have the hash in its name.
    """
    file = epath.Path(path).expanduser()
    config = _read_json(file.parent / "config.json")
    pixels = _read_json(file.parent / "preprocessor_config.json")
    activation, gated = config.get("hidden_act", "gelu"), config.get("use_gated_mlp") is True
    where = file.parent / "config.json"
    if activation != ("silu" if gated else "gelu"):
        raise ValueError(
            f"{where} says hidden_act={activation!r:.50}; our ViT has gelu (erf), and silu where "
            "it has gates"
        )
    dinov3_license.check_hash(file)
    told = config.get("pretrained_cfg")
    by_timm: dict[str, Any] = told if isinstance(told, dict) else {}
    mean, std = by_timm.get("mean"), by_timm.get("std")
    if dinov3_license.is_for_satellites(file):
        mean, std = list(dinov3_license.SAT_MEAN), list(dinov3_license.SAT_STD)
    pixels = {"image_mean": mean, "image_std": std} | pixels
    found = _find_licence(file, str(by_timm.get("license", "")))
    dinov3_license.check_stated(licence, found)
    return ModelCard(
        licence=f"{licence} (--license)" if licence else found,
        num_heads=_number(config, "num_attention_heads", (int,), where),
        norm_epsilon=_number(config, "layer_norm_eps", (int, float), where),
        mean=_numbers(pixels.get("image_mean")),
        std=_numbers(pixels.get("image_std")),
        by_timm="architecture" in config,
        decoder_heads=_number(config, "decoder_num_attention_heads", (int,), where),
        rope=rope_of(config) if config.get("model_type") == "dinov3_vit" else None,
    )


def _find_licence(file: epath.Path, by_timm: str) -> str:
    readme = file.parent / "README.md"
    # Hugging Face's model cards begin with YAML between two lines of "---".
    text = read_bytes(readme, MAX_CARD_BYTES).decode(errors="replace") if readme.exists() else ""
    card = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    if card and (stated := _stated("license", card[1])):
        named = _stated("license_name", card[1]) if stated == "other" else ""
        return f"{one_line((named or stated)[:200])} (stated in {readme.name} beside the file)"
    if by_timm:
        return f"{one_line(by_timm[:200])} (stated in config.json beside the file)"
    if told := licence_in(file):
        return told.removesuffix(TOLD) + TOLD
    if told := _in_header(file):
        return told.removesuffix(IN_FILE) + IN_FILE
    if dinov3_license.is_released(file):
        return (
            f"{dinov3_license.LICENCE} (released files of facebookresearch/dinov3 have this name)"
        )
    for pattern, repository in _RELEASED.items():
        if re.fullmatch(pattern, file.name):
            return f"Apache-2.0 (that of {repository}, whose released files have this name)"
    return UNKNOWN_LICENCE


def _in_header(file: epath.Path) -> str:
    """The license of DINOv3, if a .safetensors states it itself, as exports do; else ""."""
    if file.suffix != ".safetensors" or not file.is_file():
        return ""
    with open_regular(file) as opened:
        told = read_metadata(opened).get("licence", "")
    return one_line(told[:500]) if dinov3_license.is_under_it(told) else ""


def _stated(key: str, yaml: str) -> str:
    found = re.search(rf"^{key}:\s*(\S.*?)\s*$", yaml, re.MULTILINE)
    return found[1] if found else ""


def _number(config: dict[str, Any], key: str, kinds: tuple[type, ...], where: epath.Path) -> Any:
    value = config.get(key)
    if value is None or (type(value) in kinds and 0 < value < math.inf):
        return value
    raise ValueError(f"{where} says {key}={value!r:.50}; expected a positive number")


def _numbers(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(type(x) in (int, float) for x in values):
        raise ValueError(f"{values!r:.100} is not a list of numbers")
    return tuple(float(value) for value in values)


def _read_json(file: epath.Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = read_json(file, MAX_CARD_BYTES)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return content
