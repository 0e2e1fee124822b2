"""A ViT with rotary positions as a program, at its usual size and at another one."""

import pytest

from dino_jax.weights.graph_export import export_graph
from tests.weights.test_dinov3_names import saved_vit


@pytest.mark.parametrize("size", [None, (40, 24)])
def test_angles_are_constants_of_the_program(tmp_path, size):
    pytest.importorskip("onnxruntime")
    saved_vit(tmp_path)
    out = str(tmp_path / "vit.onnx")
    said = "\n".join(export_graph(str(tmp_path / "w.safetensors"), out, "onnx", size))
    height, width = size or (224, 224)
    assert f"images [B, {height}, {width}, 3]" in said
    assert "read again and run on 1 and 3 images" in said  # and the features were compared
