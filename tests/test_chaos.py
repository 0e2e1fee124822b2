"""A short version of `python -m tests.chaos`: a run that is killed, torn, shrunk and grown."""

from tests.chaos.faults import SAVE_EVERY
from tests.chaos.play import play

# Steps that may be lost: the newest checkpoint may be torn or damaged, and newer steps unsaved.
MOST_LOST = {
    "kill -9 while saving": 2 * SAVE_EVERY,
    "flip a bit": 3 * SAVE_EVERY,
    "no room": 2 * SAVE_EVERY,
}


def test_a_run_that_is_torn_damaged_and_preempted_is_the_undisturbed_run(tmp_path):
    said = []
    rounds, (deviation,) = play(3, 61, tmp_path, said.append, list(MOST_LOST))
    assert {played.kind for played in rounds} == MOST_LOST.keys()
    assert [played.place[:2] for played in rounds] == [(2, 2), (1, 4), (1, 1)]
    assert all(played.lost_steps <= MOST_LOST[played.kind] for played in rounds), said
    assert deviation.loss < 1e-5 and deviation.teacher < 2e-5, said
