"""Plans as a table for people and as plain values for programs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dino_jax.plan.bounds import Bounds
from dino_jax.plan.cost import BETWEEN_SLICES, Cost
from dino_jax.plan.count import Count
from dino_jax.plan.plan import Plan
from dino_jax.plan.supply import Supply
from dino_jax.plan.topology import GIB

LABEL = "lower bounds by the TPU compiler and the data sheets, not measurements"
NONE = "-"


def print_plans(plans: Sequence[Plan], supply: Supply, console: Console) -> None:
    """Prints one column per slice, then the notes."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column()
    for plan in plans:
        table.add_column(Text(plan.tpu_slice.name), justify="right", no_wrap=True)
    for name, row in _ROWS.items():
        texts = [Text(row(plan, supply)) if row else Text() for plan in plans]
        table.add_row(Text(name, style="" if row else "bold"), *texts)
    console.print(table)
    for plan in plans:
        for note in notes(plan, supply):
            console.print(Text(f"{plan.tpu_slice.name}: {note}"), soft_wrap=True)
    label = f"Times, rates and utilizations are {LABEL}: a real run is slower."
    console.print(Text(label), soft_wrap=True)


def notes(plan: Plan, supply: Supply) -> list[str]:
    """Notes that do not fit into the table."""
    return [*_memory_notes(plan), *_supply_notes(plan, supply)]


def plan_values(plan: Plan, supply: Supply) -> dict[str, Any]:
    """A plan as plain values in basic units: bytes, seconds, FLOPs; the bounds are of a step."""
    tpu_slice, program, bounds, work = plan.tpu_slice, plan.program, plan.bounds, plan.work
    runnable = plan.runnable
    cost = runnable.cost if runnable else None
    return {
        "topology": tpu_slice.name,
        "chips": tpu_slice.chips,
        "devices": len(tpu_slice.devices),
        "hosts": tpu_slice.hosts,
        "batch_size": work.batch_size,
        "fits": program.fits,
        "memory_bytes": program.memory,
        "memory_limit_bytes": tpu_slice.chip.hbm,
        "state_bytes": program.state,
        "largest_batch_per_device": plan.largest._asdict() if plan.largest else None,
        "remedy": plan.remedy[0] if plan.remedy else None,
        "remedy_memory_bytes": plan.remedy[1].memory if plan.remedy else None,
        "model_flops_per_image": work.model_flops,
        "program": dataclasses.asdict(cost) if cost else None,
        "bounds_are": LABEL,
        "bounds": dataclasses.asdict(bounds) | {"limit": bounds.limit} if bounds else None,
        "compilers_count": _count_values(plan.count),
        "input_measured_per_core": supply.per_core,
        "compile_seconds": program.seconds,
        "plan_seconds": plan.seconds,
        "notes": notes(plan, supply),
    }


def _count_values(count: Count | None) -> dict[str, Any] | None:
    if count is None:
        return None
    parts = {"xla": count.xla, "kernels": count.kernels, "step": count.step}
    return {
        "cycles": parts,
        "seconds": {name: count.seconds(cycles) for name, cycles in parts.items()},
        "missing": count.missing,
    }


def _memory_notes(plan: Plan) -> list[str]:
    program, tpu_slice = plan.program, plan.tpu_slice
    devices, lines = len(tpu_slice.devices), []
    over = (program.memory - tpu_slice.chip.hbm) / GIB
    if not program.fits:
        lines.append(f"does not fit: {over:.2f} GiB per device too much")
        if plan.remedy:
            changes, changed = plan.remedy
            flags = " ".join(f"--config.{name}={value}" for name, value in changes.items())
            lines.append(
                f"fits with {flags}: {changed.memory / GIB:.2f} GiB; the bounds are of that"
            )
        elif program.state > tpu_slice.chip.hbm:
            lines.append("neither remat nor fsdp makes it fit: use more chips or a smaller model")
        else:
            lines.append("remat and fsdp do not help: lower the batch, or raise accumulate_steps")
    if plan.largest and plan.largest.fits:
        fails = plan.largest.fails
        tried = f"{fails} do not fit" if fails else "the data set has no more"
        lines.append(
            f"{plan.largest.fits} images per device fit, {tried}: up to "
            f"--config.batch_size={plan.largest.fits * devices}"
        )
    runnable = plan.runnable
    if runnable and runnable.cost is None:
        lines.append("libtpu cannot print this program, so only its memory is known")
    if runnable and runnable.cost and runnable.cost.kernels:
        runs = runnable.cost.kernels
        lines.append(f"{runs} runs of custom kernels; in the bounds with their stated FLOPs")
    if plan.count and plan.count.missing:
        lines.append(f"the cycles of the kernels are not known: {plan.count.missing}")
    if plan.tpu_slice.count > 1:
        lines.append(
            f"{plan.tpu_slice.count} slices: the bounds leave out the network between them, whose "
            "bandwidth depends on the VMs"
        )
    if runnable and runnable.cost and runnable.cost.endless:
        lines.append(f"{runnable.cost.endless} loops of unknown length are counted once")
    return lines


