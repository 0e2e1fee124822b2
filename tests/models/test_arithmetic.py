"""Networks of bfloat16 activations on CPUs."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_simclr, quickstart, resnet50_released
from dino_jax.config.section import section
from dino_jax.models import arithmetic
from dino_jax.models.arithmetic import suited_to, with_dtype
from dino_jax.models.build import NetworkConfig, build_network
from dino_jax.models.network import Network

CPU, TPU = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="tpu")


def build(config: Any, **backbone: Any) -> Network:
    config = config.get_config().network
    config.dtype = "bfloat16"
    config.backbone.update(backbone)
    for head in config.heads.values():
        head.update(hidden_dim=16, out_dim=8)
    return build_network(section("config.network", config, NetworkConfig))


@pytest.fixture(params=[True, False], ids=["multiplies", "does not"])
def multiplies(request, monkeypatch) -> bool:
    monkeypatch.setattr(arithmetic, "multiplies_bfloat16", lambda: request.param)
    return request.param


def test_a_cpu_has_float32_activations_and_rounds_if_its_processor_multiplies(multiplies):
    for config in (quickstart, digits_simclr):
        network = suited_to(build(config, depth=1), CPU)
        for module in (network.backbone, *network.heads.values()):
            assert (module.dtype, module.rounds) == (jnp.float32, multiplies)


def test_a_resnet_is_all_float32_on_a_cpu(multiplies):
    assert suited_to(build(resnet50_released), CPU).backbone.dtype == jnp.float32


def test_float32_and_other_devices_stay_as_they_are(multiplies):
    network = build(quickstart, depth=1)
    assert suited_to(network, TPU) is network
    exact = with_dtype(network, jnp.float32)
    same = suited_to(exact, CPU)
    assert (same.backbone, dict(same.heads)) == (exact.backbone, dict(exact.heads))


def test_features_are_between_those_of_float32_and_of_bfloat16(monkeypatch):
    """Rounding the operands alone costs less than bfloat16 activations do."""
    monkeypatch.setattr(arithmetic, "multiplies_bfloat16", lambda: True)
    network = build(quickstart, depth=2)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    exact = with_dtype(network, jnp.float32)
    variables = jax.jit(lambda: exact.init(jax.random.key(0), images))()

    def features(network: Network) -> np.ndarray:
        return np.asarray(jax.jit(network.apply)(variables, images)["cls"], np.float32)

    wanted = features(exact)
    rounded, halves = (
        float(np.linalg.norm(features(x) - wanted) / np.linalg.norm(wanted))
        for x in (suited_to(network, CPU), network)
    )
    assert 0 < rounded < halves < 0.05
