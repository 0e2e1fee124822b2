"""The directory of a run and its config.json, which refuses another config."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict, FrozenConfigDict

from dino_jax.foreign.json_text import read_json
from dino_jax.workdir.dotted_names import flatten
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import absolute_path, make_writable, write_atomically
from dino_jax.workdir.side_files import require_regular

# Sections that say how a run is carried out and shown, not what it computes: they may change.
MAX_CONFIG_BYTES = 1 << 24
CHANGEABLE = frozenset({"runtime", "profile", "probes"})
_NOTHING = object()  # stands for an entry that one of two configs lacks


def open_workdir(
    workdir: epath.PathLike,
    config: ConfigDict | Mapping[str, Any],
    in_todays_form: Callable[[dict[str, Any]], dict[str, Any]] = lambda existing: existing,
) -> epath.Path:
    """Creates `workdir` with its config.json, or checks that it belongs to the same config.

    Process 0 writes; all processes check. Sections of CHANGEABLE may differ from those of the
    workdir and then replace them.

    Args:
      workdir: Local path or gs://.
      config: The full config of this run.
      in_todays_form: Makes the config.json of an earlier version comparable.

    Returns:
      The directory; absolute if local.

    Raises:
      ValueError: if config.json differs (lists every difference) or is not JSON, or if `config`
        holds something that JSON cannot.
      OSError: if `workdir` cannot be created or written, or is a file.
    """
    text = config_to_json(config)
    path = absolute_path(workdir)
    if jax.process_index() == 0:
        make_writable(path)
    existing = check_same_config(path, config, in_todays_form)
    if jax.process_index() == 0 and existing != json.loads(text):
        write_atomically(path / CONFIG_JSON, text)
    return path


def check_same_config(
    workdir: epath.PathLike,
    config: ConfigDict | Mapping[str, Any],
    in_todays_form: Callable[[dict[str, Any]], dict[str, Any]] = lambda existing: existing,
) -> dict[str, Any] | None:
    """Checks that a workdir, if it has a config.json, belongs to a config, see `open_workdir`.

    Returns:
      What the file holds; None if there is none.

    Raises:
      ValueError: as `open_workdir`.
    """
    existing = read_config_json(workdir)
    if existing is not None:
        theirs, ours = (json.loads(config_to_json(x)) for x in (in_todays_form(existing), config))
        _require_same_config(theirs, ours, absolute_path(workdir))
    return existing


def config_to_json(config: Any) -> str:
    """The config as strict JSON, sorted and indented; the same text for equal configs.

    Tuples become lists, references their values, numpy numbers plain ones, paths strings, and
    non-finite numbers the strings "inf", "-inf" and "nan".

    Raises:
      ValueError: names the entry that is something else (a function, a dtype, a set, an unset
        placeholder).
    """
    return json.dumps(_plain(config, "config"), indent=2, sort_keys=True, allow_nan=False) + "\n"


def describe_overrides(default: ConfigDict, config: ConfigDict) -> list[str]:
    """One line for each value of `config` that differs from its file, sorted by name.

    Args:
      default: The config as its file makes it.
      config: The same with the overrides of the command line.

    Returns:
      Lines such as "config.optimizer.lr = 0.001 (command line; file has 0.0005)".
    """
    return [
        f"{name} = {ours} (command line; file has {theirs})"
        for name, theirs, ours in _differences(_plain(default, "config"), _plain(config, "config"))
    ]


def read_config_json(workdir: epath.PathLike) -> dict[str, Any] | None:
    """The config.json of a workdir, or None if it has none.

    Raises:
      ValueError: if it is damaged.
    """
    path = absolute_path(workdir) / CONFIG_JSON
    try:
        require_regular(path)
        existing = read_json(path, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(existing, dict):
        raise _damaged(path, f"expected an object, got {type(existing).__name__}")
    return existing


def _damaged(path: epath.Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged ({reason}), so it is unknown which config made this "
        "workdir. If it is the config of this command, delete the file and run again; otherwise "
        "use another --workdir."
    )


def _require_same_config(existing: dict[str, Any], ours: dict[str, Any], path: epath.Path) -> None:
    differences = _differences(
        {key: value for key, value in existing.items() if key not in CHANGEABLE},
        {key: value for key, value in ours.items() if key not in CHANGEABLE},
    )
    if differences:
        lines = [
            f"  {name}: workdir has {theirs}, this run has {x}" for name, theirs, x in differences
        ]
        raise ValueError(
            f"workdir {path} was made with another config:\n"
            + "\n".join(lines)
            + "\nUse a new --workdir for this "
            "config, or give the values of the workdir to resume it."
            + _go_on_hint({name for name, _, _ in differences}, path)
        )


def _go_on_hint(differing: set[str], path: epath.Path) -> str:
    """How to train further than a run was meant to, if that is what differs; else ""."""
    if not differing <= {"config.epochs", "config.steps_per_epoch"}:
        return ""
    return (
        " The length is part of the schedules, so a longer run is another one: to train on from "
        f"its weights, a new --workdir with --config.init_from.path={path}."
    )


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(dotted name, their value, our value) for each entry in which two plain configs differ."""
    left, right = flatten(theirs, "config"), flatten(ours, "config")
    return [
        (name, _show(left.get(name, _NOTHING)), _show(right.get(name, _NOTHING)))
        for name in sorted(left.keys() | right.keys())
        if not _same(left.get(name, _NOTHING), right.get(name, _NOTHING))
    ]


def _same(left: Any, right: Any) -> bool:
    """Equality in which 1 is 1.0 but True is not 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _show(value: Any) -> str:
    return "nothing" if value is _NOTHING else repr(value)


def _plain(value: Any, name: str) -> Any:
    """`value` as dicts, lists, strings, numbers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, ConfigDict | FrozenConfigDict | Mapping):
        return {str(key): _plain(x, f"{name}.{key}") for key, x in _items(value, name)}
    if isinstance(value, list | tuple):
        return [_plain(x, f"{name}[{i}]") for i, x in enumerate(value)]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), name)
    if isinstance(value, np.generic):
        return _plain(value.item(), name)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(
        f"{name} is {value!r}, a {type(value).__name__}, which config.json cannot hold; use "
        "numbers, strings, booleans, None, tuples or sections (a dtype as its name, 'bfloat16')"
    )


def _items(section: Any, name: str) -> Any:
    try:
        return list(section.items())
    except Exception as error:  # ml_collections raises RequiredValueError for an unset placeholder
        raise ValueError(f"{name} has a value that is not set: {error}") from error
