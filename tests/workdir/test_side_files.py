"""Damaged side files: said, set aside, and never in the way of a resume, whichever file it is."""

import ast
import json
import logging as python_logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from absl import logging
from etils import epath

from dino_jax.evaluation.online import agreement
from dino_jax.run import writers
from dino_jax.run.best import Best
from dino_jax.run.data_record import DataRecord
from dino_jax.run.diagnosis_log import DiagnosisLog
from dino_jax.run.metrics_file import MetricsWriter, holds_numbers
from dino_jax.run.roll_back import read_guard, write_guard
from dino_jax.run.watch import BadImages
from dino_jax.workdir import layout, lock, newest
from dino_jax.workdir.config_json import read_config_json
from dino_jax.workdir.json_lines import read_json_lines

PACKAGE = Path(layout.__file__).parents[1]
STEPS = 6  # finished updates of the run that resumes
VERDICT = dict.fromkeys(("title", "evidence", "advice"), "x") | {"severity": "good"}


def lines(record: dict[str, Any]) -> bytes:
    records = ({"step": step, **record} for step in range(1, STEPS + 1))
    return "".join(json.dumps(one) + "\n" for one in records).encode()


def resume_metrics(folder: epath.Path) -> None:
    history = read_json_lines(folder / layout.METRICS_JSONL, STEPS, holds_numbers)
    best = Best()
    for record in history:
        best.add(record["step"], record)
    MetricsWriter(folder, STEPS).close()


def resume_diagnosis(folder: epath.Path) -> None:
    progress: Any = None  # silent while nothing is added
    rules: Any = {"grace_steps": 0, "total_steps": 2 * STEPS, "stop_on_collapse": False}
    DiagnosisLog(folder, STEPS, [], progress, **rules)


def resume_guard(folder: epath.Path) -> None:
    assert read_guard(folder)["reference"] == {"value": 0.5}


def resume_bad_images(folder: epath.Path) -> None:
    source: Any = None  # not asked while no image is bad
    BadImages(folder, source)


# What a sound file holds, and what reads it when a run resumes.
FILES: dict[str, tuple[bytes, Callable[[epath.Path], object]]] = {
    layout.METRICS_JSONL: (lines({"loss": 5.0, "knn10/teacher": 50.0}), resume_metrics),
    layout.DIAGNOSIS_JSONL: (lines({"state": "healthy", **VERDICT}), resume_diagnosis),
    layout.GUARD_JSON: (b'{"reference": {"value": 0.5}, "roll_backs": []}\n', resume_guard),
    layout.BAD_IMAGES_TXT: (b"a.jpg\nb.jpg\n", resume_bad_images),
    layout.WANDB_RUN_ID_TXT: (
        b"abc-123",
        lambda folder: writers._read_identity(folder / layout.WANDB_RUN_ID_TXT),
    ),
    layout.MLFLOW_RUN_ID_TXT: (
        b"0123456789abcdef",
        lambda folder: writers._read_identity(folder / layout.MLFLOW_RUN_ID_TXT),
    ),
    layout.DATA_JSON: (
        b'{"config.data": {"images": 20, "digest": "abc"}}',
        lambda folder: DataRecord(folder, ""),
    ),
    layout.NEWEST_CHECKPOINT_JSON: (
        b'{"step": 6}\n',
        lambda folder: newest._noted(folder / layout.NEWEST_CHECKPOINT_JSON),
    ),
    f"{layout.FIRST_NEIGHBOURS}/x.json": (
        b'{"teacher": [[1, 2], [0, 2], [0, 1]]}',
        lambda folder: agreement._read(folder / layout.FIRST_NEIGHBOURS / "x.json"),
    ),
}
# config.json and the lock have rules of their own, the copy of guard.json is read only instead of
# it, and the others are read by reports.
OTHERS = {layout.CONFIG_JSON, layout.LOCK_JSON, layout.GUARD_COPY_JSON, layout.PROBES_JSON}


def write(content: bytes) -> Callable[[Path, bytes], object]:
    return lambda path, sound: path.write_bytes(content)


def make_folder(path: Path, sound: bytes) -> None:
    path.mkdir()
    (path / "inside").write_bytes(sound)


