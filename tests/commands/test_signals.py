"""Signals that stop a command."""

import os
import signal
import time

import pytest

from dino_jax.commands.signals import POSTPONED_SECONDS, Stopped, stop_on_signals


class Batch:
    """Gets Ctrl-C while it is freed."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_the_block(number, code):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught, stop_on_signals():
        os.kill(os.getpid(), number)
        time.sleep(60)
    assert (caught.value.exit_code, caught.value.name) == (code, number.name)
    assert signal.getsignal(number) is before


def test_a_signal_that_arrives_in_a_destructor_is_not_lost():
    with pytest.raises(Stopped), stop_on_signals():
        batch = Batch()
        del batch
        time.sleep(60)
        pytest.fail("the signal was lost")


def test_a_signal_does_not_outlast_the_block():
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with stop_on_signals():
            batch = Batch()
            del batch
        time.sleep(5 * POSTPONED_SECONDS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not heard
