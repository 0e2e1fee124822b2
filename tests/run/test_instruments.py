"""What looks at the networks of a run: which of it a config gives."""

import pytest

from configs import quickstart, vits16_small_data
from dino_jax.devices.sharding import make_mesh
from dino_jax.run.instruments import check_instruments
from dino_jax.step.recipe import build_recipe


def check(config):
    check_instruments(config, build_recipe(config, 10_000), make_mesh(1))


def test_a_config_with_training_images_alone_is_fine():
    config = vits16_small_data.get_config()
    config.data.path = "photos"
    check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations.knn.of": ("teacher", "anchor")}, "has the role 'anchor'"),
        ({"evaluations.proxies.batch_size": 3}, r"proxies\.batch_size \(3\) must be a multiple"),
        ({"guard.action": "warn"}, "there is no model to compare with"),
        ({"probes.evaluation": "proxy"}, "config\\.probes\\.evaluation is 'proxy'"),
        ({"image_size": 4}, "config\\.image_size \\(4\\) is smaller than one patch"),
    ],
)
def test_everything_is_checked_without_opening_images(changes, message):
    config = quickstart.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        check(config)
