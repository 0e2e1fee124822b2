"""The guard: when it looks, what it does, and roll-backs that are exact wherever they are cut."""

import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import quickstart
from dino_jax.commands.command_line import UsageError
from dino_jax.config.change import change
from dino_jax.config.section import section
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.online import knn
from dino_jax.evaluation.online.build import EVALUATIONS, Scheduled
from dino_jax.processes.agreement import Alone
from dino_jax.run import roll_back as roll_back_module
from dino_jax.run.guard import Guard, GuardConfig, WorseThanStartError, check_guard
from dino_jax.run.instruments import make_context
from dino_jax.run.roll_back import (
    RollBackRequest,
    read_guard,
    repeat_after_roll_backs,
    roll_back,
    with_lowered_rates,
    write_guard,
)
from dino_jax.run.screen import Progress
from dino_jax.run.training import train
from dino_jax.run.whole_config import read_config
from dino_jax.step.recipe import build_recipe
from dino_jax.workdir import checkpointing
from dino_jax.workdir.newest import check_history, note_newest
from dino_jax.workdir.paths import absolute_path
from tests.run_train import SMALL, checkpoint_steps, read_metrics, read_state

NETWORKS = {"student": {}, "teacher": {}}


def make_config(**changes):
    """A run of 4 epochs of 2 steps; the guard looks every 2 steps."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(SMALL)
    config.init_from.path = "somewhere"
    config.guard.action = "stop"
    config.update_from_flattened_dict(changes)
    return read_config(config)


class Scripted:
    """An evaluation whose values are given: the first one is that of the imported model."""

    guarded = "quality"

    def __init__(self, values):
        self._values = iter(values)

    def reference(self, variables, known):
        return {"value": next(self._values)}

    def value(self, variables, reference, known):
        return next(self._values)


@pytest.fixture
def started(tmp_path):
    """Starts a guard with the given measurements, in a new run or a resumed one."""

    def start(values, resumed=False, **changes):
        config = make_config(**changes)
        recipe = build_recipe(config, 1438)
        context = make_context(config, recipe, make_mesh(1), str(tmp_path))
        evaluations = {"knn": Scheduled(Scripted(values), 0, "")}
        guard = Guard(config, context, evaluations, recipe.steps_per_epoch, recipe.total_steps)
        folder = absolute_path(tmp_path)
        return guard, guard.start(folder, NETWORKS, resumed, {}, Progress(0, 8, 16))

    return start


def check(guard, step):
    measured = guard.measure(step, NETWORKS, {})
    return guard.judge(step, measured) if measured else None


def test_without_an_action_nothing_is_measured(started):
    guard, metrics = started([], **{"guard.action": "none"})
    assert (metrics, guard.every_steps) == ({}, 0)
    assert guard.measure(2, NETWORKS, {}) == {} and not guard.judge(2, {})


def test_the_first_teacher_is_measured_and_later_ones_at_multiples_and_at_the_end(started, capsys):
    guard, metrics = started([0.9, 0.86, 0.95], **{"epochs": 2.5})  # 5 steps
    assert metrics == {"guard/quality": 0.9}
    assert "quality of the imported model 0.9000; every 2 steps, below 0.8500: stop" in (
        capsys.readouterr().out
    )
    assert [guard.measure(step, NETWORKS, {}) for step in (1, 3)] == [{}, {}]
    assert guard.measure(2, NETWORKS, {}) == {"guard/quality": 0.86}
    assert guard.judge(2, {"guard/quality": 0.86})
    assert guard.measure(5, NETWORKS, {}) == {"guard/quality": 0.95}


def test_a_resumed_run_compares_with_what_was_measured_at_the_start(started, capsys):
    started([0.9])
    guard, metrics = started([0.84], resumed=True)
    assert metrics == {}
    with pytest.raises(
        WorseThanStartError, match=r"step 4: quality 0\.8400, imported model 0\.9000"
    ):
        check(guard, 4)


def test_a_resumed_run_without_its_reference_is_a_clear_error(started):
    with pytest.raises(UsageError, match=r"guard.json is missing"):
        started([], resumed=True)


def test_a_warning_goes_on(started, capsys):
    guard, _ = started([0.9, 0.2, 0.9], **{"guard.action": "warn"})
    assert check(guard, 2) is False
    assert "guard: step 2: quality 0.2000, imported model 0.9000: WORSE by more than 0.05" in (
        capsys.readouterr().out
    )
    assert check(guard, 4) is True


def test_roll_backs_end_after_the_allowed_number(started, tmp_path):
    rules = {"guard.action": "roll_back", "guard.max_roll_backs": 1}
    guard, _ = started([0.9, 0.2], **rules)
    with pytest.raises(RollBackRequest) as caught:
        check(guard, 2)
    assert roll_back(caught.value) == 0
    guard, _ = started([0.9, 0.2], **rules)
    with pytest.raises(WorseThanStartError, match="after 1 roll-backs"):
        check(guard, 2)
    assert read_guard(absolute_path(tmp_path)) == {
        "reference": {"value": 0.9},
        "roll_backs": [{"step": 2, "value": 0.2, "back_to": 0}],
    }


def test_every_roll_back_of_the_workdir_lowers_the_learning_rates(tmp_path):
    config = make_config(**{"guard.lr_factor": 0.1, "optimizer.lr": 0.2, "optimizer.min_lr": 1e-3})
    assert with_lowered_rates(config, tmp_path) is config
    (tmp_path / "guard.json").write_text(json.dumps({"reference": None, "roll_backs": [{}, {}]}))
    lowered = with_lowered_rates(config, tmp_path)
    np.testing.assert_allclose(
        [lowered.optimizer.lr, lowered.optimizer.min_lr], [2e-3, 1e-5], rtol=1e-12
    )
    assert config.optimizer.lr == 0.2
    (tmp_path / "guard.json").write_text('{"reference"')
    with pytest.raises(ValueError, match=r"guard.json is damaged"):
        with_lowered_rates(config, tmp_path)


def test_a_damaged_record_is_set_aside_and_its_copy_is_used(tmp_path):
    folder = absolute_path(tmp_path)
    record = {"reference": {"value": 0.5}, "roll_backs": [{"step": 2}]}
    write_guard(folder, record)
    (folder / "guard.json").write_text('{"reference": {"value": Infinity}, "roll_backs": []}')
    assert read_guard(folder) == record == read_guard(folder)
    assert {path.name for path in folder.iterdir()} == {"guard.json.damaged", "guard_copy.json"}


@pytest.mark.parametrize("names", [("guard.json", "guard_copy.json"), ("guard_copy.json",)])
def test_a_record_without_a_sound_copy_is_refused_every_time_and_stays(names, tmp_path):
    folder = absolute_path(tmp_path)
    for name in names:
        (folder / name).write_text("[")
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{names[0]} is damaged .*there is no sound copy"):
            read_guard(folder)
    assert {path.name for path in folder.iterdir()} == set(names)


def test_a_roll_back_to_the_start_may_be_killed_at_any_moment(tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    folder = absolute_path(tmp_path)
    for step in (1, 3):
        (folder / f"checkpoints/{step}/state").mkdir(parents=True)
        (folder / f"checkpoints/{step}/_CHECKPOINT_METADATA").touch()
    (folder / "data.json").write_text("{}")
    note_newest(folder, 3)
    request = RollBackRequest(folder, 4, 0.2, 2)
    remove = checkpointing.remove_checkpoint
    for after in (3, 1):  # the last checkpoint that was removed

        def remove_and_die(folder, step, after=after):
            remove(folder, step)
            if step == after:
                kill()

        monkeypatch.setattr(checkpointing, "remove_checkpoint", remove_and_die)
        with pytest.raises(KeyboardInterrupt):
            roll_back(request)
        assert check_history(folder) == []
    assert roll_back(request) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from.path": ""}, r"no model to compare with: set config\.init_from\.path"),
        ({"guard.evaluation": "knnn"}, r"is 'knnn', .* no such name; did you mean 'knn'\?"),
        ({"guard.evaluation": "proxies"}, r"'proxies'.* no single number .*\['agreement', 'knn'\]"),
        (
            {"evaluations.knn.train.kind": "folder", "evaluations.knn.test.kind": "folder"},
            r"guard\.evaluation \('knn'\) has no images; .*evaluations\.knn\.train\.path=FOLDER",
        ),
    ],
)
def test_values_that_do_not_fit_are_named(changes, message):
    config = make_config(**changes)
    with pytest.raises(ValueError, match=message):
        check_guard(config)
    check_guard(change(config, {"guard.action": "none"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"action": "go"},
            r"guard\.action is 'go'; known: \['none', 'roll_back', 'stop', 'warn'\]",
        ),
        ({"margin": 1.5}, r"guard\.margin must be at least 0 and below 1"),
        ({"every_epochs": 0.0}, r"guard\.every_epochs must be above 0"),
        ({"lr_factor": 1.0}, r"guard\.lr_factor must be above 0 and below 1"),
        ({"max_roll_backs": -1}, r"guard\.max_roll_backs must be at least 0"),
    ],
)
def test_options_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        section("config.guard", changes, GuardConfig)


def test_the_base_config_has_the_defaults_and_a_guard_that_does_nothing():
    guard = section("config.guard", quickstart.get_config().guard, GuardConfig)
    assert guard == GuardConfig() and guard.action == "none"


def test_the_guard_takes_what_its_evaluation_has_just_measured(tmp_path):
    class Known(Scripted):
        def reference(self, variables, known):
            return {"value": known["quality"] / 100}

    config = make_config()
    context = make_context(config, build_recipe(config, 1438), make_mesh(1), str(tmp_path))
    guard = Guard(config, context, {"knn": Scheduled(Known([]), 0, "mine/")}, 2, 8)
    known = {"quality": 10.0, "mine/quality": 90.0}
    metrics = guard.start(absolute_path(tmp_path), NETWORKS, False, known, Progress(0, 8, 16))
    assert metrics == {"guard/quality": 0.9}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with the workdir of a small run, and with compiled programs."""
    folder = tmp_path_factory.mktemp("guard")
    before = jax.config.jax_compilation_cache_dir
    recipe = build_recipe(make_config(), 1438)
    checkpoints = checkpointing.open_checkpoints(folder / "source", save_every_steps=1, keep=1)
    checkpointing.save(checkpoints, 1, jax.jit(recipe.init)(jax.random.key(3)))
    checkpointing.close(checkpoints)
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)


