"""Wrong usage of `dino-jax train`: one clear message, exit code 2, no workdir."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from dino_jax.commands.command_line import UsageError, user_errors
from tests.run_train import QUICKSTART, SMALL, overrides, run

# Changes of the small config, and what the message must say.
WRONG_CONFIGS = {
    "unknown section": (
        {"optimiser.lr": 1},
        "config has no 'optimiser'; did you mean 'optimizer'?",
    ),
    "unknown entry": ({"optimizer.lrr": 1}, "config.optimizer has no 'lrr'; did you mean 'lr'?"),
    "wrong type": ({"batch_size": "many"}, "config.batch_size must be an integer, got 'many'"),
    "long warm-up": (
        {"optimizer.warmup_epochs": 50.0},
        "warmup_epochs (50, 100 steps) is longer than the run (4 epochs, 8 steps)",
    ),
    "long warm-up of the teacher": (
        {"objectives.dino.warmup_teacher_temperature_epochs": 30},
        "warmup_teacher_temperature_epochs (30) is longer than the run (4 epochs, 8 steps)",
    ),
    "empty folder": ({"data.kind": "folder", "data.path": "{empty}"}, "holds no images"),
    "missing path": ({"data.kind": "folder", "data.path": "{empty}/no"}, "does not exist"),
    "large batch": ({"batch_size": 2000}, "(2000) is larger than the data set (1438 images)"),
    "uneven batch": (
        {"batch_size": 18},
        "(18) must be a multiple of 4 = 4 devices x accumulate_steps (1); try --config.batch_size=",
    ),
    "unknown head": ({"objectives.dino.head": "ibot"}, "head is 'ibot'; config.network.heads has"),
    "unknown backbone": (
        {"network.backbone.kind": "swin"},
        "config.network.backbone.kind is 'swin'; known: ['clip', 'convnext', 'resnet', 'siglip', ",
    ),
    "small crop": ({"augment.crops.local.size": "(4, 4)"}, "(4, 4) is less than one patch of 8"),
    "one side": (
        {"augment.crops.local.size": 16},
        "config.augment.crops.local.size must be 2 integers in (…), got (16,)",
    ),
    "small image": (
        {"network.backbone.image_size": "(32, 4)"},
        "image_size (32 x 4) is smaller than one patch of 8 pixels",
    ),
    "one view": (
        {"augment.crops.global_2.count": 0, "augment.crops.local.count": 0},
        "must see at least 2, the counts of config.augment.crops give it 1",
    ),
    "never log": ({"runtime.log_every_steps": 0}, "runtime.log_every_steps must be at least 1"),
    "unknown sum": (
        {"runtime.gradient_dtype": "float16"},
        "config.runtime.gradient_dtype is 'float16'; did you mean 'bfloat16'?",
    ),
    "k-NN without labels": (
        {
            "evaluations.knn.every_epochs": 1.0,
            "evaluations.knn.train.kind": "folder",
            "evaluations.knn.train.path": "{unlabeled}",
        },
        "config.evaluations.knn.train has no labels",
    ),
    "evaluation of no folder": (
        {
            "evaluations.proxies.every_epochs": 1.0,
            "evaluations.proxies.images.kind": "folder",
            "evaluations.proxies.images.path": "{empty}/missing",
        },
        "config.evaluations.proxies.images: image folder",
    ),
    "half of an evaluation": (
        {"evaluations.knn.every_epochs": 1.0, "evaluations.knn.train.kind": "folder"},
        "config.evaluations.knn has only a part of its images; add labelled training images "
        "(--config.evaluations.knn.train.path=FOLDER)",
    ),
}
# Whole command lines.
WRONG_COMMANDS = {
    "nothing": ([], "missing --config and --workdir; a command looks like dino-jax train"),
    "no workdir": ([QUICKSTART], "missing --workdir"),
    "no config": (["--config.batch_size=8", "--workdir={workdir}"], "missing --config; a command"),
    "no bool": ([QUICKSTART, "--distributed=maybe"], "expected true or false, got 'maybe'"),
    "unknown flag": (
        [QUICKSTART, "--workdir={workdir}", "--wrkdir=x"],
        "unexpected --wrkdir=x; did you mean '--workdir'?",
    ),
    "no flag": ([QUICKSTART, "--workdir={workdir}", "lr=3"], "unexpected lr=3"),
    "missing config file": (["--config=no.py", "--workdir={workdir}"], "'no.py' does not exist"),
    "distributed alone": (
        [QUICKSTART, "--workdir={workdir}", "--distributed"],
        "omit the flag for a single process",
    ),
}


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    """Every wrong use, two at a time: name -> (what was left, its workdir, the expected words)."""
    folder = tmp_path_factory.mktemp("usage")
    places = {"empty": folder / "empty", "unlabeled": folder / "unlabeled"}
    for place in places.values():
        place.mkdir()
    (places["unlabeled"] / "image.png").write_bytes(b"")
    commands = {}
    for name, (changes, words) in WRONG_CONFIGS.items():
        arguments = [QUICKSTART, "--workdir={workdir}", *overrides(SMALL | changes)]
        commands[name] = arguments, words
    commands |= WRONG_COMMANDS

    def attempt(name: str):
        arguments, words = commands[name]
        workdir = folder / f"run of {name}"
        filled = [argument.format(workdir=workdir, **places) for argument in arguments]
        return run(*filled, devices=4), workdir, words

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(commands, pool.map(attempt, commands), strict=True))


@pytest.mark.parametrize("name", [*WRONG_CONFIGS, *WRONG_COMMANDS])
def test_wrong_usage_is_one_message_and_leaves_no_workdir(attempts, name):
    (code, out, err), workdir, words = attempts[name]
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err
    assert err.count("\n") == 1
    assert not workdir.exists()


def test_only_errors_of_the_user_become_usage_errors():
    for mistake in (ValueError("a"), FileNotFoundError("a")):
        with pytest.raises(UsageError, match="a"), user_errors():
            raise mistake
    with pytest.raises(TypeError), user_errors():
        raise TypeError("a bug of ours keeps its traceback")
