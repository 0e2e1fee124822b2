"""Facts of processes: only what differs is shown, with every value and who has it."""

import pytest

from dino_jax.processes.facts import ERROR, describe_differences, require_alike

HOSTS = dict(enumerate("abcdef"))


def test_equal_facts_are_no_news():
    facts = {0: {"size": (32, 32), "x": 1}, 1: {"size": [32, 32], "x": 1}}  # a journey as JSON
    assert describe_differences(facts, HOSTS) == ""
    require_alike(facts, HOSTS, "mend it")


def test_values_that_look_alike_are_told_apart():
    for one, other in (("1", 1), (1, True), ("", None), ({}, []), (1.0, "1.0")):
        said = describe_differences({0: {"x": one}, 1: {"x": other}}, HOSTS)
        assert said.startswith("  x: process 0 on a has "), (one, other)


def test_processes_with_one_value_are_named_together_and_not_all():
    facts = {i: {"x": int(i == 4), "same": 0} for i in range(6)}
    assert describe_differences(facts, HOSTS) == (
        "  x: process 0 on a, 1 on b, 2 on c and 2 more has 0, process 4 on e has 1"
    )


def test_the_first_differences_are_shown():
    facts = {0: {f"x{i}": 0 for i in range(25)}, 1: {}}
    with pytest.raises(ValueError, match="2 processes of this run differ") as caught:
        require_alike(facts, HOSTS, "Mend it.")
    _, *lines, more, mend = str(caught.value).splitlines()
    assert lines[0] == "  x0: process 0 on a has 0, process 1 on b has nothing"
    assert (len(lines), more, mend) == (10, "  … and 15 more", "Mend it.")


def test_a_process_that_cannot_start_ends_all_with_its_reason():
    facts = [{"seed": 0}, {ERROR: "no file my.py"}, {ERROR: "no file my.py"}, {ERROR: "no TPU"}]
    with pytest.raises(ValueError) as caught:
        require_alike(dict(enumerate(facts)), dict(enumerate("abcd")), "the same")
    assert str(caught.value).splitlines() == [
        "process 1 on b, 2 on c cannot start: no file my.py",
        "process 3 on d cannot start: no TPU",
    ]
