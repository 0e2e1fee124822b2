"""Whether views of held-out images find each other in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dino_jax.config.defaults import to_config_dict
from dino_jax.evaluation.label_free import lidar, retrieval
from dino_jax.evaluation.online import views
from dino_jax.evaluation.online.views import draw_views, view_features
from tests.evaluation.online_runs import build, init_two, small_config, write_images


def with_views(photos, **changes):
    config = small_config()
    config.evaluations = ConfigDict({"views": to_config_dict(views.Config(every_epochs=1.0))})
    config.evaluations.views.images.update(kind="folder", path=photos)
    config.evaluations.views.update(batch_size=8, count=3, **changes)
    return config


def test_a_run_measures_the_networks_that_it_names(tmp_path):
    photos = write_images(tmp_path / "photos", [f"{index}.png" for index in range(10)])
    config = with_views(photos, of=("teacher", "student"))
    first, other = init_two(config)
    evaluation = build(config)["views"]
    now = evaluation(0, {"teacher": first, "student": other})
    assert now.keys() == {
        f"views/{name}/{role}" for name in ("retrieval", "lidar") for role in ("teacher", "student")
    }
    again = evaluation(10, {"teacher": other, "student": other})
    assert again["views/lidar/teacher"] == now["views/lidar/student"]
    network = evaluation.evaluation._context.networks["teacher"]
    rows = [
        np.asarray(view_features(network, first, jnp.asarray(batch["image"]), 3, 0.3, 0.4))[
            batch["valid"]
        ]
        for batch in evaluation.evaluation._images.stream(0, 1)
    ]
    features = np.concatenate(rows).reshape(10, 3, -1)
    assert now["views/retrieval/teacher"] == pytest.approx(100 * retrieval(features))
    assert now["views/lidar/teacher"] == pytest.approx(lidar(features), rel=1e-4)


def test_a_view_is_a_part_of_its_image_at_the_size_of_the_image():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None] * 3 + 20, (64, 64))
    images = jnp.asarray(np.stack([ramp, ramp.T])[..., None].repeat(3, -1))
    parts = np.asarray(draw_views(jax.random.key(1), images, 0.25, 0.0)).astype(float)
    assert parts.shape == images.shape
    for part, axis in zip(parts, (0, 1), strict=True):
        along = part.mean(axis=(1 - axis, 2))[2:-2]
        slope = np.polyfit(np.arange(60), along, 1)[0]
        assert 1.45 <= slope <= 3.0  # the side of a part is half the image's at least
        assert along.min() >= 20 and along.max() <= 209
    whole = draw_views(jax.random.key(1), images, 1.0, 0.0)
    np.testing.assert_array_equal(whole, images)


def test_brightness_and_contrast_change_within_their_limits():
    images = jnp.full((64, 8, 8, 3), 100, jnp.uint8)
    levels = np.asarray(draw_views(jax.random.key(0), images, 0.5, 0.4))[:, 0, 0, 0]
    assert levels.min() >= 60 and levels.max() <= 140 and np.unique(levels).size > 20


def test_one_image_is_a_clear_error(tmp_path):
    photos = write_images(tmp_path / "photos", ["a.png"])
    with pytest.raises(ValueError, match=r"views\.images has one image"):
        build(with_views(photos))
