"""What a network does differently on the devices of a mesh."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs import vits16_vanilla
from dino_jax.models.build import build_network
from dino_jax.step.placement import fit_to_mesh


def fitted_backbone(platform: str, kind: str, **changes) -> Any:
    config = vits16_vanilla.get_config().network
    config.backbone.update(changes)
    device = SimpleNamespace(platform=platform, device_kind=kind)
    mesh: Any = SimpleNamespace(devices=np.array([[device]]), size=1, shape={"data": 1, "fsdp": 1})
    return fit_to_mesh(build_network(config), mesh).backbone


@pytest.mark.parametrize(
    ("platform", "kind", "chosen"),
    [("tpu", "TPU v5 lite", 12), ("tpu", "TPU v4", 12), ("cpu", "cpu", 1), ("gpu", "H200", 1)],
)
def test_the_devices_choose_how_blocks_are_looped_over_unless_the_config_does(
    platform, kind, chosen
):
    assert fitted_backbone(platform, kind).scan_unroll == chosen
    assert fitted_backbone(platform, kind, scan_unroll=3).scan_unroll == 3
