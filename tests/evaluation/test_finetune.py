"""dino-jax evaluate finetune: a backbone and a classifier that learn together."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import dino_jax
from configs import digits_resnet
from dino_jax.devices.sharding import batch_sharding, make_mesh, replicated, shard_batch
from dino_jax.evaluation.__main__ import main
from dino_jax.evaluation.accuracy import TopAccuracy
from dino_jax.evaluation.finetuning import (
    CLASSIFIER,
    Classifier,
    Length,
    State,
    build_optimizer,
    make_step,
    tune,
)
from dino_jax.evaluation.mixing import Mixing
from dino_jax.optim.parameter_groups import DECAYED, lr_multipliers
from tests.colored_photos import evaluate_as_one_and_two, read, write_photos
from tests.saved_model import save_model, save_tiny_vit

CLASSES, BATCH, DEPTH = 3, 8, 3
RECORDED = Path(__file__).parents[1] / "golden/ssl/m_names_init_schedule.json"
PLAIN = Mixing(0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"), depth=DEPTH)


@pytest.fixture(scope="module")
def model(workdir):
    return dino_jax.load(workdir)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def draw_batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return {"image": images, "label": labels, "unreadable": np.full(BATCH, -1, np.int32)}


def test_the_classifier_sees_the_mean_of_the_patches_through_a_norm_of_its_own(model):
    classifier = Classifier(model.network, pools_mean=True, classes=CLASSES)
    variables = classifier.init(jax.random.key(0), model.variables)
    head = variables["params"][CLASSIFIER]
    assert 1e-5 < np.std(head["kernel"]) < 3e-5 and not np.any(head["bias"])
    rng = np.random.default_rng(0)
    head = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), head)
    variables["params"][CLASSIFIER] = head
    images = draw_batch(0)["image"]
    (last,) = model.network.apply(
        model.variables, images, layers=(-1,), normalize=False, method="intermediate"
    )
    mean = np.asarray(last["patches"], np.float64).mean(axis=1)
    mean -= mean.mean(axis=1, keepdims=True)
    mean /= np.sqrt((mean**2).mean(axis=1, keepdims=True) + 1e-6)
    wanted = (mean * head["norm"]["scale"] + head["norm"]["bias"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(classifier.logits(variables, images), wanted, rtol=0, atol=1e-4)


def take_steps(model, count: int, mesh, length: Length, decay: float, mixing: Mixing = PLAIN):
    """Variables before and after some steps."""
    classifier = Classifier(model.network, pools_mean=True, classes=CLASSES)
    optimizer = build_optimizer(length, decay, 0.5)
    before = classifier.init(jax.random.key(1), model.variables)
    before["params"][CLASSIFIER]["kernel"] *= 1e4  # else Adam's epsilon counts in the backbone
    start = State(before, optimizer.init(before["params"]))
    state = jax.device_put(jax.tree.map(np.array, start), replicated(mesh))
    step = make_step(classifier, optimizer, mixing, 0, mesh)
    for number in range(count):
        batch = shard_batch(draw_batch(number), batch_sharding(mesh))
        state, *_ = step(state, batch, np.int32(number))
    return jax.tree.map(np.asarray, (before["params"], state.variables["params"]))


def test_the_rate_falls_towards_the_input_and_tokens_do_not_decay(model):
    """The first update of Adam is the sign of the gradient, so its size is the rate."""
    length = Length(4, 2, peak=0.01, final=0.0, warmup_epochs=0)
    before, after = take_steps(model, 1, make_mesh(1, jax.devices()[:1]), length, decay=0.0)
    moved = jax.tree.map(lambda new, old: np.abs(new - old), after, before)
    kernel = moved["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    rates = [np.median(layer) for layer in kernel]
    np.testing.assert_allclose(rates, [0.01 * 0.5**power for power in (3, 2, 1)], rtol=1e-2)
    np.testing.assert_allclose(np.median(moved["backbone"]["pos_embed"]), 0.01 / 16, rtol=1e-2)
    np.testing.assert_allclose(np.median(moved[CLASSIFIER]["kernel"]), 0.01, rtol=1e-2)
    _, decayed = take_steps(model, 1, make_mesh(1, jax.devices()[:1]), length, decay=10.0)
    for name, shrinks in (("pos_embed", False), ("cls_token", False), ("norm", False)):
        same = jax.tree.map(np.allclose, decayed["backbone"][name], after["backbone"][name])
        assert all(jax.tree.leaves(same)) is not shrinks, name
    fc1 = before["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    shrunk = after["backbone"]["blocks"]["mlp"]["fc1"]["kernel"][-1] - 0.005 * 10 * fc1[-1]
    found = decayed["backbone"]["blocks"]["mlp"]["fc1"]["kernel"][-1]
    np.testing.assert_allclose(found, shrunk, rtol=0, atol=1e-5)


def test_rates_and_decay_are_those_recorded_for_twelve_blocks():
    """The official groups of a stand-in: a weight and a bias per block, layer decay 0.65."""
    leaf = jax.ShapeDtypeStruct
    params = {
        "backbone": {
            "cls_token": leaf((1, 1, 4), np.float32),
            "pos_embed": leaf((1, 5, 4), np.float32),
            "patch_embed": {
                "kernel": leaf((2, 2, 3, 4), np.float32),
                "bias": leaf((4,), np.float32),
            },
            "blocks": {"kernel": leaf((12, 4, 4), np.float32), "bias": leaf((12, 4), np.float32)},
        },
        CLASSIFIER: {
            "norm": {"scale": leaf((4,), np.float32), "bias": leaf((4,), np.float32)},
            "kernel": leaf((4, 3), np.float32),
            "bias": leaf((3,), np.float32),
        },
    }
    factors = lr_multipliers(params, 0.65, 1.0)
    found = {}
    for path, value in jax.tree_util.tree_leaves_with_path(factors):
        decayed = 0.05 if DECAYED["layers"](path, _at(params, path)) else 0.0
        for layer, factor in enumerate(np.ravel(value)):
            found[(jax.tree_util.keystr(path, simple=True, separator="."), layer)] = (
                decayed,
                float(factor),
            )
    theirs = {}
    renamed = {"fc_norm.": f"{CLASSIFIER}.norm.", "head.": f"{CLASSIFIER}."}
    for group in json.loads(RECORDED.read_text())["finetune_layer_decay_065"]:
        for name in group["names"]:
            layer = int(name.split(".")[1]) if name.startswith("blocks.") else 0
            plain = name.replace(f"blocks.{layer}.", "blocks.")
            old = next((old for old in renamed if plain.startswith(old)), None)
            plain = f"backbone.{plain}" if old is None else plain.replace(old, renamed[old])
            leaf_name = "scale" if "norm" in plain else "kernel"
            plain = plain.replace("weight", leaf_name)
            theirs[(plain, layer)] = (group["weight_decay"], group["lr_scale"])
    assert found.keys() == theirs.keys()
    for name, wanted in theirs.items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6, err_msg=str(name))


def _at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_four_devices_learn_as_one(model):
    length = Length(4, 2, peak=1e-3, final=0.0, warmup_epochs=0)
    mixing = Mixing(0.8, 1.0, 0.1, 0.25)
    one, four = (
        take_steps(model, 3, make_mesh(1, jax.devices()[:count]), length, 0.05, mixing)[1]
        for count in (1, 4)
    )
    difference = jax.tree.map(lambda x, y: np.abs(x - y).max(), one[CLASSIFIER], four[CLASSIFIER])
    assert max(jax.tree.leaves(difference)) < 1e-5


def test_a_loss_that_is_not_finite_ends_the_training(model):
    length = Length(1, 2, peak=1e30, final=0.0, warmup_epochs=0)

    def stream():
        for number in range(10):
            yield draw_batch(number)

    classifier = Classifier(model.network, pools_mean=True, classes=CLASSES)
    optimizer = build_optimizer(length, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"the loss of step 2 is (nan|inf); try a smaller --lr"):
        tune(
            classifier,
            model.variables,
            optimizer,
            PLAIN,
            length,
            stream(),
            lambda variables: TopAccuracy(0.0, 0.0),
            0,
            make_mesh(1, jax.devices()[:1]),
        )


def test_two_processes_find_the_same(workdir, photos, tmp_path):
    command = ("finetune", f"--checkpoint={workdir}", f"--data={photos}", "--batch-size=8")
    options = ("--epochs=2", "--train-batch-size=8", "--warmup-epochs=0")
    evaluate_as_one_and_two(tmp_path, *command, *options)
    one, two = (read(tmp_path / f"{name}/finetune.json") for name in ("one", "two"))
    assert one == two


def test_colors_are_learned_from_photos(workdir, photos, tmp_path):
    bad = photos / "train/green/bad.png"
    bad.write_bytes(b"no image")
    try:
        command = ("finetune", f"--checkpoint={workdir}", f"--data={photos}", f"--out={tmp_path}")
        options = ("--epochs=6", "--train-batch-size=8", "--warmup-epochs=0", "--rand-augment=0")
        assert main([*command, *options, "--lr=0.03", "--mixup=0", "--cutmix=0"]) == 0
    finally:
        bad.unlink()
    found = read(tmp_path / "finetune.json")
    settings, metrics = found["settings"], found["metrics"]
    assert metrics["top1"] > 60
    assert metrics["top1"] == pytest.approx(max(settings["top1_by_epoch"]), abs=1e-3)
    assert settings["steps"] == 18 and settings["lr"] == pytest.approx(0.03 * 8 / 256)
    assert settings["unreadable_train"]["count"] == 1
    assert settings["pool"] == "mean"


def refused(command: list[str], capsys) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(command)
    return capsys.readouterr().err


def test_a_resnet_learns_with_the_statistics_of_its_batches(photos, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    workdir = save_model(tmp_path / "run", digits_resnet.get_config())
    command = ["finetune", f"--checkpoint={workdir}", f"--data={photos}", f"--out={tmp_path}"]
    command += ["--epochs=1", "--train-batch-size=8", "--warmup-epochs=0"]
    message = "a ResNet has no stochastic depth and no blocks with rates of their own"
    assert message in refused([*command, "--drop-path=0"], capsys)
    assert main([*command, "--drop-path=0", "--layer-decay=1"]) == 0
    assert read(tmp_path / "finetune.json")["settings"]["pool"] == "cls"


def test_options_that_do_not_fit_are_named(workdir, photos, capsys):
    command = ["finetune", f"--checkpoint={workdir}", f"--data={photos}", "--train-batch-size=8"]
    message = refused([*command, "--epochs=2"], capsys)
    assert "--warmup-epochs=5 is longer than --epochs=2; use fewer" in message
