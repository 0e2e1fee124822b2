"""Cost of a compiled program on one device: FLOPs, memory traffic, collectives, cycles.

XLA's own `cost_analysis` counts the body of a loop once; here it counts as often as it runs.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from dino_jax.plan.contractions import contraction_flops
from dino_jax.plan.hlo import Array, Computation, Instruction, Module

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
# Neither read nor write memory: they name, or belong to an instruction that is counted.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "call"),
    *("partition-id", "replica-id", "while", "conditional", "opt-barrier", "async-start"),
}
# Of what crosses to another slice, which has bytes of its own.
_FREE |= {"send", "send-done", "recv", "recv-done"}
_FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast")
BETWEEN_SLICES = "between-slices"  # by the network of the data center, through the hosts
_SLICES = ("dynamic-slice", "slice", "gather")
_KERNEL_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication of one kind.

    Attributes:
      count: number of runs.
      bytes: bytes of the whole arrays that are reduced, gathered, scattered or sent.
      sent: least bytes that a device sends.
    """

    count: int = 0
    bytes: float = 0
    sent: float = 0

    def __add__(self, other: "Collective") -> "Collective":
        return Collective(
            self.count + other.count, self.bytes + other.bytes, self.sent + other.sent
        )

    def __mul__(self, times: int) -> "Collective":
        return Collective(self.count * times, self.bytes * times, self.sent * times)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Work of a part of a program on one device.

    Attributes:
      flops: FLOPs of products and convolutions, two per multiplication and addition.
      bytes: bytes read from and written to HBM.
      cycles: the compiler's estimate; 0 where it makes none.
      collectives: collectives by kind.
      kernels: runs of custom kernels; their FLOPs are as they state, their cycles are unknown.
      endless: loops of unknown length, counted once.
    """

    flops: float = 0
    bytes: float = 0
    cycles: float = 0
    collectives: dict[str, Collective] = dataclasses.field(default_factory=dict)
    kernels: int = 0
    endless: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        kinds = self.collectives.keys() | other.collectives.keys()
        none = Collective()
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.cycles + other.cycles,
            {k: self.collectives.get(k, none) + other.collectives.get(k, none) for k in kinds},
            self.kernels + other.kernels,
            self.endless + other.endless,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(
            self.flops * times,
            self.bytes * times,
            self.cycles * times,
            {kind: collective * times for kind, collective in self.collectives.items()},
            self.kernels * times,
            self.endless,
        )


def module_cost(module: Module, devices: int) -> Cost:
    """Cost of one run of a program on each of its devices.

    Of a conditional, the branch with the least memory traffic counts: a lower bound.

    Args:
      module: the compiled program.
      devices: number of devices that it runs on.
    """
    memo: dict[str, Cost] = {}

    def visit(name: str) -> Cost:
        if name not in memo:
            memo[name] = Cost()
            for instruction in module.computations[name].values():
                memo[name] += cost(instruction, module.computations[name])
        return memo[name]

    def cost(instruction: Instruction, computation: Computation) -> Cost:
        opcode = instruction.opcode
        if opcode == "while":
            trips = trip_count(instruction, module)
            body = visit(instruction.called("body")[0])
            return body * trips if trips is not None else body + Cost(endless=1)
        if opcode == "conditional":
            return min(map(visit, branches(instruction)), key=lambda branch: branch.bytes)
        if opcode == "call":
            return visit(instruction.called("to_apply")[0])
        if opcode == "async-start":
            return visit(instruction.called("calls")[0])
        own = own_cost(instruction, computation, devices)
        if opcode != "fusion":
            return own
        inner = module.computations[instruction.called("calls")[0]]
        inside = visit(instruction.called("calls")[0])
        return dataclasses.replace(
            inside,
            bytes=fusion_bytes(instruction, computation, inner),
            cycles=own.cycles,
            collectives={} if carries_on(instruction) else scattered(instruction, inside),
        )

    return visit(module.entry)


def trip_count(loop: Instruction, module: Module) -> int | None:
    """How often the body of a while loop runs; None if that is not written down.

    Either the compiler says so, or the condition is `counter < constant` of a scan, which counts
    from 0 in steps of 1.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.called("condition")[0]]
    root = condition.root
    if root.opcode != "compare" or root.attribute("direction") != "LT":
        return None
    limit = condition[root.operands[1]]
    return int(limit.arguments) if limit.opcode == "constant" else None


def carries_on(fusion: Instruction) -> bool:
    """Whether a fusion holds a collective that an async-collective-start fusion has begun."""
    called = fusion.called("calls")[0]
    return called.startswith("async_collective_fusion") or fusion.name.startswith(
        "async-collective-done"
    )


def scattered(fusion: Instruction, inside: Cost) -> dict[str, Collective]:
    """The collectives of a fusion; TPUs write a reduce-scatter as an all-reduce and a slice."""
    if not fusion.called("calls")[0].startswith("all-reduce-scatter"):
        return inside.collectives
    whole = inside.collectives["all-reduce"]
    return {"reduce-scatter": dataclasses.replace(whole, sent=whole.sent / 2)}


def branches(conditional: Instruction) -> list[str]:
    """The branches of a conditional, of which it runs one."""
    names = conditional.called("branch_computations")
    either = ("true_computation", "false_computation")
    return names or [name for attribute in either for name in conditional.called(attribute)]


