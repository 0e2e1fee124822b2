"""A start finds out whether its images, devices and checkpoint are those of all, and of the run."""

import json

import jax.numpy as jnp
import pytest

from dino_jax.data.sources import FolderSource
from dino_jax.processes.agreement import Alone
from dino_jax.run.start_checks import StartChecks
from dino_jax.run.whole_config import Config, read_config
from dino_jax.workdir.newest import note_newest


class Two(Alone):
    """This process as the first of two; the other one says the same but for `changes`."""

    def __init__(self, facts=None, error=""):
        super().__init__()
        self.hosts = {0: "here", 1: "there"}
        self._facts, self._error = facts or {}, error

    def confer(self, mine, judge):
        mine = json.loads(json.dumps(mine))
        if "facts" not in mine:
            return judge({0: mine, 1: mine})
        return judge({0: mine, 1: {"facts": mine["facts"] | self._facts, "error": self._error}})


@pytest.fixture
def images(tmp_path):
    """A folder of 20 images, which nobody reads."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.png").touch()
    return folder


def config_of(images):
    return read_config({"data": {"path": str(images)}})


def start(workdir, images, agreement=None, accept=""):
    """A whole start up to what it writes."""
    checks = StartChecks(str(workdir), accept, agreement or Alone())
    source = checks.open_images(config_of(images))
    checks.compare(config_of(images), {"config.data": source})
    workdir.mkdir(exist_ok=True)
    checks.write()
    return checks.lines


def resume(workdir):
    """Gives a workdir a checkpoint."""
    folder = workdir / "checkpoints/8"
    (folder / "state").mkdir(parents=True)
    (folder / "_CHECKPOINT_METADATA").touch()
    note_newest(workdir, 8)


def test_images_that_changed_are_an_error_that_says_how_and_how_to_go_on(tmp_path, images):
    workdir = tmp_path / "run"
    assert start(workdir, images) == start(workdir, images) == []
    resume(workdir)
    files = {path: path.read_bytes() for path in workdir.rglob("*.*") if path.is_file()}
    (images / "03.png").unlink()
    with pytest.raises(ValueError, match=r"20 images then, 19 now; 1 gone: '03\.png'\n") as caught:
        start(workdir, images)
    assert files == {path: path.read_bytes() for path in workdir.rglob("*.*") if path.is_file()}
    option, _, digest = str(caught.value).rpartition("--config.runtime.")[2].partition("=")
    assert option == "accept_data"
    (line,) = start(workdir, images, accept=digest)
    assert line.startswith("DATA CHANGED config.data: 20 images then, 19 now; 1 gone: '03.png'")
    assert start(workdir, images) == start(workdir, images, accept=digest) == []
    (images / "04.png").unlink()  # it was not a permission for ever
    with pytest.raises(ValueError, match=r"19 images then, 18 now; 1 gone: '04\.png'"):
        start(workdir, images, accept=digest)


def test_images_that_were_corrected_before_the_first_checkpoint_are_noted(tmp_path, images):
    workdir = tmp_path / "run"
    start(workdir, images)
    (images / "03.png").unlink()
    (line,) = start(workdir, images)
    assert "20 images then, 19 now; 1 gone: '03.png'; there is no checkpoint yet" in line
    assert start(workdir, images) == []
    resume(workdir)
    (images / "04.png").unlink()
    with pytest.raises(ValueError, match="19 images then, 18 now"):
        start(workdir, images)


def test_a_run_of_an_earlier_version_notes_its_images_at_the_first_resume(tmp_path, images):
    workdir = tmp_path / "run"
    resume(workdir)
    (line,) = start(workdir, images)
    assert line.startswith("data        config.data is noted now for the first time")
    assert start(workdir, images) == []


@pytest.mark.parametrize("text", ["", "[]", '{"config.data": {"images": 20}}', "\xff", "[" * 9999])
def test_a_damaged_record_is_said_and_written_again(text, tmp_path, images):
    workdir = tmp_path / "run"
    start(workdir, images)
    resume(workdir)
    (workdir / "data.json").write_text(text, encoding="latin-1")
    (noted,) = start(workdir, images)
    assert "noted now" in noted
    assert (workdir / "data.json.damaged").read_text(encoding="latin-1") == text
    assert start(workdir, images) == []


def test_without_its_names_a_change_is_told_by_its_count(tmp_path, images):
    workdir = tmp_path / "run"
    start(workdir, images)
    resume(workdir)
    (images / "03.png").unlink()
    (names,) = (workdir / "data_names").iterdir()
    for damaged in (b"x", names.read_bytes()[:-9], names.read_bytes()[:10] + b"x" * 30):
        names.write_bytes(damaged)
        with pytest.raises(ValueError, match="20 images then, 19 now\n"):
            start(workdir, images)
    names.unlink()
    with pytest.raises(ValueError, match="20 images then, 19 now\n"):
        start(workdir, images)


def test_images_of_evaluations_are_known_as_well(tmp_path, images):
    def check(accept):
        checks = StartChecks(str(tmp_path / "run"), accept, Alone())
        source = checks.open_images(config_of(images))
        other = {"config.evaluations.knn.test": FolderSource(test)}
        checks.compare(Config(), {"config.data": source} | other)
        checks.write()

    test = tmp_path / "test"
    test.mkdir()
    (test / "a.png").touch()
    (tmp_path / "run").mkdir()
    check("")
    resume(tmp_path / "run")
    (test / "b.png").touch()
    (images / "00.png").unlink()
    with pytest.raises(ValueError, match=r"config.data: 20 images then") as caught:
        check("")
    accept = str(caught.value).rpartition("=")[2]
    with pytest.raises(ValueError, match=r"config.evaluations.knn.test: 1 images then") as caught:
        check(accept)
    assert f"={accept}+" in str(caught.value)
    check(str(caught.value).rpartition("=")[2])
    check("")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"images of config.data": 19}, "images of config.data: process 0 on here has 20, process"),
        ({"names of the images of config.data (digest)": "x"}, 'process 1 on there has "x"'),
        ({"devices": 9}, "devices: process 0 on here has 4, process 1 on there has 9"),
    ],
)
def test_processes_with_other_images_or_devices_are_refused(facts, said, tmp_path, images):
    with pytest.raises(ValueError, match="2 processes of this run differ") as caught:
        start(tmp_path / "run", images, Two(facts))
    assert said in str(caught.value) and "the same images in the same order" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("facts", [{"newest checkpoint": 4}, {"config.roles.teacher.step": 3}])
def test_processes_that_found_other_things_in_files_are_refused(facts, tmp_path, images):
    with pytest.raises(ValueError, match=f"{next(iter(facts))}: process 0 on here has"):
        start(tmp_path / "run", images, Two(facts))


def test_what_one_process_cannot_open_all_hear(tmp_path, images):
    with pytest.raises(ValueError, match="process 1 on there: no such folder"):
        start(tmp_path / "run", images, Two(error="no such folder"))
    with pytest.raises(ValueError, match=r"^config.data: image folder .* does not exist"):
        start(tmp_path / "run", tmp_path / "none")


def test_weights_that_processes_read_differently_are_refused(tmp_path):
    class Other(Two):
        def confer(self, mine, judge):
            return judge({0: mine, 1: mine | {"weights teacher/a/x": 1}})

    networks = {"teacher": {"a": {"x": jnp.ones(3), "y": jnp.ones(2)}}}
    StartChecks(str(tmp_path), "", Two()).compare_weights({})
    with pytest.raises(ValueError, match="weights teacher/a/x: process 0 on here has") as caught:
        StartChecks(str(tmp_path), "", Other()).compare_weights(networks)
    assert "a/y" not in str(caught.value) and "config.init_from.path" in str(caught.value)


def test_a_run_whose_checkpoints_are_gone_is_refused(tmp_path, images):
    start(tmp_path / "run", images)
    note_newest(tmp_path / "run", 8)
    with pytest.raises(ValueError, match="has had a checkpoint of step 8"):
        start(tmp_path / "run", images)
