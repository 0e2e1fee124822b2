"""A run ends early when nothing is gained any more, or its time is up."""

from dino_jax.processes.agreement import Alone
from dino_jax.run.best import Best
from dino_jax.run.enough import Enough


def test_patience_ends_a_run_and_a_resumed_one_before_its_first_step():
    best = Best()
    enough = Enough(2, 0.0, best, Alone())
    for step, gain in enumerate((0.1, 0.0), start=1):
        best.add(step, {"worth/teacher": gain})
        assert not enough.after(step, 9.0)
    best.add(3, {"worth/teacher": 0.1})
    assert enough.after(3, 9.0)
    assert enough.reason == "the last 2 evaluations were no better than that of step 1"
    assert Enough(2, 0.0, best, Alone()).before(0.0)


def test_the_hours_of_all_starts_count():
    enough = Enough(0, 1.0, Best(), Alone())
    assert not enough.before(0.9) and not enough.after(1, 0.99)
    assert enough.after(2, 1.0) and enough.reason == "the 1 hours are over"
    assert Enough(0, 1.0, Best(), Alone()).before(1.5)


def test_both_limits_are_off_at_zero():
    best = Best()
    for step in range(1, 9):
        best.add(step, {"worth/teacher": -1.0})
    enough = Enough(0, 0.0, best, Alone())
    assert not enough.before(100.0) and not enough.after(9, 100.0)
