"""What is printed on a terminal and elsewhere."""

import io
import re
import time

import pytest

from dino_jax.run.screen import (
    ROWS,
    LiveTable,
    Progress,
    format_duration,
    format_number,
    say_if_slow,
)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_speed_and_time_left_leave_out_the_first_step_and_count_pauses_openly():
    clock, out = Clock(), io.StringIO()
    with Progress(0, 20, images_per_step=64, stream=out, clock=clock) as progress:
        clock.now += 30.0  # compiles
        for step in range(1, 11):
            progress.advance(step)
            clock.now += 2.0 if step < 10 else 0.0
        first = progress.log(10, {"loss": 5.0})
        with progress.pause("evaluation"):
            clock.now += 9.0
        clock.now += 2.0
        second = progress.log(11, {"loss": 4.0})
    assert first.images_per_second == pytest.approx(9 * 64 / 18.0)
    assert first.seconds_left == pytest.approx(10 * 2.0)
    assert first.pauses == {"first step": 30.0}
    assert second.images_per_second == pytest.approx(64 / 2.0)
    assert second.seconds_left == pytest.approx((18.0 + 9.0 + 2.0) / 10 * 9)
    assert second.pauses == {"evaluation": 9.0}
    assert out.getvalue().splitlines() == [
        "step 10/20  loss 5.0000  images/s 32  ETA 0:00:20  (first step 30.0 s)",
        "step 11/20  loss 4.0000  images/s 32  ETA 0:00:26  (evaluation 9.0 s)",
    ]


def test_an_evaluation_before_the_first_step_is_not_counted_as_the_first_step():
    clock = Clock()
    with Progress(0, 20, images_per_step=8, stream=io.StringIO(), clock=clock) as progress:
        with progress.pause("evaluation"):
            clock.now += 5.0
        clock.now += 7.0
        progress.advance(1)
        clock.now += 4.0
        lap = progress.log(2, {})
    assert lap.pauses == {"evaluation": 5.0, "first step": 7.0}
    assert lap.images_per_second == pytest.approx(8 / 4.0)


def test_the_first_step_alone_gives_no_speed():
    out = io.StringIO()
    with Progress(0, 200, images_per_step=8, stream=out, clock=Clock()) as progress:
        lap = progress.log(1, {"loss": 1.0})
    assert (lap.images_per_second, lap.seconds_left) == (None, None)
    assert out.getvalue().startswith("step   1/200  loss 1.0000  images/s -  ETA -")


def test_a_resumed_run_expects_only_the_rest():
    clock = Clock()
    with Progress(90, 100, images_per_step=8, stream=io.StringIO(), clock=clock) as progress:
        progress.advance(91)
        clock.now += 3.0
        lap = progress.log(92, {})
    assert lap.seconds_left == pytest.approx(8 * 3.0)


def test_the_columns_are_printed_in_their_order_with_readable_numbers():
    out = io.StringIO()
    columns = {"loss": 8.31778, "H/lnK": 0.98, "lr": 1.25e-4, "knn": "42.1 %", "x": float("nan")}
    with Progress(0, 9, images_per_step=1, stream=out, clock=Clock()) as progress:
        progress.log(1, columns)
    assert "loss 8.3178  H/lnK 0.9800  lr 1.25e-04  knn 42.1 %  x nan  images/s" in out.getvalue()


def run_on(stream: io.StringIO) -> str:
    with Progress(0, 4, images_per_step=8, stream=stream) as progress:
        for step in range(1, 5):
            progress.advance(step)
        progress.log(4, {"loss": 1.0})
        progress.say("saved")
    return stream.getvalue()


def test_outside_a_terminal_there_are_plain_lines_only():
    text = run_on(io.StringIO())
    assert "\x1b" not in text
    assert "\r" not in text
    assert len(text.splitlines()) == 2


def test_a_terminal_shows_the_newest_lines_as_a_table_and_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", run_on(Terminal()))
    assert text.count("saved") == 1
    header, row, bar = text[text.rindex("step") :].rstrip().split("\n")
    assert header.split() == ["step", "loss", "images/s", "ETA"]
    assert row.split()[:2] == ["4", "1.0000"]
    assert bar.split()[-3:] == ["4/4", "100", "%"]


def test_a_table_keeps_the_newest_rows_and_every_column(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    table = LiveTable(stream, 0, 100)
    for step in range(1, ROWS + 3):
        table.add({"step": str(step)} | ({"knn": "91 %"} if step == 14 else {}))
    table.close()
    last = stream.getvalue()[stream.getvalue().rindex("knn") :]
    assert [int(n) for n in re.findall(r"^ *(\d+)(?= )", last, re.MULTILINE)] == list(range(3, 15))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (59.4, "0:00:59"),
        (59.6, "0:01:00"),
        (3661, "1:01:01"),
        (360000, "100:00:00"),
    ],
)
def test_durations_read_as_hours_minutes_seconds(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_an_impossible_duration_is_an_error(seconds):
    with pytest.raises(ValueError, match="finite and at least 0"):
        format_duration(seconds)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5.12345, "5.1235"),
        (-0.5, "-0.5000"),
        (2e-6, "2.00e-06"),
        (12345, "1.23e+04"),
    ],
)
def test_numbers_read_with_four_decimals_or_an_exponent(value, text):
    assert format_number(value) == text


def test_only_what_is_slow_is_announced(capsys):
    with say_if_slow("quick", seconds=60):
        pass
    out = ""
    with say_if_slow("slow", seconds=0):
        for _ in range(500):
            out += capsys.readouterr().out
            if out:
                break
            time.sleep(0.01)
    assert out == "slow …\n"
