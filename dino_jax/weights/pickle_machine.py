"""Reads a pickle without executing it: a machine for the few opcodes that hold data.

A pickle is a program whose instructions may call any function. This machine knows those that build
dicts, lists, tuples, numbers and strings; functions and classes are never looked up: a table of the
caller lists what a pickle may name, and everything else is refused.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

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
    machine = _Machine(known, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.run(opcode.name, argument)
        (result,) = machine.stack
    except RefusedError:
        raise
    # Other errors that a damaged pickle can cause in a stack machine.
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise RefusedError(f"its pickle is damaged: {error}") from error
    return result


class _Global:
    """A name that a pickle may call, or give to its storages as their type."""

    def __init__(self, name: str, make: Callable[..., Any]):
        self.name, self.make = name, make


class _Machine:
    """The stack, the memo, and one method for each kind of instruction."""

    def __init__(self, known: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any]):
        self.stack: list[Any] = []
        self._known, self._persistent = known, persistent
        self._memo: dict[int, Any] = {}

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
        place = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _mark(self, argument: None) -> None:
        self.stack.append(_MARK)

    def _tuple(self, argument: None) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _list(self, argument: None) -> None:
        self.stack.append(self._pop_to_mark())

    def _dict(self, argument: None) -> None:
        items = self._pop_to_mark()
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _append(self, argument: None) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _appends(self, argument: None) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _additems(self, argument: None) -> None:
        items = self._pop_to_mark()
        self._top(set).update(items)

    def _setitem(self, argument: None) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[key] = value

    def _setitems(self, argument: None) -> None:
        items = self._pop_to_mark()
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))

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

    def _name(self, module: str, name: str) -> None:
        title = f"{module}.{name}"
        if title not in self._known:
            raise RefusedError(
                f"it asks for {title}, which is refused: a pickle can run any program, so nothing "
                "but numbers, text and plain containers is read"
            )
        self.stack.append(_Global(title, self._known[title]))

    def _reduce(self, argument: None) -> None:
        arguments, function = self._pop(), self._pop()
        self._call(function, arguments)

    _newobj = _reduce

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise RefusedError("its pickle is damaged: it calls something that is not a function")
        self.stack.append(function.make(*arguments))

    def _build(self, argument: None) -> None:
        """Sets the state of an object; only a `Buildable` has a state that we need."""
        state = self._pop()
        if isinstance(self.stack[-1], Buildable):
            self.stack[-1].build(state)

    def _binpersid(self, argument: None) -> None:
        self.stack.append(self._persistent(self._pop()))
