"""Whether patches find their place: of features that say it, of copies of cls, and in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dino_jax.config.defaults import to_config_dict
from dino_jax.evaluation.online import dense
from dino_jax.evaluation.online.dense import find_places, score_patches
from tests.evaluation.online_runs import build, init_two, small_config, write_images


class ByColor:
    """A network without weights: a patch is the mean color of its pixels, cls that of all."""

    def __init__(self, side: int):
        self.side = side

    def apply(self, variables, images):
        batch, height, width, channels = images.shape
        grid = height // self.side, width // self.side
        parts = images.reshape(batch, grid[0], self.side, grid[1], self.side, channels)
        patches = jnp.mean(parts.astype(jnp.float32), axis=(2, 4)).reshape(batch, -1, channels)
        if variables == "copies":
            patches = jnp.broadcast_to(jnp.mean(patches, 1, keepdims=True), patches.shape)
        return {"cls": jnp.mean(patches, axis=1), "patches": patches}


def test_places_are_the_patches_that_contain_the_centers():
    # Centers of the inner half of 4 columns: 1/4 + 1/2 * (1, 3, 5, 7) / 8 = 5, 7, 9, 11 / 16.
    line = np.array([1, 1, 2, 2])
    np.testing.assert_array_equal(
        find_places((4, 4), (0.25, 0.25), 0.5), (4 * line[:, None] + line).reshape(-1)
    )
    np.testing.assert_array_equal(find_places((2, 3), (0.125, 0.125), 0.75), range(6))


def test_patches_of_their_own_color_find_their_place_and_copies_of_cls_do_not():
    colors = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 200, 0]]])
    images = np.kron(colors, np.ones((8, 8, 1))).astype(np.uint8)[None]
    match, cosine = score_patches(ByColor(8), "", jnp.asarray(images), 0.75)[0]
    assert match == 1.0
    patches = colors.reshape(4, 3)
    unit = patches / np.linalg.norm(patches, axis=-1, keepdims=True)
    mean = patches.mean(0) / np.linalg.norm(patches.mean(0))
    np.testing.assert_allclose(cosine, (unit @ mean).mean(), rtol=1e-5)
    match, cosine = score_patches(ByColor(8), "copies", jnp.asarray(images), 0.75)[0]
    assert match == 1 / 4  # all alike: the first one is found
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-6)


def with_dense(photos, **changes):
    config = small_config()
    config.evaluations = ConfigDict({"dense": to_config_dict(dense.Config(every_epochs=1.0))})
    config.evaluations.dense.images.update(kind="folder", path=photos)
    config.evaluations.dense.update(batch_size=8, **changes)
    return config


def test_a_run_measures_the_networks_that_it_names(tmp_path):
    photos = write_images(tmp_path / "photos", [f"{index}.png" for index in range(6)])
    config = with_dense(photos, of=("teacher", "student"))
    first, other = init_two(config)
    evaluation = build(config)["dense"]
    now = evaluation(0, {"teacher": first, "student": other})
    assert now.keys() == {
        f"dense/{name}/{role}"
        for name in ("match", "cls_cosine")
        for role in ("teacher", "student")
    }
    again = evaluation(10, {"teacher": other, "student": other})
    assert again["dense/match/teacher"] == pytest.approx(now["dense/match/student"])
    network = evaluation.evaluation._context.networks["teacher"]
    [batch] = evaluation.evaluation._images.stream(0, 1)
    rows = jax.device_get(score_patches(network, first, jnp.asarray(batch["image"]), 0.75))
    wanted = rows[batch["valid"]].mean(0)
    assert now["dense/match/teacher"] == pytest.approx(100 * wanted[0], rel=1e-5)
    assert now["dense/cls_cosine/teacher"] == pytest.approx(wanted[1], rel=1e-5)


def test_a_part_without_a_patch_is_a_clear_error(tmp_path):
    photos = write_images(tmp_path / "photos", ["a.png"])
    with pytest.raises(ValueError, match=r"dense\.part \(0\.1\) of 32 pixels is smaller than one"):
        build(with_dense(photos, part=0.1))
