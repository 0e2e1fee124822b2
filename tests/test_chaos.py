"""A short version of `python -m tests.chaos`: a run that is killed, torn, shrunk and grown."""

from tests.chaos import SAVE_EVERY, play


def test_a_run_that_is_torn_damaged_and_preempted_is_the_undisturbed_run(tmp_path):
    said = []
    rounds, (deviation,) = play(3, seed=61, folder=tmp_path, say=said.append)
    assert [played.kind for played in rounds] == [
        "kill -9 while saving",
        "truncate the newest",
        "SIGTERM",
    ]
    assert [played.place[:2] for played in rounds] == [(2, 2), (1, 4), (1, 1)]
    lost = [played.lost_steps for played in rounds]
    assert lost[0] <= 2 * SAVE_EVERY and lost[1] <= 3 * SAVE_EVERY and lost[2] == 0
    assert deviation.loss < 1e-5 and deviation.teacher < 2e-5, said