def _supply_notes(plan: Plan, supply: Supply) -> list[str]:
    if not plan.bounds:
        return []
    rate, need = plan.bounds.images_per_second, plan.bounds.images_per_second_per_host
    lines = [f"check the input of a host with dino-jax doctor --config=… --need={rate:.0f}"]
    if supply.per_core is None:
        lines.append("the speed of the input was not measured for these crops")
    else:
        lines.append(
            f"at the bound a host reads {need:,.0f} images/s: {need / supply.per_core:.0f} cores "
            f"like the one that {supply.per_core} images/s were measured on"
        )
    return lines


def _of_bounds(show: Callable[[Bounds], str]) -> Callable[[Plan, Supply], str]:
    return lambda plan, _: show(plan.bounds) if plan.bounds else NONE


def _of_cost(show: Callable[[Cost], str]) -> Callable[[Plan, Supply], str]:
    def row(plan: Plan, _: Supply) -> str:
        program = plan.runnable
        return show(program.cost) if program and program.cost else NONE

    return row


def _of_count(cycles: Callable[[Count], float | None]) -> Callable[[Plan, Supply], str]:
    """Time, or cycles where the clock is not published."""

    def row(plan: Plan, _: Supply) -> str:
        found = cycles(plan.count) if plan.count else None
        if not plan.count or found is None:
            return NONE
        seconds = plan.count.seconds(found)
        return f"{found / 1e6:,.3g} M cycles" if seconds is None else _milliseconds(seconds)

    return row


def _utilization(plan: Plan, _: Supply) -> str:
    seconds = plan.count.seconds(plan.count.step) if plan.count else None
    if not plan.bounds or not seconds:
        return NONE
    return f"{100 * plan.bounds.mfu * plan.bounds.step / seconds:.0f} %"


def _collective(kind: str) -> Callable[[Plan, Supply], str]:
    def show(cost: Cost) -> str:
        found = cost.collectives.get(kind)
        return f"{found.count} x, {_prefixed(found.bytes, 'B')}" if found else "none"

    return _of_cost(show)


def _largest(plan: Plan, _: Supply) -> str:
    return str(plan.largest.fits) if plan.largest else NONE


def _cores(plan: Plan, supply: Supply) -> str:
    if not plan.bounds or supply.per_core is None:
        return NONE
    return f"{plan.bounds.images_per_second_per_host / supply.per_core:.0f}"


def _milliseconds(seconds: float | None) -> str:
    return NONE if seconds is None else f"{1e3 * seconds:,.3g} ms"


def _prefixed(value: float, unit: str) -> str:
    """Three digits and a prefix: 7.31 TFLOP."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


_ROWS: dict[str, Callable[[Plan, Supply], str] | None] = {
    "chips, hosts": lambda plan, _: f"{plan.tpu_slice.chips}, {plan.tpu_slice.hosts}",
    "images per step, per device": lambda plan, _: (
        f"{plan.work.batch_size}, {plan.work.batch_size / len(plan.tpu_slice.devices):g}"
    ),
    "memory per device": None,
    "  needed": lambda plan, _: f"{plan.program.memory / GIB:.2f} GiB",
    "  left": lambda plan, _: f"{(plan.tpu_slice.chip.hbm - plan.program.memory) / GIB:.2f} GiB",
    "  fits": lambda plan, _: "yes" if plan.program.fits else "NO",
    "  largest batch per device": _largest,
    "a step, per device": None,
    "  FLOP": _of_cost(lambda cost: _prefixed(cost.flops, "FLOP")),
    "  HBM traffic": _of_cost(lambda cost: _prefixed(cost.bytes, "B")),
    "  all-reduce": _collective("all-reduce"),
    "  all-gather": _collective("all-gather"),
    "  reduce-scatter": _collective("reduce-scatter"),
    "  all-to-all": _collective("all-to-all"),
    "  collective-permute": _collective("collective-permute"),
    "  between slices": _collective(BETWEEN_SLICES),
    "time of a step, lower bounds": None,
    "  compute": _of_bounds(lambda bounds: _milliseconds(bounds.compute)),
    "  HBM": _of_bounds(lambda bounds: _milliseconds(bounds.memory)),
    "  links": _of_bounds(lambda bounds: _milliseconds(bounds.network)),
    "  step (largest)": _of_bounds(lambda bounds: _milliseconds(bounds.step)),
    "the compiler's count, not a bound": None,
    "  XLA's operations": _of_count(lambda count: count.xla),
    "  kernels": _of_count(lambda count: count.kernels),
    "  step (both)": _of_count(lambda count: count.step),
    "  model FLOPs utilization by it": _utilization,
    "at the bound of the step, at best": None,
    "  model FLOPs utilization": _of_bounds(lambda bounds: f"{100 * bounds.mfu:.0f} %"),
    "  images/s": _of_bounds(lambda bounds: f"{bounds.images_per_second:,.0f}"),
    "  epochs/day": _of_bounds(lambda bounds: f"{bounds.epochs_per_day:,.1f}"),
    "  chip-hours of the run": _of_bounds(lambda bounds: f"{bounds.chip_hours:,.1f}"),
    "  input: images/s per host": _of_bounds(
        lambda bounds: f"{bounds.images_per_second_per_host:,.0f}"
    ),
    "  input: measured cores per host": _cores,
    "planned in": lambda plan, _: f"{plan.seconds:.0f} s",
}
