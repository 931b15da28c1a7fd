"""The list of variable length that some of a problem's variables form, such as the layers of a stack.

A list is read off a point as rows, an item each, varied (`path_operators.py`), and written back.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evomerge.search.problem import Array, Problem, snapped
from search_spaces.slots import Slots

Rng = np.random.Generator


@dataclass(frozen=True)
class Lists:
    """The list of a problem's points: an array [items, columns] of values in [0, 1], canonical.

    Attributes:
        problem: one that has slots.
    """

    problem: Problem

    def read(self, point: Array) -> Array:
        """The list at `point` [variables]: [items, columns], canonical."""
        point = self.problem.canonical(point)
        return point[self.columns[: int(self.problem.lengths(point))]]

    def write(self, point: Array, rows: Array) -> Array:
        """A canonical copy of `point` [variables] with the list `rows`.

        Raises:
            ValueError: more or fewer items than the list may have.
        """
        if not self.least <= len(rows) <= self.most:
            raise ValueError(f"{len(rows)} items: a list of {self.least} to {self.most}")
        point = np.array(point, dtype=np.float64)
        if self._length is not None:
            cells = self.most - self.least + 1
            point[self._length] = (len(rows) - self.least + 0.5) / cells
        point[self.columns[: len(rows)]] = rows
        return self.problem.canonical(point)

    @property
    def least(self) -> int:
        """Fewest items."""
        slots = self._slots
        return slots.most if slots.length is None else slots.least

    @property
    def most(self) -> int:
        """Most items."""
        return self._slots.most

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Per column, its options without an order; 0: it is no choice."""
        return tuple(self.problem.levels[c] for c in self._slots.columns[0])

    @cached_property
    def cells(self) -> tuple[int, ...]:
        """Per column, its whole numbers; 0: it is none."""
        return tuple(self.problem.cells[c] for c in self._slots.columns[0])

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Per column, its options or whole numbers; 0: it is a number."""
        return tuple(self.problem.counts[c] for c in self._slots.columns[0])

    @cached_property
    def outside(self) -> NDArray[np.int64]:
        """The variables that are no part of the list, [n], n may be 0."""
        used = self.columns.ravel().tolist()
        used += [] if self._length is None else [self._length]
        return np.setdiff1d(np.arange(self.problem.variables), used)

    def fitted(self, rows: Array, generator: Rng) -> Array:
        """`rows` with as many items as the list may have.

        Too long: a segment is taken out somewhere; too short: items are repeated.
        """
        if len(rows) > self.most:
            excess = len(rows) - self.most
            first = int(generator.integers(len(rows) - excess + 1))
            return np.delete(rows, slice(first, first + excess), axis=0)
        if not len(rows) and self.least:
            rows = self.drawn(generator)[None]
        while len(rows) < self.least:
            at = int(generator.integers(len(rows)))
            rows = np.insert(rows, at, rows[at], axis=0)
        return rows

    def drawn(self, generator: Rng) -> Array:
        """An item from anywhere, [columns]."""
        return snapped(generator.random(len(self.counts)), self.counts)

    @property
    def _slots(self) -> Slots:
        assert self.problem.slots is not None
        return self.problem.slots

    @property
    def _length(self) -> int | None:
        return self._slots.length

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """The variables of each place, [places, columns]."""
        return np.array(self._slots.columns)
