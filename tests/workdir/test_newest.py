"""A workdir that has had checkpoints is never taken for a new one."""

import json
from types import SimpleNamespace

import pytest

from dino_jax.workdir.newest import NewestCheckpoint, check_history, note_newest


@pytest.fixture
def workdir(tmp_path):
    """A run of 8 steps with checkpoints 4 and 8."""
    for step in (4, 8):
        (tmp_path / "checkpoints" / str(step) / "state").mkdir(parents=True)
        (tmp_path / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").touch()
    lines = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 9))
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "config.json").write_text(json.dumps({"runtime": {"save_every_steps": 4}}))
    return tmp_path


def lose(workdir, *steps):
    for step in steps:
        (workdir / "checkpoints" / str(step)).rename(workdir / f"lost{step}")


def test_a_whole_run_and_a_new_one_are_in_order(workdir, tmp_path):
    note_newest(workdir, 8)
    assert check_history(workdir) == []
    assert check_history(tmp_path / "new") == []


def test_a_run_without_its_checkpoints_is_refused_and_left_alone(workdir):
    note_newest(workdir, 8)
    lose(workdir, 4, 8)
    before = sorted(workdir.rglob("*"))
    message = r"has had a checkpoint of step 8, but there are no checkpoints in .*/checkpoints now"
    with pytest.raises(ValueError, match=message):
        check_history(workdir)
    assert sorted(workdir.rglob("*")) == before
    (workdir / "checkpoints").rmdir()
    with pytest.raises(ValueError, match=message):
        check_history(workdir)


def test_a_newest_checkpoint_that_is_missing_is_said(workdir):
    note_newest(workdir, 8)
    lose(workdir, 8)
    (line,) = check_history(workdir)
    assert line.startswith("CHECKPOINT 8 WAS SAVED BUT IS NOT THERE; continuing from 4")


def test_only_a_checkpoint_that_is_on_disk_is_noted(workdir):
    listed = [4]
    manager = SimpleNamespace(all_steps=lambda: listed, is_saving_in_progress=lambda: False)
    newest = NewestCheckpoint(workdir, manager)
    for steps, noted in (([4, 8], 8), ([4, 8, 12], 8)):  # the save of 12 has failed
        listed[:] = steps
        newest.note()
        assert json.loads((workdir / "newest_checkpoint.json").read_text()) == {"step": noted}
    lose(workdir, 4, 8)
    note_newest(workdir, 0)
    NewestCheckpoint(workdir, manager).note()
    (workdir / "data.json").write_text("{}")
    assert check_history(workdir) == []


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(workdir):
    lose(workdir, 4, 8)
    (workdir / "data.json").write_text("{}")  # of this version, which would have noted them
    assert check_history(workdir) == []


def test_a_run_that_was_rolled_back_to_its_start_begins_again(workdir):
    note_newest(workdir, 8)
    lose(workdir, 4, 8)
    note_newest(workdir, 0)
    (workdir / "data.json").write_text("{}")
    assert check_history(workdir) == []


def test_a_run_of_an_earlier_version_is_judged_by_its_history(workdir):
    lose(workdir, 4, 8)
    with pytest.raises(ValueError, match="a run of 8 steps, which saved every 4"):
        check_history(workdir)
    (workdir / "config.json").write_text(json.dumps({"runtime": {"save_every_steps": 9}}))
    assert check_history(workdir) == []  # it may not have saved yet
    (workdir / "config.json").unlink()
    with pytest.raises(ValueError, match=r"a run of 8 steps \(and config.json is missing, too\)"):
        check_history(workdir)


@pytest.mark.parametrize("text", ["", "[", "[]", '{"step": null}', "\xff"])
def test_a_damaged_note_counts_as_none(text, workdir):
    (workdir / "newest_checkpoint.json").write_text(text, encoding="latin-1")
    assert check_history(workdir) == []
