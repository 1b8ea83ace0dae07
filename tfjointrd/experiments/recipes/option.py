"""What a field of a recipe is, said once: its default, what it does, and the values that it may have.

Checks, the command line and the documentation of recipes follow from it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Values:
    """The values that a field may have.

    Attributes:
        kind: `int`, `float`, `str` or `bool`; of tuples, that of their elements. `object` if any value may be.
        many: Whether the value is a tuple.
        or_none: Whether it may be `None`.
        choices: The only values, if they are few.
        least: The lowest number.
        most: The highest number.
        above: What a number has to be above.
        below: What a number has to be below.
    """

    kind: type
    many: bool = False
    or_none: bool = False
    choices: Sequence | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def check(self, name: str, value: Any) -> None:
        """Checks a value.

        Raises:
            ValueError: If it may not be.
        """
        if self.choices is not None:
            if value not in self.choices:
                known = sorted(self.choices, key=str)
                raise ValueError(f"Expected `{name}` to be one of {known}. Received: {name}={value!r}.")
        elif self.many:
            if not isinstance(value, tuple) or not all(self._is_kind(element) for element in value):
                what = "names" if self.kind is str else "numbers"
                raise ValueError(f"Expected `{name}` to list {what}. Received: {name}={value!r}.")
        elif self.kind in (bool, str) and not (value is None and self.or_none):
            if not isinstance(value, self.kind):
                what = "True or False" if self.kind is bool else "text"
                raise ValueError(f"Expected `{name}` to be {what}. Received: {name}={value!r}.")
        elif self.kind in (int, float) and not (value is None and self.or_none):
            if self.kind is int and not (isinstance(value, int) and not isinstance(value, bool) and self._holds(value)):
                raise ValueError(f"Expected `{name}` to be an integer{self._range()}. Received: {name}={value!r}.")
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"Expected `{name}` to be a number{self._range()}. Received: {name}={value!r}.")
            if not self._holds(value):
                raise ValueError(f"Expected `{name}`{self._range()}. Received: {name}={value!r}.")

    def _is_kind(self, value: Any) -> bool:
        if self.kind is str:
            return isinstance(value, str)
        kinds = int if self.kind is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)

    def _holds(self, value: float) -> bool:
        return math.isfinite(value) and not (
            (self.least is not None and not value >= self.least)
            or (self.most is not None and not value <= self.most)
            or (self.above is not None and not value > self.above)
            or (self.below is not None and not value < self.below)
        )

    def _range(self) -> str:
        low = (
            f" from {self.least}"
            if self.least is not None
            else f" above {self.above}"
            if self.above is not None
            else ""
        )
        joined = "to" if self.least is not None else "and up to"
        high = f" {joined} {self.most}" if self.most is not None else ""
        if self.below is not None:
            high = f" to below {self.below}" if self.least is not None else f" and below {self.below}"
        return low + high + (", or None" if self.or_none and (low or high) else "")


def option(
    default: Any, text: str, *, command_line: bool = True, later: bool = False, kind: type | None = None, **values
):
    """A field of a recipe.

    Args:
        default: Its default.
        text: What it does, in sentences.
        command_line: Whether `python -m tfjointrd train` has an option for it.
        later: Whether cards of earlier versions lack it. What was trained before is what the default says.
        kind: As for `Values`; by default the type of the default.
        **values: Further arguments of `Values`.
    """
    many = isinstance(default, tuple)
    kind = kind or type(default)
    found = Values(kind, many=many, or_none=default is None, **values)
    metadata = {"text": text, "values": found, "command_line": command_line, "later": later}
    return dataclasses.field(default=default, metadata=metadata)


def changed(cls: Any, name: str, default: Any, **values):
    """A field of another class of recipes, with another default or other values, for a class that inherits it.

    Args:
        cls: The class that has it, a dataclass.
        name: The field's name.
        default: Its default.
        **values: Those arguments of `Values` that differ.
    """
    metadata = cls.__dataclass_fields__[name].metadata
    return dataclasses.field(
        default=default, metadata={**metadata, "values": dataclasses.replace(metadata["values"], **values)}
    )


def plain(value: Any) -> Any:
    """A field's value as `Recipe` keeps it: lists, arrays and ranges as tuples, paths as text."""
    if isinstance(value, list | range) or hasattr(value, "tolist"):
        return tuple(value.tolist() if hasattr(value, "tolist") else value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value
