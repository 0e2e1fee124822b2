"""Features of all patches of images of any size, large ones tile by tile."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dino_jax.devices.sharding import batch_sharding, replicated, shard_batch
from dino_jax.embedding.tiles import Grid, Tile, cut_into_tiles, merge_tiles
from dino_jax.models.network import last_outputs
from dino_jax.weights.model import Model

WAITING_BATCHES = 4  # of tiles, of pictures that are not finished or not the first one yet

PatchEmbed = Callable[[np.ndarray], jax.Array]


class Picture(NamedTuple):
    """An image to embed.

    Attributes:
      pixels: [H, W, C] uint8, whole patches.
      key: anything, to tell it by.
    """

    pixels: np.ndarray
    key: Any


class _Open(NamedTuple):
    """An image some of whose tiles are not embedded yet."""

    picture: Picture
    grid: Grid
    tiles: list[Tile]
    done: dict[int, np.ndarray]  # [h, w, D] by tile


def make_patch_embedder(model: Model, mesh: Mesh, *, layers: int, normalize: bool) -> PatchEmbed:
    """Compiles tiles [B, H, W, C] uint8 -> [B, h, w, layers * D] float32, once per size.

    Args:
      model: model whose patch tokens are taken, after the final norm.
      mesh: mesh of this process's devices; the batch is split over them, so they must divide it.
      layers: number of last blocks; their features are concatenated, those of the last block at
        the end.
      normalize: whether to scale the features of each patch to length 1, at the end.
    """
    variables = jax.device_put(model.variables, replicated(mesh))
    patch_size = model.network.backbone.patch_size

    @jax.jit
    def embed(variables: Any, images: jax.Array) -> jax.Array:
        outputs = last_outputs(model.network, variables, images, layers)
        x = jnp.concatenate([each["patches"].astype(jnp.float32) for each in outputs], axis=-1)
        if normalize:
            x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        height, width = (pixels // patch_size for pixels in images.shape[1:3])
        return x.reshape(len(x), height, width, -1)

    return lambda images: embed(
        variables, shard_batch({"image": images}, batch_sharding(mesh))["image"]
    )


def embed_pictures(
    pictures: Iterable[Picture],
    embed: PatchEmbed,
    patch_size: int,
    *,
    side: int,
    overlap: int,
    batch_size: int,
) -> Iterator[tuple[Any, np.ndarray]]:
    """The patch features of pictures, in order.

    Tiles of one size share a batch, whichever pictures they come from. Pictures of at most
    `WAITING_BATCHES` batches of tiles, and one more, are in memory with their features.

    Args:
      pictures: pictures of any sizes.
      embed: from `make_patch_embedder`.
      patch_size: side of a patch in pixels.
      side: patches of a tile's side, at most.
      overlap: patches that neighbouring tiles share, at least.
      batch_size: tiles in a batch, always; it is filled up with black ones.

    Yields:
      Its key and [H, W, D] float32 of each picture.
    """
    queue: collections.deque[_Open] = collections.deque()
    waiting: dict[Grid, list[tuple[_Open, int]]] = {}

    def run(grid: Grid) -> None:
        jobs, waiting[grid] = waiting[grid][:batch_size], waiting[grid][batch_size:]
        height, width = (count * patch_size for count in grid)
        channels = jobs[0][0].picture.pixels.shape[2]
        batch = np.zeros((batch_size, height, width, channels), np.uint8)
        for row, (opened, number) in enumerate(jobs):
            top, left = (count * patch_size for count in opened.tiles[number].start)
            pixels = opened.picture.pixels
            batch[row] = pixels[top : top + height, left : left + width]
        features = np.asarray(embed(batch))
        for row, (opened, number) in enumerate(jobs):
            opened.done[number] = features[row]

    def finished() -> Iterator[tuple[Any, np.ndarray]]:
        while queue and len(queue[0].done) == len(queue[0].tiles):
            opened = queue.popleft()
            features = [opened.done[number] for number in range(len(opened.tiles))]
            yield opened.picture.key, merge_tiles(opened.tiles, features, opened.grid)

    for picture in pictures:
        rows, columns = (pixels // patch_size for pixels in picture.pixels.shape[:2])
        tiles = cut_into_tiles((rows, columns), side, overlap)
        opened = _Open(picture, (rows, columns), tiles, {})
        queue.append(opened)
        jobs = waiting.setdefault(tiles[0].grid, [])
        jobs += [(opened, number) for number in range(len(tiles))]
        while len(waiting[tiles[0].grid]) >= batch_size:
            run(tiles[0].grid)
        yield from finished()
        while sum(len(each.tiles) for each in queue) > WAITING_BATCHES * batch_size:
            run(queue[0].tiles[0].grid)
            yield from finished()
    while queue:
        run(queue[0].tiles[0].grid)
        yield from finished()
