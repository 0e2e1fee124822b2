"""What `dino-jax embed` has made, for the commands that go on with it; needs no jax."""

import re
from typing import Any

from etils import epath

from dino_jax.embedding.shards import Shards
from dino_jax.foreign.json_text import read_json

PLAN = "embed.json"
MOST_PLAN = 1 << 24  # bytes of embed.json
_SHARD = re.compile(r"embeddings-(\d{5})-of-(\d{5})\.(npy|parquet)")


def read_embedded(place: epath.PathLike, option: str) -> tuple[dict[str, Any], Shards]:
    """The options and the shards of a folder of `dino-jax embed`.

    Args:
      place: the folder.
      option: what names it on the command line, for messages.

    Raises:
      ValueError: if it is not complete, or not one vector per image.
      OSError: if it is no such folder.
    """
    place = epath.Path(place)
    path = place / PLAN
    if not path.exists():
        raise FileNotFoundError(f"{option}={place} is no folder of dino-jax embed: no {PLAN}")
    plan = read_json(path, MOST_PLAN)
    found = [match for one in place.iterdir() if (match := _SHARD.fullmatch(one.name))]
    if not isinstance(plan, dict) or "tokens" not in plan or plan["tokens"] == "patches":
        raise ValueError(f"{option}={place} holds no vectors of images: {PLAN} names patches")
    counts = {int(match[2]) for match in found}
    if len(counts) != 1 or len(found) != next(iter(counts)):
        raise ValueError(
            f"{option}={place} has {len(found)} shards of {sorted(counts) or 'none'}; run the same "
            "dino-jax embed again to finish it"
        )
    return plan, Shards(str(place), counts.pop(), found[0][3])
