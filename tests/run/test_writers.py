"""Copies of the metrics: TensorBoard events, Weights & Biases and MLflow, offline."""

import importlib.util
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dino_jax.run import writers
from dino_jax.run.metrics_file import MetricsWriter
from dino_jax.run.writers import check_writers, open_writers

CONFIG = {"seed": 0, "optimizer": {"lr": 0.5}}


def open_metrics(workdir: Path, start: int, names=("tensorboard",)) -> MetricsWriter:
    return MetricsWriter(workdir, start, open_writers(names, workdir, start, CONFIG))


def write_run(workdir: Path, start: int, stop: int, names=("tensorboard",)) -> None:
    with open_metrics(workdir, start, names) as writer:
        for step in range(start + 1, stop + 1):
            writer.write(step, {"loss": step / 2, "norm/heads_dino/grad": 1.0})


def read_records(workdir: Path) -> list[bytes]:
    """The payloads of every TFRecord (length, crc of it, payload, crc) of the event files."""
    records = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            records.append(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
        assert at == len(data), "a torn record"
    return records


def test_tensorboard_events_hold_every_metric_and_value(tmp_path):
    with open_metrics(tmp_path, 0) as writer:
        writer.write(7, {"loss": 1.25, "train/lr": 0.5})
        writer.write(8, {"loss": float("nan")})
        writer.write(9, {"loss": 2.5})
    records = read_records(tmp_path)
    assert any(b"brain.Event:2" in record for record in records)
    # protobuf: field 2 of Summary.Value is simple_value, wire type 5 (tag 0x15), little-endian.
    for name, step, value in [(b"loss", 7, 1.25), (b"train/lr", 7, 0.5), (b"loss", 9, 2.5)]:
        (record,) = [r for r in records if name in r and r[10] == step]
        assert b"\x15" + struct.pack("<f", value) in record
    assert not any(b"loss" in record and record[10] == 8 for record in records)


def starts_at(step: int, record: bytes) -> bool:
    """Whether an event is session_log (field 7), status START (1), at `step` (field 2)."""
    return record[9:] == (bytes([0x10, step]) if step else b"") + b"\x3a\x02\x08\x01"


def test_resuming_hides_the_later_events_of_the_first_run(tmp_path):
    write_run(tmp_path, 0, 5)
    assert not any(starts_at(4, record) for record in read_records(tmp_path))
    write_run(tmp_path, 3, 6)
    assert any(starts_at(4, record) for record in read_records(tmp_path))


def test_a_restart_in_the_same_second_keeps_the_events_of_the_first_run(tmp_path):
    write_run(tmp_path, 0, 3)
    write_run(tmp_path, 3, 5)
    # An Event begins with wall_time (a tag and 8 bytes), then the step (0x10 and a varint).
    steps = [record[10] for record in read_records(tmp_path) if b"loss" in record]
    assert steps == [1, 2, 3, 4, 5]


def test_a_run_that_begins_again_hides_all_earlier_events(tmp_path):
    write_run(tmp_path, 0, 3)
    write_run(tmp_path, 0, 2)
    assert any(starts_at(0, record) for record in read_records(tmp_path))


def read_wandb(path: Path) -> Iterator[bytes]:
    """The records of an offline run: LevelDB's log format after 7 bytes of header."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left_in_block = 2**15 - at % 2**15
        if left_in_block < 7:  # no room for the header of a part: padding
            at += left_in_block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_keeps_one_run_over_restarts(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write_run(tmp_path, 0, 2, names=("wandb",))
    time.sleep(1.1)  # wandb names the folder of a start by its second
    write_run(tmp_path, 2, 3, names=("wandb",))
    rows, runs = [], set()
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime):
        for data in read_wandb(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            runs |= {record.run.run_id} - {""}
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            rows += [items] if items else []
    assert runs == {(tmp_path / "wandb_run_id.txt").read_text()}
    assert [(int(row["step"]), float(row["loss"])) for row in rows] == [(1, 0.5), (2, 1), (3, 1.5)]
    assert float(rows[0]["norm/heads_dino/grad"]) == 1.0


def test_mlflow_keeps_one_run_over_restarts(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    write_run(tmp_path, 0, 2, names=("mlflow",))
    write_run(tmp_path, 2, 3, names=("mlflow",))
    client = tracking.MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("dino_jax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (tmp_path / "mlflow_run_id.txt").read_text()
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "optimizer.lr": "0.5"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    (point, *_) = client.get_metric_history(run.info.run_id, "norm/heads_dino/grad")
    assert point.value == 1.0


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_writer_that_is_not_installed_says_how_to_install_it(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf'pip install "dino_jax\[{name}\]"'):
        check_writers(("tensorboard", name))
    check_writers(("tensorboard",))


def test_an_unknown_writer_is_an_error():
    with pytest.raises(ValueError, match=r"unknown runtime.writers \['disk'\]; known: \['mlflow"):
        check_writers(("disk",))


class Broken:
    """A service that is gone."""

    def __init__(self, *_):
        pass

    def write(self, step, metrics):
        raise ConnectionError("gone")

    def close(self):
        raise ConnectionError("gone")


def test_a_copy_that_fails_does_not_stop_the_run(tmp_path):
    with MetricsWriter(tmp_path, 0, [Broken()]) as writer:
        writer.write(1, {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'


def test_a_writer_that_does_not_start_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise ConnectionError("no key")

    monkeypatch.setitem(writers.WRITERS, "wandb", refuse)
    with pytest.raises(ValueError, match=r"runtime.writers: 'wandb' did not start: no key"):
        open_writers(("wandb",), tmp_path, 0, CONFIG)


def test_other_processes_open_no_writers(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert open_writers(("tensorboard",), tmp_path, 0, CONFIG) == []
    assert not list(tmp_path.iterdir())
