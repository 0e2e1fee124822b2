"""What torch itself saves is read without torch, and gives the same numbers."""

import argparse

import numpy as np
import pytest

from dino_jax.weights.state_dict import read_state_dict, read_weights

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_layout_and_dtype_are_those_of_torch(tmp_path, protocol):
    base = torch.arange(12.0)
    tensors = {
        "part": base[2:].view(2, 5)[:, 1:3].t(),
        "whole": base.view(3, 4),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
        tensors[dtype] = torch.tensor([1, 2, 100]).to(getattr(torch, dtype))
    torch.save(tensors, tmp_path / "w.pth", pickle_protocol=protocol)
    got = read_state_dict(tmp_path / "w.pth")
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert str(got[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got[name].astype(np.float64), tensor.detach().double())


def test_a_checkpoint_of_the_official_training_loop_is_read(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.linspace(0.0, 1.0, 5)[2]  # as its schedules do
    content = {
        "student": {f"module.{name}": x for name, x in network.state_dict().items()},
        "teacher": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small", lr=5e-4, crops=(0.4, 1.0), resume=None),
        "dino_loss": {"center": torch.full((1, 8), 0.5)},
    }
    torch.save(content, tmp_path / "w.pth")
    weights = read_weights(tmp_path / "w.pth")
    for role in ("teacher", "student"):
        assert weights.networks[role].keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            np.testing.assert_array_equal(weights.networks[role][name], tensor)
    np.testing.assert_array_equal(weights.centers["dino"], np.full(8, 0.5))
    assert weights.left_out == {"optimizer": 12}  # step and two moments of four parameters


def test_the_format_before_torch_1_6_says_what_to_do(tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"the format before torch 1\.6"):
        read_state_dict(file)
    torch.save(torch.load(file, weights_only=True), tmp_path / "new.pth")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "new.pth")["a"], np.ones(2))
