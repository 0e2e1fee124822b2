"""Reads a pickle without executing it: a machine for the few opcodes that hold data.

A pickle is a program whose instructions may call any function. This machine knows those that build
dicts, lists, tuples, numbers and strings; functions and classes are never looked up: a table of the
caller lists what a pickle may name, and everything else is refused.

A pickle can also be small and take for ever: a container that holds one twice, that holds one
twice … has 2^n parts for whoever hashes, prints or copies it. So instructions are counted, keys are
plain, and what is handed to functions is paid for by its size.
"""

import pickletools
from collections.abc import Callable, Mapping, Sized
from typing import Any

from dino_jax.foreign.names import one_line

_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()
MAX_INSTRUCTIONS = 2_000_000  # about four seconds; a checkpoint of 10,000 tensors has 400,000
_FREE_HANDED = 1_000_000  # entries and bytes handed to functions, besides 16 times the pickle's own
_KEYS = (str, int, float, bytes, bool, type(None))


class RefusedError(ValueError):
    """A pickle that is damaged, or asks for more than data."""


class Buildable:
    """An object that a pickle makes in two steps: a call of something known, then its state."""

    def build(self, state: Any) -> None:
        """Takes the state."""
        raise NotImplementedError


class Inert:
    """Stands for an object that is not needed; operations on it have no effect."""


def read_pickle(
    data: bytes,
    known: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any],
) -> Any:
    """Runs one pickle.

    Args:
      data: the pickle, protocol 2 to 5.
      known: maps "module.name" that the pickle may call to a replacement.
      persistent: turns a persistent id into its object.

    Raises:
      RefusedError: if it names anything that is not in `known`, has an instruction that no
        checkpoint needs, or is damaged.
    """
    machine = _Machine(known, persistent, _FREE_HANDED + 16 * len(data))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_INSTRUCTIONS:
                raise RefusedError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            machine.run(opcode.name, argument)
        (result,) = machine.stack
    except RefusedError:
        raise
    # Other errors that a damaged pickle can cause in a stack machine, MemoryError for its claims.
    except Exception as error:
        raise RefusedError(f"its pickle is damaged: {error}") from error
    return result


class _Global:
    """A name that a pickle may call, or give to its storages as their type."""

    def __init__(self, name: str, make: Callable[..., Any]):
        self.name, self.make = name, make


class _Machine:
    """The stack, the memo, and one method for each kind of instruction."""

    def __init__(
        self,
        known: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any],
        budget: int,
    ):
        self.stack: list[Any] = []
        self._known, self._persistent, self._budget = known, persistent, budget
        self._memo: dict[int, Any] = {}
        self._marks: list[int] = []  # places of the marks on the stack

    def run(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = tuple(self._pop() for _ in range(count))[::-1]
            self.stack.append(items)
        elif name not in ("PROTO", "FRAME", "STOP"):  # these three do nothing here
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise RefusedError(f"it has the pickle instruction {name}, unneeded for data")
            method(argument)

    def _pop(self) -> Any:
        item = self.stack.pop()
        if item is _MARK:
            raise RefusedError("its pickle is damaged: a mark where a value belongs")
        return item

    def _pop_to_mark(self) -> list[Any]:
        place = self._marks.pop()
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _mark(self, argument: None) -> None:
        self._marks.append(len(self.stack))
        self.stack.append(_MARK)

    def _tuple(self, argument: None) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _list(self, argument: None) -> None:
        self.stack.append(self._pop_to_mark())

    def _dict(self, argument: None) -> None:
        items = self._pop_to_mark()
        self.stack.append(dict(zip(plain_keys(items[::2]), items[1::2], strict=True)))

    def _append(self, argument: None) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _appends(self, argument: None) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _additems(self, argument: None) -> None:
        items = self._pop_to_mark()
        self._top(set).update(plain_keys(items))

    def _setitem(self, argument: None) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict).update(zip(plain_keys([key]), [value], strict=True))

    def _setitems(self, argument: None) -> None:
        items = self._pop_to_mark()
        self._top(dict).update(zip(plain_keys(items[::2]), items[1::2], strict=True))

    def _top(self, kind: type) -> Any:
        """The container on the stack; a plain one, because nothing else is ever put there."""
        if type(self.stack[-1]) is not kind:
            raise RefusedError(f"its pickle is damaged: expected a {kind.__name__}")
        return self.stack[-1]

    def _put(self, argument: int) -> None:
        self._memo[argument] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, argument: None) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _get(self, argument: int) -> None:
        self.stack.append(self._memo[argument])

    _binget = _long_binget = _get

    def _global(self, argument: str) -> None:
        self._name(*argument.split(" ", 1))

    def _stack_global(self, argument: None) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError("its pickle is damaged: it asks for something that is not a name")
        title = f"{module}.{name}"
        if title not in self._known:
            raise RefusedError(
                f"it asks for {one_line(title[:200])}, which is refused: a pickle can run any "
                "program, so nothing but numbers, text and plain containers is read"
            )
        self.stack.append(_Global(title, self._known[title]))

    def _reduce(self, argument: None) -> None:
        arguments, function = self._pop(), self._pop()
        self._call(function, arguments)

    _newobj = _reduce

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise RefusedError("its pickle is damaged: it calls something that is not a function")
        self._pay(arguments)
        self.stack.append(function.make(*arguments))

    def _build(self, argument: None) -> None:
        """Sets the state of an object; only a `Buildable` has a state that we need."""
        state = self._pop()
        if isinstance(self.stack[-1], Buildable):
            self._pay(state)
            self.stack[-1].build(state)

    def _binpersid(self, argument: None) -> None:
        identity = self._pop()
        self._pay(identity)
        self.stack.append(self._persistent(identity))

    def _pay(self, handed: Any) -> None:
        """Takes the size of a value, and of what is directly in a tuple, from the budget."""
        parts = handed if isinstance(handed, tuple) else (handed,)
        self._budget -= len(parts) + sum(len(x) for x in parts if isinstance(x, Sized))
        if self._budget < 0:
            raise RefusedError("its pickle is damaged: it handles its values again and again")


def plain_keys(keys: list[Any]) -> list[Any]:
    """The keys of a dict or set, once it is known that hashing them takes no time.

    Raises:
      RefusedError: if one is neither text nor a number.
    """
    if not all(isinstance(key, _KEYS) for key in keys):
        raise RefusedError("its pickle is damaged: a key is neither text nor a number")
    return keys
