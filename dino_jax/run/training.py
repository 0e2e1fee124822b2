"""The story of a training, top to bottom: the work of `dino-jax train`."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from dino_jax.commands.command_line import UsageError, fail, user_errors
from dino_jax.commands.compilation_cache import keep_programs
from dino_jax.commands.config_command import ConfigArguments, start_logging
from dino_jax.commands.facts import code_of, facts_of
from dino_jax.commands.one_writer import one_writer
from dino_jax.data.decoding import build_decoding
from dino_jax.data.multi_crop import build_multi_crop, compile_kernels
from dino_jax.data.pipeline import build_train_stream
from dino_jax.data.reading import require_readable
from dino_jax.data.worker_process import start_workers_alone
from dino_jax.devices.host_memory import keep_freed_memory
from dino_jax.devices.sharding import (
    batch_sharding,
    describe_mesh,
    jit_step,
    make_mesh,
    make_replicate,
    shard_batch,
    state_sharding,
    with_sharding,
)
from dino_jax.processes.agreement import Agreement, Alone
from dino_jax.processes.join import join_processes
from dino_jax.processes.patience import MissingProcessesError
from dino_jax.run.best import Best
from dino_jax.run.check import check_config
from dino_jax.run.enough import Enough
from dino_jax.run.first_step import FirstStep
from dino_jax.run.input_stream import InputStream
from dino_jax.run.instruments import build_instruments
from dino_jax.run.interruption import Interruption, end_on_sigterm
from dino_jax.run.journal import Journal
from dino_jax.run.roll_back import repeat_after_roll_backs, with_lowered_rates
from dino_jax.run.runtime import RuntimeConfig
from dino_jax.run.save_clock import SaveClock
from dino_jax.run.screen import say_if_slow
from dino_jax.run.start_checks import StartChecks, config_facts
from dino_jax.run.storage import (
    StorageFaultError,
    keep_quiet_about_raised_errors,
    storage_faults,
)
from dino_jax.run.watch import LostRunError
from dino_jax.run.whole_config import (
    Config,
    describe_older,
    in_todays_form,
    to_plain,
)
from dino_jax.step.recipe import Recipe, describe_recipe
from dino_jax.weights.init_from import load_first_weights
from dino_jax.workdir import checkpointing
from dino_jax.workdir.checksums import NotFiniteStateError
from dino_jax.workdir.config_json import describe_overrides, open_workdir
from dino_jax.workdir.newest import NewestCheckpoint


def train(config: Config, workdir: str, overrides: list[str], agreement: Agreement) -> int:
    """Trains until the end or a signal; returns the exit code."""
    # 1. Build everything that can be wrong before anything is written.
    runtime = config.runtime
    first_step = FirstStep()
    with user_errors():
        mesh, checks = make_mesh(runtime.fsdp), StartChecks(workdir, runtime.accept_data, agreement)
        source = checks.open_images(config)
        lowered = with_lowered_rates(config, workdir)
        lowered, recipe, train_step, frozen_roles = check_config(
            lowered, len(source), mesh, workdir
        )
        config = frozen_roles.fill_steps(config)
        multi_crop = build_multi_crop(config.augment, recipe.crop_shape[2])
        instruments = build_instruments(config, recipe, mesh, source, workdir)
        require_readable({"config.data": source} | dict(instruments.sources), config.max_pixels)
        checks.compare(lowered, instruments.sources)
        programs = keep_programs(runtime.compilation_cache, workdir)
    with say_if_slow("compiling the input kernels, once per machine"):
        compile_kernels(multi_crop)

    # 2. The state lives on the mesh from the start; a checkpoint may come from another mesh.
    base_key = jax.random.key(config.seed)
    abstract = jax.eval_shape(recipe.init, base_key)
    shardings = state_sharding(mesh, abstract)
    train_step = jit_step(train_step, mesh, shardings)
    replicate = make_replicate(mesh)
    with Interruption(agreement) as interruption:
        with user_errors():
            first = load_first_weights(config.init_from, abstract, recipe.network.backbone, workdir)
            frozen = frozen_roles.load(mesh, recipe.crop_shape)
            older = describe_older(workdir)
            folder = open_workdir(workdir, to_plain(config), in_todays_form)
            checks.write()
            best = Best(recipe.evaluated)
            checkpoints = checkpointing.open_checkpoints(
                folder,
                save_every_steps=runtime.save_every_steps,
                keep=runtime.keep_checkpoints,
                keep_last_of_every=instruments.guard.every_steps,
                keep_also=best,
            )
            state, resumed = checkpointing.restore_or_init(
                checkpoints,
                lambda: first.init(recipe.init, base_key, shardings),
                with_sharding(abstract, shardings),
            )
            checks.compare_weights(frozen if resumed else {**state.networks, **frozen})
            start = int(state.step)
            newest = NewestCheckpoint(folder, checkpoints)
            newest.note()
            stream = InputStream(
                lambda first_step, workers: build_train_stream(
                    source,
                    multi_crop,
                    seed=config.seed,
                    batch_size=config.batch_size,
                    start_step=first_step,
                    host=jax.process_index(),
                    hosts=jax.process_count(),
                    workers=workers,
                    threads=runtime.threads,
                    max_pixels=config.max_pixels,
                    masking=recipe.masking,
                ),
                start,
                runtime.workers,
                interruption.stop_without_worker,
            )
            journal = Journal(folder, start, config, recipe, source, instruments, best, first_step)

        # 3. The loop: data, step, journal, checkpoint.
        with (
            storage_faults(folder, agreement),
            checkpointing.closing(checkpoints),
            contextlib.closing(stream),
            journal,
        ):
            lines = (
                *overrides,
                *older,
                *checks.lines,
                describe_mesh(mesh),
                f"compiled    {programs}",
                f"data        {len(source):,} images, {config.data.kind}",
                f"            {build_decoding('config.data', config.data).describe()}",
                *describe_recipe(recipe, lowered, state),
                *first.lines,
                *frozen_roles.lines,
                f"workdir     {folder}, " + (f"resumed at step {start}" if resumed else "new run"),
            )
            journal.begin(lines, state, resumed, frozen)
            save_clock = SaveClock(runtime.save_every_minutes, agreement)
            enough = Enough(runtime.patience, runtime.most_hours, best, agreement)
            end = start if enough.before(journal.hours_before) else recipe.total_steps
            for step in range(start + 1, end + 1):
                with user_errors(), journal.waiting():
                    batch = shard_batch(stream.take(step), batch_sharding(mesh))
                unreadable = replicate(batch.pop("unreadable"))
                journal.before(step)
                state, metrics = train_step(state, batch, frozen)
                journal.add(step, metrics, unreadable)
                worth_saving = journal.record(step, state)
                stop = interruption.should_stop(step) | enough.after(step, journal.hours)
                with journal.progress.pause("checkpoint"):
                    last = step == recipe.total_steps
                    due = save_clock.due(step) or stop or worth_saving or last
                    if checkpointing.save(checkpoints, step, state, force=due):
                        save_clock.restart()
                newest.note()
                if stop:
                    break
            journal.finish(checkpoints.all_steps())
        newest.note()
        why = enough.reason
        journal.progress.say(
            last_line(interruption.requested, why, int(state.step), recipe, folder)
        )
        return interruption.exit_code


def last_line(
    signal_name: str | None, why: str, step: int, recipe: Recipe, folder: epath.Path
) -> str:
    """The last line on the screen; `why` is the reason of an early end, if it was one."""
    if signal_name:
        return (
            f"{signal_name}: saved step {step} of {recipe.total_steps} in {folder}; "
            "the same command continues"
        )
    if why:
        return f"ended: {why}; step {step} of {recipe.total_steps}, checkpoints in {folder}"
    return f"done: step {step} of {recipe.total_steps}, checkpoints in {folder}"


def run(given: ConfigArguments) -> int:
    """Runs the command; returns the exit code."""
    options, config, default = given

    def work(agreement: Agreement) -> int:
        with user_errors():
            overrides = describe_overrides(default, config)
        return repeat_after_roll_backs(lambda: train(config, options.workdir, overrides, agreement))

    def facts() -> dict[str, Any]:
        return facts_of(config_facts(config), options.workdir, code_of(options.config))

    return run_alone_or_joined(
        work, options.workdir, "--workdir", options.distributed, config.runtime, facts
    )


def run_alone_or_joined(
    work: Callable[[Agreement], int],
    folder: str,
    option: str,
    distributed: bool,
    runtime: RuntimeConfig,
    facts: Callable[[], dict[str, Any]],
) -> int:
    """Does work that trains, in a folder of its own; what ends it early is said in one line.

    Args:
      work: gets the agreement of all processes; returns the exit code.
      folder: what it writes to; locked meanwhile.
      option: option that names the folder.
      distributed: whether this is one of several processes, which are joined first.
      runtime: patience of the join.
      facts: what all processes must have in common.
    """
    start_logging()
    keep_quiet_about_raised_errors()
    end_on_sigterm()
    keep_freed_memory()
    start_workers_alone()
    try:
        with contextlib.ExitStack() as stack:
            agreement: Agreement = Alone()
            with user_errors():
                if distributed:
                    limits = (runtime.join_report_seconds, runtime.join_timeout_seconds)
                    agreement = stack.enter_context(join_processes(*limits, facts()))
                stack.enter_context(one_writer(folder, option, agreement))
            return work(agreement)
    except (UsageError, ImportError) as error:  # ImportError: a package that an option needs
        fail(error)
    except (LostRunError, MissingProcessesError, NotFiniteStateError, StorageFaultError) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return error.exit_code