def own_cost(instruction: Instruction, computation: Computation, devices: int) -> Cost:
    """Cost of an instruction without what it calls."""
    cycles = _CYCLES.search(instruction.attributes)
    kind = instruction.opcode.removesuffix("-start")
    collectives = {}
    if kind in COLLECTIVES:
        collectives = {kind: collective_cost(kind, instruction, computation, devices)}
    if kind == "send" and "xla_megascale_runtime" in instruction.attributes:
        bytes_sent = next(iter(operand_arrays(instruction, computation))).bytes
        collectives = {BETWEEN_SLICES: Collective(1, bytes_sent, bytes_sent)}
    kernel = instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.attributes
    stated = _KERNEL_FLOPS.search(instruction.attributes) if kernel else None
    return Cost(
        flops=int(stated[1]) if stated else contraction_flops(instruction, computation),
        bytes=moved_bytes(instruction, computation),
        cycles=int(cycles[1]) if cycles else 0,
        collectives=collectives,
        kernels=int(kernel),
    )


def collective_cost(
    kind: str, instruction: Instruction, computation: Computation, devices: int
) -> Collective:
    """Data that a collective moves; a device sends at least `sent` of it, by any algorithm."""
    members = group_size(instruction, devices)
    whole = sum(array.bytes for array in operand_arrays(instruction, computation))
    if kind == "all-gather":
        whole *= members
    share = (members - 1) / members
    if kind == "collective-permute":
        share = 1
    passes = 2 if kind == "all-reduce" else 1
    return Collective(1, whole, passes * share * whole)


def group_size(instruction: Instruction, devices: int) -> int:
    """Devices that take part in one instance of a collective.

    replica_groups is {{0,1},{2,3}}, [groups,members]<=[…], mesh['a'=4,'b'=2] {'b'}, or empty for
    all devices.
    """
    text = instruction.attributes.partition("replica_groups=")[2]
    if groups := re.match(r"\[(\d+),(\d+)\]<=", text):
        return int(groups[2])
    if listed := re.match(r"\{\{([\d,]*)\}", text):
        return len(listed[1].split(","))
    if mesh := re.match(r"mesh\[([^\]]*)\] *\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def operand_arrays(instruction: Instruction, computation: Computation) -> Iterator[Array]:
    for name in instruction.operands:
        if name in computation:
            yield from computation[name].arrays


def moved_bytes(instruction: Instruction, computation: Computation) -> float:
    """HBM traffic of an instruction that is not a fusion."""
    opcode = instruction.opcode
    target = instruction.attribute("custom_call_target") or ""
    if opcode in _FREE or opcode.endswith("-done") or target.strip('"') in _FREE_TARGETS:
        return 0
    operands = list(operand_arrays(instruction, computation))
    if opcode == "copy-start":  # its result names source and destination
        return hbm_bytes(instruction.arrays[:2])
    if opcode in _SLICES or opcode == "slice-start":
        taken = instruction.arrays[1] if opcode == "slice-start" else instruction.arrays[0]
        return taken.bytes * (in_hbm(operands[0]) + in_hbm(taken))
    if opcode == "dynamic-update-slice":
        return operands[1].bytes * (in_hbm(operands[0]) + in_hbm(operands[1]))
    if opcode.removesuffix("-start") in COLLECTIVES:  # the result of a start names its operands
        return 2 * hbm_bytes(operands)
    return hbm_bytes(operands) + hbm_bytes(instruction.arrays)


def fusion_bytes(fusion: Instruction, computation: Computation, inner: Computation) -> float:
    """HBM traffic of a fusion; operands that it only slices count by their slices."""
    total = 0.0
    for instruction in inner.values():
        if instruction.opcode == "parameter":
            operand = computation[fusion.operands[int(instruction.arguments)]]
            read = sum(array.bytes for array in operand.arrays)
            used = used_bytes(instruction, inner)
            total += min(read, used) * any(map(in_hbm, operand.arrays))
    root = inner.root
    results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    each = [result for result in results for _ in result.arrays]  # a sort, for example, has several
    for array, result in zip(fusion.arrays, each, strict=True):
        written = updated_bytes(result, inner)
        total += in_hbm(array) * (array.bytes if written is None else written)
    return total


def used_bytes(value: Instruction, inner: Computation) -> float:
    """Bytes of a value that a fusion reads, looking through bitcasts."""
    total = 0.0
    for user in inner.users[value.name]:
        if user.opcode == "bitcast":
            total += used_bytes(user, inner)
        elif user.opcode in _SLICES and user.operands[0] == value.name:
            total += sum(array.bytes for array in user.arrays)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue  # it is overwritten in place
        else:
            return math.inf
    return total


def updated_bytes(result: Instruction, inner: Computation) -> float | None:
    """Bytes of a result that a fusion writes if it updates a slice in place, else None."""
    while result.opcode == "bitcast":
        result = inner[result.operands[0]]
    if result.opcode != "dynamic-update-slice":
        return None
    return sum(array.bytes for array in inner[result.operands[1]].arrays)


def hbm_bytes(arrays) -> float:
    return sum(array.bytes for array in arrays if in_hbm(array))


def in_hbm(array: Array) -> bool:
    return array.space == 0
