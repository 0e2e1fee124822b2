"""Execution of a run, without effect on its results: `config.runtime`."""

from dataclasses import dataclass
from typing import Literal

from dino_jax.config.section import option

# What belongs to a host: processes of one start may differ in these options only.
PER_PROCESS = frozenset(
    {"workers", "threads", "compilation_cache", "join_report_seconds", "join_timeout_seconds"}
)


@dataclass(frozen=True)
class RuntimeConfig:
    """The section `config.runtime`; it may change when a workdir is resumed."""

    fsdp: int = option(1, "devices that share one copy of the state", at_least=1)
    gradient_dtype: Literal["float32", "bfloat16"] = option(
        "float32", "dtype in which devices sum gradients; bfloat16: half the traffic"
    )
    workers: int = option(
        8, "input processes per host; 0: threads of the main process", at_least=0, at_most=1000
    )
    threads: int = option(1, "read threads per worker", at_least=0, at_most=1000)
    log_every_steps: int = option(50, "steps between two log lines", at_least=1)
    save_every_steps: int = option(1000, "steps between two checkpoints", at_least=1)
    save_every_minutes: float = option(
        5.0, "since the last checkpoint; 0: by steps only", at_least=0, at_most=1e6
    )
    keep_checkpoints: int = option(2, "newest checkpoints that stay", at_least=1)
    patience: int = option(
        0, "evaluations in a row without a better network, then the run ends; 0: never", at_least=0
    )
    most_hours: float = option(
        0.0, "of all starts together, then the run ends; 0: no limit", at_least=0, at_most=1e6
    )
    stop_on_collapse: bool = option(False, "end the run when its diagnosis is a failure")
    compilation_cache: str = option(
        "auto",
        "folder of compiled programs, for faster starts; auto: the user's cache, WORKDIR/compiled "
        "for several hosts or a remote workdir; '': none",
    )
    accept_data: str = option(
        "", "go on with images that have changed: the digest that the error names"
    )
    join_report_seconds: float = option(
        60.0, "--distributed: between reports about missing processes", above=0, at_most=1e6
    )
    join_timeout_seconds: float = option(
        600.0, "--distributed: then the process ends with exit code 75", above=0, at_most=1e6
    )
    writers: tuple[str, ...] = option(
        ("tensorboard",), "beside metrics.jsonl: tensorboard, wandb, mlflow"
    )
