"""The config small_data: sizes by an argument, lengths that follow the run, no override needed."""

import pytest

from dino_jax.commands.command_line import UsageError
from dino_jax.commands.config_file import load_config
from dino_jax.devices.sharding import make_mesh
from dino_jax.run.instruments import check_instruments
from dino_jax.run.sensible import choose
from dino_jax.run.whole_config import complete_config, read_config
from dino_jax.step.recipe import build_recipe


@pytest.mark.parametrize(
    ("name", "side", "local", "width"),
    [
        ("small_data", 224, 96, 384),
        ("small_data:224", 224, 96, 384),
        ("small_data:100", 128, 64, 384),
        ("small_data:64", 64, 32, 96),
        ("small_data:32", 32, 16, 96),
    ],
)
def test_the_argument_is_the_side_of_the_images(name, side, local, width):
    config = complete_config(load_config(name))
    config.data.path = "photos"
    recipe = build_recipe(read_config(config), 10_000)
    assert recipe.crop_sizes == {"global": (side, side), "local": (local, local)}
    assert recipe.network.backbone.embed_dim == width
    check_instruments(read_config(config), recipe, make_mesh(1))


@pytest.mark.parametrize("side", ["large", "0", "-32", "nan"])
def test_a_side_that_is_no_length_is_refused(side):
    with pytest.raises(UsageError, match=r"small_data:SIDE|median_side must be positive"):
        load_config(f"small_data:{side}")


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("images", [1_000, 10_000, 100_000])
def test_every_length_follows_from_the_number_of_images(images, accelerator):
    config = complete_config(load_config("small_data"))
    chosen = choose(images, 224.0 if accelerator else 32.0, accelerator=accelerator, devices=8)
    for one in chosen:
        config.update_from_flattened_dict({one.option: one.value})
    read = read_config(config)
    recipe = build_recipe(read, images)
    steps = recipe.total_steps
    assert 1_200 <= steps <= 20_000
    assert steps == read.epochs * 100
    rates = recipe.schedules["lr"]
    highest = max(range(steps), key=rates)
    assert abs(highest - steps / 10) <= 1
    assert recipe.grace_steps <= steps / 10
    memory = 1 / (1 - read.roles["teacher"].momentum)
    assert memory == pytest.approx(steps / 20)
    assert read.evaluations["proxies"].every_epochs * 100 == pytest.approx(steps / 10)


def test_what_follows_another_option_can_be_set_alone():
    config = complete_config(load_config("small_data"))
    config.data.path = "photos"
    assert config.evaluations.proxies.images.path == "photos"
    config.evaluations.proxies.images.path = "others"
    config.optimizer.warmup_epochs = 3.0
    assert (config.data.path, config.epochs) == ("photos", 200.0)
    config.epochs = 40.0
    assert config.optimizer.warmup_epochs == 3.0
    assert config.roles.teacher.momentum == pytest.approx(1 - 1 / 200)
