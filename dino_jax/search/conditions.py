"""Filters such as brand=acme and price<100, on the columns of an index."""

import operator
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dino_jax.search.metadata import Value, number_of

_FORM = re.compile(r"\s*([^=<>!]+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDERED: dict[str, Callable] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


class Condition(NamedTuple):
    """One filter: `column`, one of = != < > <= >=, and the text that it is compared with."""

    column: str
    operator: str
    text: str

    def holds(self, value: Value) -> bool:
        """Whether a value passes.

        Numbers, also as text, are compared as numbers, others as texts: dates such as 2026-11-29
        have their order. A photograph without a value passes only `column=` and `column!=TEXT`.
        """
        if value is None or value == "":
            return (self.text == "") == (self.operator == "=") and self.operator in ("=", "!=")
        mine, theirs = number_of(value), number_of(self.text)
        numbers = mine is not None and theirs is not None
        if self.operator in ("=", "!="):
            equal = mine == theirs if numbers else str(value) == self.text
            return equal == (self.operator == "=")
        compare = _ORDERED[self.operator]
        if numbers:
            return compare(mine, theirs)
        return theirs is None and mine is None and compare(str(value), self.text)


def parse_condition(text: str) -> Condition:
    """Reads "price<100".

    Raises:
      ValueError: if it is anything else.
    """
    match = _FORM.fullmatch(text)
    if not match:
        raise ValueError(
            f"--where {text!r} is no filter; write COLUMN=VALUE, or !=, <, >, <=, >= for =, in "
            "quotes: --where 'brand=acme' 'price<100'"
        )
    return Condition(*match.groups())


def holding(condition: Condition, values: Sequence[Value]) -> np.ndarray:
    """[n] uint8: 1 where a condition holds for a value."""
    different = {value: condition.holds(value) for value in set(values)}
    return np.array([different[value] for value in values], np.uint8)
