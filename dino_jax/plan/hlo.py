"""Reads the text of a compiled HLO module into computations of instructions."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")


@dataclass(frozen=True)
class Array:
    """One array of a result.

    Attributes:
      dtype: such as "bf16".
      shape: shape on one device.
      space: memory space; 0 is HBM, others are on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> float:
        if self.dtype == "token":
            return 0
        digits = re.match(r"[a-z]+(\d+)", self.dtype)
        bits = BITS.get(self.dtype) or int(digits[1] if digits else 0)
        return math.prod(self.shape) * bits / 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without %.
      opcode: such as "fusion".
      result: type as text.
      arguments: text between the parentheses.
      attributes: text after them.
      is_root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    result: str
    arguments: str
    attributes: str
    is_root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result, in order."""
        return parse_arrays(self.result)

    @cached_property
    def operands(self) -> tuple[str, ...]:
        return tuple(re.findall(r"%([\w.\-]+)", self.arguments))

    def attribute(self, name: str) -> str | None:
        """Value of `name=…`: up to the next comma, or everything that its braces enclose."""
        match = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if not match:
            return None
        rest = self.attributes[match.end() :]
        return _enclosed(rest) if rest.startswith("{") else re.split(r"[,\s]", rest, maxsplit=1)[0]

    def called(self, attribute: str) -> list[str]:
        """Names of the computations in an attribute."""
        return re.findall(r"%([\w.\-]+)", self.attribute(attribute) or "")


class Computation(dict[str, Instruction]):
    """Instructions by name, in order."""

    @property
    def root(self) -> Instruction:
        return next(instruction for instruction in self.values() if instruction.is_root)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that use the result of an instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self}
        for instruction in self.values():
            for name in dict.fromkeys(instruction.operands):
                if name in users:
                    users[name].append(instruction)
        return users


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: computations by name.
      entry: name of the computation that is run.
    """

    computations: dict[str, Computation]
    entry: str


def parse_module(text: str) -> Module:
    """Reads `compiled.as_text()`.

    Raises:
      ValueError: if there is no entry computation in it.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header and not line.startswith("HloModule"):
            current = computations[header[2]] = Computation()
            entry = header[2] if header[1] else entry
        elif line.startswith("  ") and (instruction := parse_instruction(line)):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("this is not the text of an HLO module: it has no ENTRY computation")
    return Module(computations, entry)


def parse_instruction(line: str) -> Instruction | None:
    """Reads one line such as `ROOT %x = f32[2]{0} add(%a, %b), metadata={}`; None for others."""
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not match:
        return None
    rest = line[match.end() :]
    result = _enclosed(rest) if rest.startswith("(") else rest.split(" ", 1)[0]
    opcode, _, rest = rest[len(result) :].strip().partition("(")
    arguments = _enclosed("(" + rest)[1:-1]
    return Instruction(
        match[2], opcode, result, arguments, rest[len(arguments) + 1 :], match[1] is not None
    )


def parse_arrays(text: str) -> tuple[Array, ...]:
    """Reads a type such as `(f32[2,3]{1,0}, bf16[4]{0:T(512)S(1)})`."""
    return tuple(_read_arrays(text))


def _read_arrays(text: str) -> Iterator[Array]:
    for dtype, shape, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        dimensions = tuple(int(size) for size in shape.split(",") if size)
        yield Array(dtype, dimensions, int(space[1]) if space else 0)


def _enclosed(text: str) -> str:
    """The beginning of `text` up to where its first bracket closes."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "({[") - (character in ")}]")
        if depth == 0:
            return text[: position + 1]
    return text
