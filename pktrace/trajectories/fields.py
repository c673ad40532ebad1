"""The fields of many rows as columns, each copied out of the rows on first use.

Rows are wide, and comparisons need few of their fields. Picking one field of some rows from its column takes a
hundredth of the time of a copy of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pktrace.decode.rows import Fielded

Array = np.ndarray[Any, Any]
_LATELY = 3  # arrays of row numbers whose results are kept
_MOST = 8  # if less than one row in so many is asked for, its field is read from the rows


class Fields:
    """All rows of a run; `rows` is the original array."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        self._columns: dict[str, Array] = {}
        self._lately: list[Picked] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str, /) -> Array:
        if name not in self._columns:
            self._columns[name] = np.ascontiguousarray(self.rows[name])
        return self._columns[name]

    def at(self, which: Array) -> Picked:
        """Some of the rows, by number."""
        return Picked(self, which)

    def kept(self, which: Array) -> Picked:
        """As `at`, with the results kept from an earlier call, if this very array was asked for lately."""
        found = next((picked for picked in self._lately if picked.which is which), None) or Picked(self, which)
        self._lately = [found, *(picked for picked in self._lately if picked is not found)][:_LATELY]
        return found

    def picked(self, name: str, which: Array) -> Array:
        """A field of some rows, by number."""
        column = self[name] if name in self._columns or len(which) * _MOST >= len(self) else self.rows[name]
        found: Array = column[which]
        return found

    def forget(self, *names: str) -> None:
        """Drop the columns of fields that were changed in the rows."""
        self._lately = []
        for name in names:
            self._columns.pop(name, None)


class Picked:
    """Some rows of `Fields`."""

    def __init__(self, fields: Fields, which: Array, other: dict[str, Array] | None = None) -> None:
        """Row numbers, and replacements for some fields."""
        self._fields, self.which, self._other = fields, which, other or {}
        self._made: dict[Callable[[Fielded], Array], Array] = {}

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, name: str, /) -> Array:
        return self._other[name] if name in self._other else self._fields.picked(name, self.which)

    def once(self, of: Callable[[Fielded], Array]) -> Array:
        """The result of a function of these rows, computed once; it must not be changed."""
        if of not in self._made:
            self._made[of] = of(self)
        return self._made[of]

    def at(self, which: Array) -> Picked:
        """A part of these rows."""
        return Picked(self._fields, self.which[which], {name: column[which] for name, column in self._other.items()})

    def but(self, **other: Array) -> Picked:
        """The same with some fields replaced."""
        return Picked(self._fields, self.which, other)


def made_once(rows: Fielded, of: Callable[[Fielded], Array]) -> Array:
    """The result of a function of some rows; picked rows keep it."""
    return rows.once(of) if isinstance(rows, Picked) else of(rows)
