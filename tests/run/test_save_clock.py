"""Checkpoints by the clock."""

from dino_jax.processes.agreement import Alone
from dino_jax.run.save_clock import SaveClock


def due_steps(clock: SaveClock, now: list[float], times: list[float]) -> list[int]:
    """The steps of 1, 2, … that are due, of which each ends at its time."""
    found = []
    for step, time in enumerate(times, start=1):
        now[0] = time
        if clock.due(step):
            found.append(step)
    return found


def test_a_checkpoint_is_due_so_many_minutes_after_the_last_one():
    now = [0.0]
    clock = SaveClock(2.0, Alone(), clock=lambda: now[0])
    assert due_steps(clock, now, [60, 119, 120, 121, 239, 241, 300]) == [3, 6]


def test_a_checkpoint_for_another_reason_starts_the_clock_anew():
    now = [0.0]
    clock = SaveClock(1.0, Alone(), clock=lambda: now[0])
    now[0] = 50.0
    clock.restart()
    assert due_steps(clock, now, [60, 109, 110]) == [3]


def test_zero_minutes_are_never():
    now = [0.0]
    assert due_steps(SaveClock(0.0, Alone(), clock=lambda: now[0]), now, [1e3, 1e6]) == []