class Distance:
    """1 - the largest change of a parameter of the backbone."""

    guarded = "quality"

    def reference(self, teacher, known):
        return {"value": 1.0, "first": self._parameters(teacher).tolist()}

    def value(self, teacher, reference, known):
        return 1.0 - float(np.abs(self._parameters(teacher) - reference["first"]).max())

    def _parameters(self, teacher):
        leaves = jax.tree.leaves(jax.device_get(teacher["params"]["backbone"]))
        return np.concatenate([leaf.ravel() for leaf in leaves]).astype(np.float64)


@pytest.fixture
def guarded(source, monkeypatch):
    """Runs with roll-backs; steps 3 and 4 move the teacher by more than the allowed 0.05."""
    distance = SimpleNamespace(
        Config=knn.Config,
        IMAGES={},
        GUARDS=True,
        check=lambda *_: None,
        build=lambda *_: Distance(),
    )
    monkeypatch.setitem(EVALUATIONS, "knn", distance)

    def run(workdir):
        config = make_config(
            **{
                "init_from.path": os.fspath(source / "source"),
                "guard.action": "roll_back",
                "optimizer.lr": 1.0,  # peak 0.0625
                "optimizer.warmup_epochs": 2.0,
                "roles.teacher.momentum": 0.5,
                "roles.teacher.momentum_end": 0.5,
                "runtime.compilation_cache": os.fspath(source / "compiled"),
            }
        )
        return repeat_after_roll_backs(lambda: train(config, os.fspath(workdir), [], Alone()))

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


