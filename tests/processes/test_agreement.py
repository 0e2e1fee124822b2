"""Agreements on a step, without connections."""

import threading

import pytest

from dino_jax.processes.agreement import Alone, Proposals, Votes, open_alike


def test_a_single_process_agrees_at_once_and_once():
    alone = Alone()
    assert not alone.reached("save", 1)
    alone.ask("save")
    alone.ask("save")
    assert not alone.reached("stop", 2)
    assert alone.reached("save", 2)
    assert not alone.reached("save", 3)


def test_nobody_passes_an_open_proposal_and_all_meet_one_step_after_the_foremost():
    runners, votes = [Proposals(), Proposals()], Votes(2)
    assert not runners[0].reached("save", 3)
    assert not runners[1].reached("save", 7)
    number = votes.open()
    assert votes.add(number, runners[0].propose(number, "save")) is None
    agreed = votes.add(number, runners[1].propose(number, "save"))
    assert agreed == 8
    waiting = threading.Thread(target=runners[1].reached, args=("save", 8))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    runners[1].settle(number, agreed)
    waiting.join()
    runners[0].settle(number, agreed)
    assert [runners[0].reached("save", step) for step in range(4, 10)] == [
        step == 8 for step in range(4, 10)
    ]


def test_a_run_that_resumes_beyond_the_agreed_step_meets_at_its_first_one():
    proposals = Proposals()
    assert proposals.propose(1, "stop") == 0
    proposals.settle(1, 1)
    assert proposals.reached("stop", 501)
    assert not proposals.reached("stop", 502)


def test_two_proposals_at_once_are_both_reached():
    proposals = Proposals()
    proposals.reached("save", 4)
    for number, step in ((1, 6), (2, 9)):
        assert proposals.propose(number, "save") == 4
        proposals.settle(number, step)
    assert [s for s in range(5, 12) if proposals.reached("save", s)] == [6, 9]


class Two(Alone):
    """This process as the first of two; `other` makes what the second one says."""

    def __init__(self, other):
        super().__init__()
        self.hosts, self._other = {0: "here", 1: "there"}, other

    def confer(self, mine, judge):
        return judge({0: mine, 1: self._other(mine)})


def describe(opened):
    return {"images": opened}


def test_what_all_have_opened_is_judged_once_they_have_the_same():
    same = Two(lambda mine: mine)
    assert open_alike(same, lambda: 3, describe, "", lambda opened: opened + 1) == (3, 4)
    assert open_alike(Alone(), lambda: 3, describe, "") == (3, None)


def test_processes_that_have_opened_other_things_are_refused_before_anything_is_judged():
    fewer = Two(lambda mine: mine | {"facts": {"images": 2}})
    with pytest.raises(
        ValueError, match=r"images: process 0 on here has 3, process 1 .* has 2\ncopy"
    ):
        open_alike(fewer, lambda: 3, describe, "copy them", lambda opened: 1 / 0)


def test_what_one_process_cannot_open_all_are_told_and_what_none_can_is_said_once():
    def fail():
        raise FileNotFoundError("no such folder")

    with pytest.raises(ValueError, match=r"^process 1 on there: no rights$"):
        open_alike(Two(lambda mine: {"error": "no rights", "facts": {}}), lambda: 3, describe, "")
    with pytest.raises(ValueError, match=r"^process 0 on here: no such folder$"):
        open_alike(Two(lambda mine: mine | {"error": ""}), fail, describe, "")
    for agreement in (Two(lambda mine: mine), Alone()):
        with pytest.raises(ValueError, match=r"^no such folder$"):
            open_alike(agreement, fail, describe, "")
