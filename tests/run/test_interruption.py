"""SIGTERM and Ctrl-C: the flag, the second Ctrl-C, exit codes, agreement of two processes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from dino_jax.processes.agreement import Alone
from dino_jax.run.interruption import Interruption
from tests import quick_compiler
from tests.run_train import ROOT, slurm_of


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def pythons_own_handlers():
    """Known handlers, so that a signal that is not caught fails the test instead of pytest."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_the_first_signal_asks_to_stop_and_sets_the_exit_code(name, code, capfd):
    with Interruption(Alone()) as interruption:
        assert not interruption.should_stop(1)
        assert (interruption.requested, interruption.exit_code) == (None, 0)
        send(getattr(signal, name))
        assert interruption.should_stop(2)
        assert (interruption.requested, interruption.exit_code) == (name, code)
    assert f"{name}: saving and stopping after this step" in capfd.readouterr().err


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_request_quits_at_once(first):
    with pytest.raises(KeyboardInterrupt), Interruption(Alone()):
        send(first)
        send(signal.SIGINT)


def test_a_repeated_sigterm_changes_nothing():
    with Interruption(Alone()) as interruption:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            send(number)
        assert interruption.requested == "SIGINT"


def test_the_old_handlers_come_back_even_after_an_error():
    def mine(number, frame):
        del number, frame

    signal.signal(signal.SIGTERM, mine)
    interrupt = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="in the loop"), Interruption(Alone()):
        assert signal.getsignal(signal.SIGTERM) is not mine
        raise RuntimeError("in the loop")
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_outside_the_main_thread_no_handler_is_set():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with Interruption(Alone()) as interruption:
            inside.append((signal.getsignal(signal.SIGTERM), interruption.should_stop(1)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, False)]


def test_before_and_after_an_interruption_sigterm_ends_at_once_with_75():
    code = """
        import sys
        from dino_jax.run.interruption import Interruption, end_on_sigterm
        from dino_jax.processes.agreement import Alone
        end_on_sigterm()
        if sys.argv[1] == "after":
            with Interruption(Alone()):
                pass
        print("ready", flush=True)
        sys.stdin.read()
    """
    for when in ("before", "after"):
        command = [sys.executable, "-c", textwrap.dedent(code), when]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stderr.read() == "\nSIGTERM: nothing to save, stopping.\n"
        assert process.returncode == 75


TWO_PROCESSES = textwrap.dedent("""
    import os, signal, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    folder = sys.argv[1]
    from dino_jax.workdir import checkpoint_reading, checkpointing
    from dino_jax.run.interruption import Interruption
    from dino_jax.processes.join import join_processes
    lifeline = join_processes()
    process = jax.process_index()

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharding = {"x": NamedSharding(mesh, P("data")), "step": NamedSharding(mesh, P())}
    init = jax.jit(
        lambda step: {"x": jnp.arange(4096.0).reshape(8, 512) + step, "step": jnp.int32(step)},
        static_argnums=0, out_shardings=sharding)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), init(0))

    manager = checkpointing.open_checkpoints(folder, save_every_steps=2, keep=3)
    with Interruption(lifeline) as interruption:
        step = 0
        while step < 20:
            step += 1
            if process == 1 and step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            checkpointing.save(manager, step, init(step))
            if interruption.should_stop(step):
                break
    checkpointing.save(manager, step, init(step), force=True)
    checkpointing.close(manager)

    if process == 1:  # this process alone cannot read the newest checkpoint
        read = checkpoint_reading._read_state
        def fail(path, stored, wanted):
            if f"/{step}/" in str(path):
                raise OSError("a disk of process 1")
            return read(path, stored, wanted)
        checkpoint_reading._read_state = fail
    manager = checkpointing.open_checkpoints(folder, save_every_steps=2, keep=3)
    state, resumed = checkpointing.restore_or_init(manager, lambda: init(0), abstract)
    start = int(state["step"])
    again = checkpointing.save(manager, step, init(step), force=True)
    checkpointing.close(manager)
    with open(f"{folder}/result{process}", "w") as file:
        stop = (step, interruption.requested, interruption.exit_code)
        print(*stop, resumed, start, again, file=file)
""")


def test_two_processes_stop_at_one_step_and_fall_back_to_one_checkpoint(tmp_path):
    """The signal reaches process 1 at step 5. Only process 1 fails to read what both saved then."""
    processes, slurm = [], slurm_of(2)
    for i in range(2):
        with (tmp_path / f"output{i}").open("w") as output:  # a pipe could fill and block
            command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path)]
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": quick_compiler.flags(devices=2),
            }
            processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment | slurm | {"SLURM_PROCID": str(i)},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    codes = [process.wait() for process in processes]
    outputs = [(tmp_path / f"output{i}").read_text() for i in range(2)]
    assert codes == [0, 0], "\n".join(outputs)
    results = [(tmp_path / f"result{i}").read_text().split() for i in range(2)]
    assert results[0] == results[1]
    stopped, *rest, start, again = results[0]
    assert 5 <= int(stopped) < 20
    assert rest == ["SIGTERM", "75", "True"]
    assert (int(start), again) == ((int(stopped) - 1) // 2 * 2, "True")
    assert "a disk of process 1" in outputs[1]
    assert "unreadable on another process" in outputs[0]
