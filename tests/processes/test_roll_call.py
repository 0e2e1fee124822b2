"""The roll call: who is missing is known, and why, in real processes."""

import contextlib
import json
import re
import socket

import pytest

from dino_jax.processes.patience import Place, describe_obstacle
from tests.processes.processes import Small, free_address

HOST = re.escape(socket.gethostname())


def test_all_processes_meet_in_any_order():
    address = free_address()
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Small(address, i, 3)) for i in (2, 0, 1)]
        assert [p.finish()[:2] for p in processes] == [
            (0, "met [0]\n"),
            (0, "met [1, 2]\n"),
            (0, "met [0]\n"),
        ]


def test_every_waiting_process_says_who_is_missing_and_gives_up_with_75():
    address, options = free_address(), dict(report=1.0, timeout=6.0)
    with Small(address, 0, 4, **options) as first, Small(address, 2, 4, **options) as third:
        for process in (first, third):
            code, out, err = process.finish()
            assert (code, out) == (75, "")
            *reports, last = err.splitlines()
            missing = (
                rf"process 1, 3 of 4 missing \(there: 0 on {HOST}, 2 on {HOST}\)\. Likely: the "
                r"command was not started on every host \(gcloud: --worker=all\), .*firewall"
            )
            assert len(reports) == 5
            assert any(re.match(r"waiting for \d s: " + missing, line) for line in reports)
            assert last.startswith("stopped: gave up after 6 s of waiting for other processes: ")


def test_without_process_0_the_others_say_so_and_what_its_address_answers():
    with Small(free_address(), 1, 2, report=0.5, timeout=1.2) as process:
        code, _, err = process.finish()
    assert code == 75
    assert re.search(
        r"process 0 missing, localhost:\d+ does not answer \(Connection refused\). Likely: the "
        "command was not started there",
        err,
    )


def test_silence_points_to_a_firewall():
    text = describe_obstacle(Place("10.0.0.2:8476", 1, 2), TimeoutError("timed out"))
    assert "10.0.0.2:8476 does not answer (timed out)" in text
    assert "a firewall drops what goes to port 8476 (allow tcp:8476 between the hosts)" in text


def test_a_process_that_dies_while_waiting_is_missing_again_and_can_come_back():
    address = free_address()
    with Small(address, 0, 3, report=1.0) as first, Small(address, 1, 3) as second:
        while "there: 0 on" not in (line := first.read_error_line()) or "1 on" not in line:
            assert "missing" in line
        second.kill()
        while "process 1, 2 of 3 missing" not in first.read_error_line():
            pass
        with Small(address, 1, 3) as again, Small(address, 2, 3) as third:
            assert [p.finish()[0] for p in (first, again, third)] == [0, 0, 0]


def test_processes_of_different_runs_end_with_both_numbers():
    address = free_address()
    with Small(address, 0, 3) as first, Small(address, 1, 8) as other:
        for process in (first, other):
            code, _, err = process.finish()
            assert code == 2
            assert re.search(
                rf"process 1 on {HOST} was started as one of 8 processes, process 0 on {HOST} as "
                "one of 3",
                err,
            )


def test_a_number_that_comes_twice_is_refused():
    address = free_address()
    with Small(address, 0, 3) as first, Small(address, 1, 3) as second, Small(address, 1, 3) as x:
        for process in (first, second, x):
            code, _, err = process.finish()
            assert code == 2 and "two processes say that they are number 1 of 3" in err


def test_strangers_at_the_port_disturb_nobody():
    address = free_address()
    host, port = address.split(":")
    with Small(address, 0, 2) as first, _connect(host, int(port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with Small(address, 1, 2) as second:
            assert [p.finish()[0] for p in (first, second)] == [0, 0]


def test_processes_that_are_about_to_do_different_things_all_end_with_2_and_what_differs():
    """The last one to come differs: the others have not left yet, and nobody is left waiting."""
    address, same = free_address(), {"jax": "0.10.2", "config.seed": 0}
    facts = [same, same, same | {"config.seed": 1, "config.new": "x"}]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Small(address, i, 3, facts=facts[i])) for i in (1, 2, 0)]
        for process in processes:
            code, out, err = process.finish()
            assert (code, out) == (2, "")
            first, seed, new, advice = err.splitlines()
            assert first == "stopped: the 3 processes of this run differ:"
            both = f"process 0 on {HOST}, 1 on {HOST} has"
            assert re.fullmatch(rf"  config.seed: {both} 0, process 2 on {HOST} has 1", seed)
            assert re.fullmatch(rf"  config.new: {both} nothing, process 2 on .* has \"x\"", new)
            assert advice.startswith("Start the same command with the same code")


@pytest.mark.parametrize("old", [0, 1])
def test_a_process_of_a_version_that_compares_nothing_is_refused(old):
    address = free_address()
    host, port = address.split(":")
    with Small(address, 1 - old, 2) as process:
        if old:
            connection = _connect(host, int(port))
            connection.sendall(json.dumps({"process": 1, "count": 2, "host": "b"}).encode() + b"\n")
        else:
            with socket.create_server((host, int(port))) as server:
                connection = server.accept()[0]
            connection.sendall(b'{"go": true}\n')
        with connection:
            code, _, err = process.finish()
    where = "process 1 on b" if old else "process 0 on localhost"
    assert code == 2 and f"{where} runs an older version of dino_jax" in err


def _connect(host, port):
    while True:
        with contextlib.suppress(OSError):
            return socket.create_connection((host, port))