def test_a_run_rolls_back_to_its_last_good_checkpoint_with_lower_rates(guarded, whole):
    assert guarded(whole) == 0
    (note,) = json.loads((whole / "guard.json").read_text())["roll_backs"]
    assert (note["step"], note["back_to"]) == (4, 2) and note["value"] < 0.95
    lines = read_metrics(whole)
    assert [line["step"] for line in lines] == list(range(9))  # every step once
    assert [line["step"] for line in lines if "guard/quality" in line] == [0, 2, 4, 6, 8]
    assert all(line["guard/quality"] >= 0.95 for line in lines if "guard/quality" in line)
    # The warm-up is linspace(0, 0.0625, 4); steps 3 and 4 were made again with a tenth of it.
    rates = [line["lr"] for line in lines[1:5]]
    np.testing.assert_allclose(rates, [0, 0.0625 / 3, 0.00625 * 2 / 3, 0.00625], rtol=1e-6)
    assert checkpoint_steps(whole)[-1] == 8


@pytest.mark.parametrize("moment", ["before the note", "after the note"])
def test_a_roll_back_that_is_cut_off_gives_the_same_run(
    guarded, whole, tmp_path, moment, monkeypatch
):
    class KilledError(Exception):
        pass

    def killed(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        if moment == "before the note":
            patch.setattr(roll_back_module, "write_guard", killed)
        else:
            patch.setattr(roll_back_module, "roll_back", lambda request: killed(roll_back(request)))
        with pytest.raises(KilledError):
            guarded(tmp_path)
    assert checkpoint_steps(tmp_path)[-1] == 2
    assert guarded(tmp_path) == 0
    assert read_metrics(tmp_path) == read_metrics(whole)
    ours, theirs = read_state(tmp_path), read_state(whole)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
