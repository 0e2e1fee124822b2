"""ResNet against a plain NumPy forward over torchvision's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.devices.sharding import batch_sharding, make_mesh, replicated
from dino_jax.models.resnet import DEPTHS, ResNet
from dino_jax.weights import from_torch, to_torch

TINY = dict(depths=(2, 1, 1), width=4)


def shapes_of(resnet):
    return jax.eval_shape(resnet.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def init(resnet, seed=0):
    """Values that reach every path; variances stay positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = max(np.prod(leaf.shape[:-1]), 1)
        return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(resnet))


def images(count, size=(36, 44)):
    return np.random.default_rng(1).normal(size=(count, *size, 3)).astype(np.float32)


def named(variables):
    return to_torch({name: {"backbone": tree} for name, tree in variables.items()})


class PlainResNet:
    """Loops over kernel positions; `tensors` holds float64 values under torchvision's names."""

    def __init__(self, tensors, depths, training):
        self.tensors = {
            k.removeprefix("backbone."): v.astype(np.float64) for k, v in tensors.items()
        }
        self.depths, self.training = depths, training

    def __call__(self, x):
        x = np.maximum(self.norm("bn1", self.convolve("conv1", x, 2)), 0)
        x = self.windows(x, 3, 2, -np.inf).max(0)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                x = self.block(f"layer{stage + 1}.{index}.", x, 2 if stage and not index else 1)
        return x

    def block(self, name, x, stride):
        shortcut = x
        if name + "downsample.0.weight" in self.tensors:
            shortcut = self.convolve(name + "downsample.0", x, stride)
            shortcut = self.norm(name + "downsample.1", shortcut)
        for number, step in ((1, 1), (2, stride), (3, 1)):
            x = self.norm(f"{name}bn{number}", self.convolve(f"{name}conv{number}", x, step))
            x = np.maximum(x, 0) if number < 3 else np.maximum(x + shortcut, 0)
        return x

    def windows(self, x, size, stride, fill):
        """[size * size, B, h, w, C] what each kernel position sees."""
        pad = size // 2
        batch, height, width, channels = x.shape
        padded = np.full((batch, height + 2 * pad, width + 2 * pad, channels), fill)
        padded[:, pad : pad + height, pad : pad + width] = x
        rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
        return np.stack(
            [
                padded[:, i : i + rows * stride : stride, j : j + columns * stride : stride]
                [:, :rows, :columns]
                for i in range(size)
                for j in range(size)
            ]
        )  # fmt: skip

    def convolve(self, name, x, stride):
        kernel = self.tensors[name + ".weight"]  # [out, in, h, w]
        seen = self.windows(x, kernel.shape[-1], stride, 0.0)
        return np.einsum("pbhwi,oip->bhwo", seen, kernel.reshape(*kernel.shape[:2], -1))

    def norm(self, name, x):
        t, axes = self.tensors, (0, 1, 2)
        mean, var = t[name + ".running_mean"], t[name + ".running_var"]
        if self.training:
            count = x.size // x.shape[-1]
            t[name + ".running_mean"] = 0.9 * mean + 0.1 * x.mean(axes)
            t[name + ".running_var"] = 0.9 * var + 0.1 * x.var(axes) * count / (count - 1)
            mean, var = x.mean(axes), x.var(axes)
        return (x - mean) / np.sqrt(var + 1e-5) * t[name + ".weight"] + t[name + ".bias"]


@pytest.mark.parametrize("training", [False, True])
def test_forward_and_running_statistics_equal_a_plain_second_implementation(training):
    resnet = ResNet(**TINY)
    variables = init(resnet)
    plain = PlainResNet(named(variables), TINY["depths"], training)
    bound = resnet.bind(variables, mutable=["batch_stats"] if training else False)
    for batch in (images(3), images(2, (32, 20))):  # two crop sizes, one after the other
        features, expected = bound(batch), plain(batch)
        np.testing.assert_allclose(
            features["patches"], expected.reshape(len(batch), -1, 64), rtol=0, atol=5e-5
        )
        np.testing.assert_allclose(features["cls"], expected.mean((1, 2)), rtol=0, atol=5e-5)
    ours = named(bound.variables)
    assert {name.removeprefix("backbone.") for name in ours} == set(plain.tensors)
    for name, value in ours.items():
        expected = plain.tensors[name.removeprefix("backbone.")]
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5, err_msg=name)


