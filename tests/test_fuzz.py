"""Every reader of foreign bytes gives a value or its own error: the short form of tests.fuzz."""

import pytest

from tests.fuzz import readers
from tests.fuzz.__main__ import describe, divide, run
from tests.fuzz.readers import READERS
from tests.fuzz.worker import make_input

INPUTS = 400


def test_damaged_inputs_give_a_value_or_the_documented_error():
    totals = run(divide(INPUTS, 2024, list(READERS)), None)
    print(describe(totals))
    assert totals.keys() == READERS.keys()
    assert not any(total["failure"] for total in totals.values()), describe(totals)
    for outcome in ("value", "error"):  # it has damaged something, and not everything
        assert sum(total[outcome] for total in totals.values()) > INPUTS / 10


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_damaged_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "mutate", lambda data, others, rng: data)
    monkeypatch.setattr(readers, "SPECIAL_SHARE", 0)
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        make_input(name, 0, number, folder)
        READERS[name].read(folder)