DAMAGE: dict[str, Callable[[Path, bytes], object]] = {
    "not UTF-8": lambda path, sound: path.write_bytes(sound[:5] + b"\xff\xfe" + sound[5:]),
    "half of it": lambda path, sound: path.write_bytes(sound[: len(sound) // 2]),
    "empty": write(b""),
    "zeros": write(bytes(100)),
    "null": write(b"null\n"),
    "a number": write(b"3\n"),
    "a list": write(b"[]\n"),
    "no fields": write(b"{}\n"),
    "missing fields": write(b'{"step": 1}\n'),
    "texts": write(b'{"step": 1, "state": 1, "loss": "x", "knn10/teacher": "x"}\n'),
    "wrong kinds": write(b'{"reference": 3, "roll_backs": 4, "teacher": {"a": "b"}}\n'),
    "numbers that are none": write(b'{"step": 1, "loss": NaN, "state": "x"}\n'),
    "numbers beyond floats": write(b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n"),
    "digits without end": write(b'{"step": ' + b"9" * 10_000 + b"}\n"),
    "deep": write(b"[" * 100_000),
    "deep objects": write(b'{"step":' * 100_000),
    "a folder": make_folder,
    "a pipe": lambda path, sound: os.mkfifo(path),
    "a broken link": lambda path, sound: path.symlink_to("nowhere"),
    "a link to itself": lambda path, sound: path.symlink_to(path.name),
}
# JSON objects, whose options are checked by those who know them.
OBJECTS = {"no fields", "missing fields", "texts", "wrong kinds", "numbers that are none"} | {
    "numbers beyond floats",
    "digits without end",
}
EVERYWHERE = {"not UTF-8", "a folder", "a pipe", "a broken link", "a link to itself"}


@pytest.fixture
def warned(caplog):
    """The lines that were logged at level WARNING."""
    logger = logging.get_absl_logger()
    logger.addHandler(caplog.handler)
    caplog.set_level(python_logging.WARNING, logger="absl")
    yield lambda: list(dict.fromkeys(record.getMessage() for record in caplog.records))
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_side_file_is_said_set_aside_and_never_in_the_way(tmp_path, warned, name, damage):
    sound, resume = FILES[name]
    folder, path = epath.Path(tmp_path), tmp_path / name
    write_guard(folder, {"reference": {"value": 0.5}, "roll_backs": []})
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    DAMAGE[damage](path, sound)
    found = path.read_bytes() if path.is_file() else None
    resume(folder)
    aside = path.with_name(f"{path.name}.damaged")
    said = [line for line in warned() if f"{path} is damaged" in line]
    assert len(said) == os.path.lexists(aside)
    assert said or damage not in EVERYWHERE
    if said:
        assert "is damaged (" in said[0] and aside.name in said[0] and "\n" not in said[0]
        assert found is None or aside.read_bytes() == found
    resume(folder)
    assert [line for line in warned() if f"{path} is damaged" in line] == said


@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - OBJECTS))
def test_a_damaged_config_is_named_and_stays(tmp_path, damage):
    path = tmp_path / layout.CONFIG_JSON
    DAMAGE[damage](path, b'{"seed": 0, "evaluated": "teacher"}')
    with pytest.raises(ValueError, match=r"config\.json is damaged .* delete the file"):
        read_config_json(tmp_path)
    assert os.path.lexists(path)


@pytest.mark.parametrize("damage", ["a folder", "a pipe", "a broken link"])
def test_a_lock_that_is_no_file_holds_nobody_back(tmp_path, damage):
    DAMAGE[damage](tmp_path / layout.LOCK_JSON, b"")
    assert lock._read(epath.Path(tmp_path) / layout.LOCK_JSON) is None
    assert os.path.lexists(tmp_path / "lock.json.damaged")


@pytest.mark.parametrize("name", FILES)
def test_a_sound_side_file_stays_as_it_is_and_nothing_is_said(tmp_path, warned, name):
    sound, resume = FILES[name]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(sound)
    resume(epath.Path(tmp_path))
    assert (tmp_path / name).read_bytes() == sound
    assert warned() == []


def test_one_damaged_line_costs_no_other(tmp_path, warned):
    path = tmp_path / layout.METRICS_JSONL
    sound = FILES[layout.METRICS_JSONL][0].splitlines(keepends=True)
    damaged = b"".join([*sound[:2], sound[2].replace(b"5.0", b"5.O"), *sound[3:]])
    path.write_bytes(damaged)
    MetricsWriter(tmp_path, STEPS).close()
    assert path.read_bytes() == b"".join(sound[:2] + sound[3:])
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == damaged
    assert "line 3" in warned()[0] and "1 lines are left out" in warned()[0]


def test_a_flipped_digit_of_a_step_loses_no_line(tmp_path, warned):
    path = tmp_path / layout.METRICS_JSONL
    sound = FILES[layout.METRICS_JSONL][0]
    damaged = sound.replace(b'"step": 5', b'"step": 1')
    path.write_bytes(damaged)
    MetricsWriter(tmp_path, STEPS).close()
    assert path.with_name("metrics.jsonl.damaged").read_bytes() == damaged
    assert "steps do not ascend" in warned()[0]


def test_every_file_of_the_layout_is_tested_here():
    """A new side file needs a row in FILES, or a reason in OTHERS."""
    names = {
        value
        for name, value in vars(layout).items()
        if name.isupper() and str(value).endswith((".json", ".jsonl", ".txt"))
    }
    assert names <= FILES.keys() | OTHERS


# Modules with rules of their own, which stand in their docstrings; facts reads source code.
READERS = {"side_files", "json_lines", "pieces", "config_json", "checksums", "paths", "lock"} | {
    "data_record",
    "facts",
}


def test_a_run_reads_files_of_its_workdir_through_one_boundary():
    strangers = []
    for room in ("run", "workdir", "evaluation/online"):
        for path in (PACKAGE / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                reads = isinstance(node, ast.Attribute) and node.attr in ("read_text", "read_bytes")
                if reads and path.stem not in READERS:
                    strangers.append(f"{room}/{path.name}:{node.lineno}")
    assert not strangers, "use side_files.read_side_file: " + ", ".join(strangers)