def test_names_are_those_of_torchvision_both_ways():
    resnet = ResNet(**TINY)
    variables = init(resnet)
    tensors = named(variables)
    assert {
        "backbone.conv1.weight": (4, 3, 7, 7),
        "backbone.bn1.running_var": (4,),
        "backbone.layer1.0.conv2.weight": (4, 4, 3, 3),
        "backbone.layer1.0.downsample.0.weight": (16, 4, 1, 1),
        "backbone.layer1.0.downsample.1.running_mean": (16,),
        "backbone.layer1.1.bn3.bias": (16,),
        "backbone.layer3.0.conv3.weight": (64, 16, 1, 1),
    }.items() <= {name: value.shape for name, value in tensors.items()}.items()
    assert "backbone.layer1.1.downsample.0.weight" not in tensors
    file = {name.removeprefix("backbone."): value for name, value in tensors.items()}
    file["bn1.num_batches_tracked"] = np.array(7)
    like = {name: {"backbone": tree} for name, tree in shapes_of(resnet).items()}
    again = from_torch(file, like)
    jax.tree.map(
        np.testing.assert_array_equal,
        {name: tree["backbone"] for name, tree in again.items()},
        variables,
    )


@pytest.mark.parametrize(("size", "parameters"), [("50", 23_508_032), ("101", 42_500_160)])
def test_parameter_counts_are_torchvisions_without_the_classifier(size, parameters):
    resnet = ResNet(DEPTHS[size])
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in shapes_of(resnet).items()
    }
    assert counts["params"] == parameters
    features = jax.eval_shape(resnet.apply, shapes_of(resnet), jnp.zeros((2, 224, 224, 3)))
    assert features["cls"].shape == (2, resnet.embed_dim) == (2, 2048)
    assert features["patches"].shape == (2, (224 // resnet.patch_size) ** 2, 2048)


def test_initial_convolutions_are_he_normal_over_their_outputs():
    resnet = ResNet(depths=(1,), width=64)
    params = jax.jit(resnet.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for kernel in (params["conv1"]["kernel"], params["layer1_0"]["conv2"]["kernel"]):
        expected = (2 / (kernel.shape[0] * kernel.shape[1] * kernel.shape[3])) ** 0.5
        np.testing.assert_allclose(np.std(kernel), expected, rtol=5 / kernel.size**0.5)
        assert np.abs(kernel).max() > 3 * expected  # not cut off at two standard deviations
    np.testing.assert_array_equal(params["layer1_0"]["bn3"]["scale"], np.ones(256))


def test_statistics_and_gradients_are_those_of_the_global_batch_on_every_mesh():
    resnet = ResNet(depths=(1,), width=4)
    variables, batch = init(resnet), images(8, (16, 16))

    def loss(params, statistics, batch):
        variables = {"params": params, **statistics}
        features, moved = resnet.apply(variables, batch, mutable=["batch_stats"])
        return jnp.mean(jnp.sin(features["cls"])), moved["batch_stats"]

    results = []
    for devices in (1, 4):
        mesh = make_mesh(1, jax.devices()[:devices])
        whole, split = replicated(mesh), batch_sharding(mesh)
        step = jax.jit(jax.value_and_grad(loss, has_aux=True), in_shardings=(whole, whole, split))
        statistics = {"batch_stats": variables["batch_stats"]}
        results.append(step(variables["params"], statistics, batch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_the_small_stem_keeps_every_pixel_and_has_no_pool():
    resnet = ResNet(**TINY, stem="small")
    variables = init(resnet)
    kernel = variables["params"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 3, 4)
    batch = images(2, (12, 8))
    plain = PlainResNet(named(variables), TINY["depths"], training=False)
    x = np.maximum(plain.norm("bn1", plain.convolve("conv1", batch, 1)), 0)
    assert x.shape == (2, 12, 8, 4)
    for stage, depth in enumerate(TINY["depths"]):
        for index in range(depth):
            x = plain.block(f"layer{stage + 1}.{index}.", x, 2 if stage and not index else 1)
    features = resnet.apply(variables, batch)
    np.testing.assert_allclose(features["cls"], x.mean((1, 2)), rtol=0, atol=5e-5)
    assert features["patches"].shape[1] == (12 // resnet.patch_size) * (8 // resnet.patch_size)


def test_blocks_with_a_zero_scale_start_as_their_shortcuts():
    shape = dict(depths=(2,), width=4)
    zeros, ones = (
        jax.jit(ResNet(**shape, zero_init_residual=zero).init)(jax.random.key(0), images(1))
        for zero in (True, False)
    )
    for block in ("layer1_0", "layer1_1"):
        np.testing.assert_array_equal(zeros["params"][block]["bn3"]["scale"], 0)
        np.testing.assert_array_equal(ones["params"][block]["bn3"]["scale"], 1)
        np.testing.assert_array_equal(zeros["params"][block]["bn2"]["scale"], 1)
