"""The training stream outlives its workers, and says what happened to them."""

import os
import signal

import grain
import pytest
from absl import flags

from dino_jax.run.input_stream import InputStream, describe_death


class Run:
    """Counts from some step; with workers the batch of step 3 raises an error."""

    def __init__(self, error):
        self.error, self.built, self.stopped = error, [], 0

    def build(self, start, workers):
        self.built.append((start, workers))
        for step in range(start + 1, 9):
            if workers and step == 3:
                raise self.error
            yield {"step": step}

    def stop(self):
        self.stopped += 1


def test_a_killed_worker_stops_the_run_and_the_batches_go_on(capsys):
    run = Run(RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search"))
    stream = InputStream(run.build, 0, 2, run.stop)
    assert [stream.take(step)["step"] for step in range(1, 6)] == [1, 2, 3, 4, 5]
    assert run.built == [(0, 2), (2, 0)] and run.stopped == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "killed by SIGKILL: saving and stopping. Likely memory ran out" in line
    stream.close()


def test_a_worker_that_raises_is_a_bug_that_stays_visible():
    run = Run(KeyError("label"))
    stream = InputStream(run.build, 0, 2, run.stop)
    with pytest.raises(KeyError, match="label") as caught:
        for step in (1, 2, 3):
            stream.take(step)
    assert caught.value.__notes__ == [
        "This was raised by an input worker, which made the batch of step 3."
    ]
    assert run.stopped == 0


def test_other_ends_of_a_worker_are_named():
    assert "was killed by SIGSEGV: saving" in describe_death(-signal.SIGSEGV)
    assert "memory" not in describe_death(-signal.SIGSEGV)
    assert "ended with exit code 3" in describe_death(3)


def kill_itself(step: int) -> dict[str, int]:
    if step == 3 and os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"step": step}


def test_what_grain_says_about_a_killed_worker_is_understood(monkeypatch, capsys):
    monkeypatch.setenv("KILLED", "1")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def build(start, workers):
        dataset = grain.MapDataset.range(start + 1, 9).map(kill_itself).to_iter_dataset()
        if workers:
            options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
            dataset = dataset.mp_prefetch(options)
        else:
            monkeypatch.delenv("KILLED")
        yield from dataset

    stream = InputStream(build, 0, 1, lambda: None)
    assert [stream.take(step)["step"] for step in range(1, 6)] == [1, 2, 3, 4, 5]
    assert "SIGKILL" in capsys.readouterr().err
    stream.close()
