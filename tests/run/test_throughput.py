"""Time that the devices wait for data, with a clock that only moves when told."""

import threading

import pytest

from dino_jax.run.screen import Lap
from dino_jax.run.throughput import Throughput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Step:
    """Stands for an array of a step that runs until `finish`."""

    def __init__(self):
        self._finished = threading.Event()

    def block_until_ready(self):
        self._finished.wait()
        return self

    def finish(self, throughput):
        """Ends the step at the current time of the clock."""
        self._finished.set()
        throughput._end.result()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throughput(clock):
    throughput = Throughput(hours_before=2.0, clock=clock)
    yield throughput
    throughput.close()


def lap(seconds, speed=80.0):
    return Lap(seconds, speed, seconds_left=1800.0, pauses={})


def start(throughput):
    step = Step()
    throughput.started(step)
    return step


def test_a_batch_that_is_ready_before_the_step_ends_costs_nothing(throughput, clock):
    step = start(throughput)
    with throughput.batch():
        clock.now += 5.0
    step.finish(throughput)
    assert throughput.describe(lap(10.0))["time/data_wait_share"] == 0


def test_only_the_time_after_the_end_of_the_step_is_waited(throughput, clock):
    step = start(throughput)
    with throughput.batch():
        clock.now += 2.0
        step.finish(throughput)
        clock.now += 3.0
    assert throughput.describe(lap(10.0))["time/data_wait_share"] == pytest.approx(0.3)
    assert throughput.describe(lap(10.0))["time/data_wait_share"] == 0


def test_a_step_that_ended_before_the_batch_was_asked_for_does_not_count_more(throughput, clock):
    step = start(throughput)
    step.finish(throughput)
    clock.now += 4.0  # an evaluation
    with throughput.batch():
        clock.now += 1.0
    assert throughput.describe(lap(10.0))["time/data_wait_share"] == pytest.approx(0.1)


def test_the_first_batch_is_not_waited_for(throughput, clock):
    with throughput.batch():
        clock.now += 50.0
    assert throughput.describe(lap(10.0))["time/data_wait_share"] == 0


def test_hours_go_on_from_earlier_starts_and_speed_is_per_device(throughput, clock):
    clock.now += 1800.0
    numbers = throughput.describe(lap(10.0))
    assert numbers["time/hours"] == pytest.approx(2.5)
    assert numbers["time/hours_left"] == pytest.approx(0.5)
    assert numbers["images_per_second"] == 80.0
    assert numbers["time/images_per_second_per_device"] == 20.0  # the tests run on four


def test_what_is_not_known_yet_is_left_out(throughput):
    numbers = throughput.describe(Lap(0.0, None, None, {"first step": 3.0}))
    assert numbers.keys() == {"time/hours"}
