"""SIGTERM and Ctrl-C: the flag, the second Ctrl-C, exit codes, agreement of two processes."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from dino_jax.interruption import Interruption


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
    with Interruption() as interruption:
        assert not interruption.should_stop(1)
        assert (interruption.requested, interruption.exit_code) == (None, 0)
        send(getattr(signal, name))
        assert interruption.should_stop(2)
        assert (interruption.requested, interruption.exit_code) == (name, code)
    assert f"{name}: saving and stopping after this step" in capfd.readouterr().err


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_request_quits_at_once(first):
    with pytest.raises(KeyboardInterrupt), Interruption():
        send(first)
        send(signal.SIGINT)


def test_a_repeated_sigterm_changes_nothing():
    with Interruption() as interruption:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            send(number)
        assert interruption.requested == "SIGINT"


def test_the_old_handlers_come_back_even_after_an_error():
    def mine(number, frame):
        del number, frame

    signal.signal(signal.SIGTERM, mine)
    interrupt = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="in the loop"), Interruption():
        assert signal.getsignal(signal.SIGTERM) is not mine
        raise RuntimeError("in the loop")
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_outside_the_main_thread_no_handler_is_set():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with Interruption() as interruption:
            inside.append((signal.getsignal(signal.SIGTERM), interruption.should_stop(1)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(before, False)]


def test_an_impossible_interval_is_an_error():
    with pytest.raises(ValueError, match="agree_every_steps must be at least 1, got 0"):
        Interruption(agree_every_steps=0)


TWO_PROCESSES = textwrap.dedent("""
    import os, signal, sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    address, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    jax.distributed.initialize(address, 2, process)
    from dino_jax import checkpointing
    from dino_jax.interruption import Interruption

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharding = {"x": NamedSharding(mesh, P("data")), "step": NamedSharding(mesh, P())}
    init = jax.jit(
        lambda step: {"x": jnp.arange(4096.0).reshape(8, 512) + step, "step": jnp.int32(step)},
        static_argnums=0, out_shardings=sharding)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), init(0))

    manager = checkpointing.open_checkpoints(folder, save_every_steps=2, keep=3)
    with Interruption(agree_every_steps=4) as interruption:
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
        read = checkpointing._restore_state
        def fail(path, tree):
            if "/8/" in str(path):
                raise OSError("a disk of process 1")
            return read(path, tree)
        checkpointing._restore_state = fail
    manager = checkpointing.open_checkpoints(folder, save_every_steps=2, keep=3)
    state, resumed = checkpointing.restore_or_init(manager, lambda: init(0), abstract)
    start = int(state["step"])
    again = checkpointing.save(manager, 8, init(8))
    checkpointing.close(manager)
    with open(f"{folder}/result{process}", "w") as file:
        stop = (step, interruption.requested, interruption.exit_code)
        print(*stop, resumed, start, again, file=file)
""")


def test_two_processes_stop_at_one_step_and_fall_back_to_one_checkpoint(tmp_path):
    """The signal reaches process 1 at step 5; both stop at 8. Only process 1 fails to read 8."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = []
    for i in range(2):
        with (tmp_path / f"output{i}").open("w") as output:  # a pipe could fill and block
            command = [sys.executable, "-c", TWO_PROCESSES, address, str(i), str(tmp_path)]
            root = Path(__file__).parents[1]
            processes.append(
                subprocess.Popen(
                    command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
            )
    codes = [process.wait() for process in processes]
    outputs = [(tmp_path / f"output{i}").read_text() for i in range(2)]
    assert codes == [0, 0], "\n".join(outputs)
    results = [(tmp_path / f"result{i}").read_text() for i in range(2)]
    assert results == ["8 SIGTERM 75 True 6 True\n"] * 2
    assert "a disk of process 1" in outputs[1]
    assert "unreadable on another process" in outputs[0]
