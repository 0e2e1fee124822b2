"""The lifeline in real processes: all end together, with one clear line."""

import contextlib
import re

import pytest

from tests.processes.processes import Small, free_address

BUSY = """
    with Lifeline(place, lines) as lifeline:
        print("busy", flush=True)
        time.sleep(50)
"""


@contextlib.contextmanager
def processes(*codes: str):
    """One process for each code, all of them past the roll call."""
    address = free_address()
    with contextlib.ExitStack() as stack:
        all_of_them = [
            stack.enter_context(Small(address, i, len(codes), code)) for i, code in enumerate(codes)
        ]
        for process in all_of_them:
            assert process.read_line().startswith("met")
        yield all_of_them


@pytest.mark.parametrize("victim", [0, 2])
def test_when_a_process_is_killed_the_others_end_with_75_and_say_who(victim):
    with processes(BUSY, BUSY, BUSY) as all_of_them:
        for process in all_of_them:
            assert process.read_line() == "busy"
        all_of_them[victim].kill()
        for i, process in enumerate(all_of_them):
            code, _, err = process.finish()
            if i != victim:
                assert code == 75
                pattern = (
                    rf"\nstopped: process {victim}.* has died or cannot be reached \(.*\); exit "
                    "code 75: run the same command again\n"
                )
                assert re.fullmatch(pattern, err), err


QUICK = """
    import dino_jax.processes.lifeline as module
    module.DOUBT_SECONDS, module.GRACE_SECONDS = {doubt}, 1.5
    class Wrong(Exception):
        exit_code = 2
    with Lifeline(place, lines) as lifeline:
        {body}
"""


def test_an_error_of_one_process_ends_all_with_its_exit_code_and_its_words():
    """Process 0 is busy; process 2 meets the closed connections, which is no error of its own."""
    busy = QUICK.format(doubt=0.1, body="time.sleep(50)")
    failing = QUICK.format(doubt=0.1, body="raise Wrong('no such folder')")
    echo = QUICK.format(doubt=1.0, body="raise ValueError('connection reset')")
    with processes(busy, failing, echo) as (first, second, third):
        code, _, err = second.finish()
        assert code == 2 and "Wrong: no such folder" in err
        for process in (first, third):
            code, _, err = process.finish()
            assert code == 2
            assert re.fullmatch(
                r"\nstopped: process 1 on .* ended with exit code 2: Wrong: no such folder; exit "
                "code 2\n",
                err,
            ), err


def test_processes_that_finish_at_different_times_disturb_nobody():
    slow = """
        with Lifeline(place, lines) as lifeline:
            time.sleep(1)
        print("done", flush=True)
    """
    quick = slow.replace("sleep(1)", "sleep(0)")
    for codes in ((quick, slow, slow), (slow, quick, quick)):
        with processes(*codes) as all_of_them:
            assert [p.finish() for p in all_of_them] == [(0, "done\n", "")] * 3


def test_all_processes_stop_after_one_step_that_none_of_them_has_passed():
    """Process 1 asks at its step 5; process 2 is fast and process 0 slow."""
    steps = """
        with Lifeline(place, lines) as lifeline:
            for step in range(1, 100_000):
                time.sleep((0.02, 0.01, 0.001)[place.process])
                if place.process == 1 and step == 5:
                    lifeline.ask("stop")
                if lifeline.reached("stop", step):
                    break
        print(step, flush=True)
    """
    with processes(steps, steps, steps) as all_of_them:
        found = {process.finish()[:2] for process in all_of_them}
    ((code, step),) = found
    assert code == 0 and 5 < int(step) < 99_999


CONFER = """
    def judge(said):
        if place.process:
            raise AssertionError("only process 0 judges")
        if len(set(said.values())) > 1:
            raise ValueError(f"{lifeline.hosts[1] != ''}: {sorted(said.items())}")
        return {"all": said[0]}
    class Wrong(Exception):
        exit_code = 2
    try:
        with Lifeline(place, lines) as lifeline:
            print(lifeline.confer([1, 2], lambda said: len(said)), flush=True)
            print(lifeline.confer("same", judge), flush=True)
            time.sleep(place.process / 4)
            try:
                lifeline.confer(place.process // 2, judge)
            except ValueError as error:
                raise Wrong(error)
    except Wrong as error:
        print("error:", error, file=sys.stderr)
        sys.exit(2)
"""


def test_what_process_0_judges_is_everybodys_answer_or_everybodys_error():
    """Nobody doubts an error that all have, nobody is told again, and nobody waits."""
    with processes(CONFER, CONFER, CONFER) as all_of_them:
        for process in all_of_them:
            code, out, err = process.finish()
            assert (code, out) == (2, "3\n{'all': 'same'}\n")
            assert err == "error: True: [(0, 0), (1, 0), (2, 1)]\n"


def test_a_death_ends_those_who_wait_for_an_answer():
    asks = """
        with Lifeline(place, lines) as lifeline:
            print("asks", flush=True)
            lifeline.confer(0, len)
    """
    with processes(asks, asks, BUSY) as all_of_them:
        assert [process.read_line() for process in all_of_them] == ["asks", "asks", "busy"]
        all_of_them[2].kill()
        for process in all_of_them[:2]:
            code, _, err = process.finish()
            assert code == 75 and "process 2" in err and "run the same command again" in err


def test_one_process_can_end_all_from_a_thread_and_its_last_deeds_are_done():
    ends = """
        import threading
        from dino_jax.processes.ending import at_end
        with Lifeline(place, lines) as lifeline, at_end(lambda: print("last deed", flush=True)):
            threading.Thread(target=lifeline.end, args=(2, "taken over")).start()
            time.sleep(50)
    """
    with processes(ends, BUSY) as (first, second):
        assert first.finish() == (2, "last deed\n", "\nstopped: taken over; exit code 2\n")
        code, _, err = second.finish()
        assert (code, err) == (2, "\nstopped: taken over; exit code 2\n")
