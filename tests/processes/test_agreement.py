"""Agreements on a step, without connections."""

import threading

from dino_jax.processes.agreement import Alone, Proposals, Votes


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
