"""The work of `dino-jax improve`: the photos, the config, the run, and what is handed out."""

import argparse
import dataclasses
import os
import time
from typing import Any

import jax
from etils import epath

from dino_jax.commands.command_line import UsageError, fail, user_errors
from dino_jax.commands.facts import facts_of
from dino_jax.commands.jax_switches import ignore_switches
from dino_jax.processes.agreement import Agreement
from dino_jax.run.runtime import RuntimeConfig
from dino_jax.run.training import run_alone_or_joined, train
from dino_jax.run.watch import LostRunError
from dino_jax.run.whole_config import Config
from dino_jax.tuning.improving.compose import Plan, batch_size, compose
from dino_jax.tuning.improving.outcome import (
    ASKED,
    conclude,
    hand_out,
    judge,
    remove_checkpoints,
)
from dino_jax.tuning.improving.photos import Parts, divide, list_photos, write_lists
from dino_jax.tuning.improving.record import (
    RUN,
    TRIAL,
    Record,
    options_of,
    read_record,
    write_record,
)
from dino_jax.tuning.improving.speed import TRIAL_LINE, TRIAL_STEPS, read_speed, steps_in
from dino_jax.tuning.improving.start import Start, read_start
from dino_jax.tuning.plan import say
from dino_jax.workdir.paths import absolute_path

NOT_BETTER = 1  # exit code


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""

    def facts() -> dict[str, Any]:
        given = {name: str(value) for name, value in options_of(arguments).items()}
        return facts_of(given, arguments.out)

    def work(agreement: Agreement) -> int:
        return improve(arguments, absolute_path(arguments.out), agreement)

    ignore_switches()
    if not arguments.distributed:  # jax must not start before processes are joined
        check_before(arguments)
    return run_alone_or_joined(
        work, arguments.out, "--out", arguments.distributed, RuntimeConfig(), facts
    )


def check_before(arguments: argparse.Namespace) -> None:
    """Ends the program if something is wrong, before the folder is made."""
    try:
        if read_record(absolute_path(arguments.out), arguments) is None:
            divide(list_photos(arguments), arguments.held_out, arguments.seed)
            read_start(arguments.model, arguments.step)
    except (ValueError, OSError) as error:
        fail(error)


def improve(arguments: argparse.Namespace, folder: epath.Path, agreement: Agreement) -> int:
    """Goes on from where an earlier start was; returns the exit code."""
    began = time.monotonic()
    with user_errors():
        record = read_record(folder, arguments)
        if record is not None and record.outcome is not None:
            say(f"ended before: {record.outcome['line']}")
            return 0 if record.outcome["handed_out"] else NOT_BETTER
        start = read_start(arguments.model, arguments.step if record is None else record.step)
        parts = record.parts if record else make_lists(arguments, folder, agreement)
        describe(start, parts)
    if record is None:
        plan = Plan(start, parts, folder, TRIAL_STEPS)
        code = 0 if arguments.steps else try_out(arguments, plan, agreement)
        if code:
            return code
        with user_errors():
            steps = agreement.confer(None, lambda _: choose_steps(arguments, plan, began))
        record = Record(options_of(arguments), start.step, parts, steps, None)
        if jax.process_index() == 0:
            write_record(folder, record)
    with user_errors():
        config = compose(arguments, Plan(start, parts, folder, record.steps))
    code, lost = train_to_the_end(config, folder / RUN, agreement)
    return code or finish(folder, start, record, lost, agreement)


def make_lists(arguments: argparse.Namespace, folder: epath.Path, agreement: Agreement) -> Parts:
    """Divides the photos; process 0 writes the lists.

    Raises:
      ValueError: on all processes, if there are too few.
    """

    def write(_: Any) -> dict[str, Any]:
        photos = list_photos(arguments)
        return write_lists(photos, arguments.held_out, arguments.seed, folder)._asdict()

    return Parts(**agreement.confer(None, write))


def describe(start: Start, parts: Parts) -> None:
    """Says what goes in."""
    made = "its own method goes on" if start.run else "DINO with new heads"
    at = "" if start.step is None else f", step {start.step}"
    say(f"model       {start.path}{at}; {made}")
    groups = f" of {parts.groups:,} classes or products" if parts.groups else ""
    say(
        f"photos      {parts.trained:,} to learn from, {parts.held_out:,} held out{groups}"
        + (f"; {parts.left_out:,} with a name that no list can hold" if parts.left_out else "")
    )
    say(f"judged by   {ASKED[parts.by]}")


def try_out(arguments: argparse.Namespace, plan: Plan, agreement: Agreement) -> int:
    """Runs a few steps, whose speed stays in the folder `TRIAL`; returns the exit code."""
    say(f"trial       {TRIAL_STEPS} steps, to know how fast they are")
    with user_errors():
        config = compose(arguments, plan)
    runtime = dataclasses.replace(config.runtime, log_every_steps=TRIAL_LINE)
    trial = dataclasses.replace(config, runtime=runtime, evaluations={})
    code, lost = train_to_the_end(trial, plan.folder / TRIAL, agreement)
    if lost:
        raise UsageError(f"the trial gave up: {lost}")
    return code


def choose_steps(arguments: argparse.Namespace, plan: Plan, began: float) -> int:
    """Updates of the run; process 0 knows how fast the trial was.

    Raises:
      ValueError: if there is hardly time for any.
    """
    if arguments.steps:
        return arguments.steps
    parts, spent = plan.parts, time.monotonic() - began
    speed, batch = read_speed(plan.folder / TRIAL), batch_size(arguments, plan.start, parts.trained)
    (plan.folder / TRIAL).rmtree()
    views = 2 if parts.by == "views" else 1
    looked_at = views * parts.held_out * (arguments.evaluations + 2)
    found = steps_in(arguments.hours, spent, speed, batch, parts.trained, looked_at)
    say(f"            {speed:.3g} photos per second: {found:,} steps")
    return found


def train_to_the_end(config: Config, workdir: epath.Path, agreement: Agreement) -> tuple[int, str]:
    """Trains; returns the exit code, 0 also for a run that gave up, and why it did."""
    try:
        return train(config, os.fspath(workdir), [], agreement), ""
    except LostRunError as error:
        return 0, str(error)


def finish(
    folder: epath.Path, start: Start, record: Record, lost: str, agreement: Agreement
) -> int:
    """Judges the run, hands out what is better, and notes how it ended; returns the exit code."""
    outcome = agreement.confer(None, lambda _: conclude(folder, record, judge(folder / RUN), lost))
    if outcome["handed_out"]:
        hand_out(folder, start, record, outcome)
    if jax.process_index() == 0:
        write_record(folder, record._replace(outcome=outcome))
        remove_checkpoints(folder)
    say(outcome["line"])
    return 0 if outcome["handed_out"] else NOT_BETTER
