"""What a searcher is built from: the unit cube's axes, the known points, and the size of it all."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import InputError
from search_spaces.slots import Slots
from search_spaces.space import Conditions

Array = NDArray[np.float64]


def _nothing_known() -> Array:
    return np.empty((0, 0))


@dataclass(frozen=True, eq=False)
class Problem:
    """Plain data, so that a run can be rebuilt from its run file.

    Attributes:
        variables: number of variables, at least 1; each lies in [0, 1].
        objectives: number of losses, at least 1.
        constraints: number of violations, 0 or more.
        population: candidates per generation, at least 2; None: the algorithm's default, raised to
            the number of initial points where that is greater.
        seed: of everything random in the searcher, 0 or more.
        initial: [k, variables] in [0, 1], known good starting points; k may be 0. The first asks
            are these, in this order, each once.
        levels: per variable the number of options without an order that [0, 1] is cut into equal
            cells for, 0 for a number; () if there are none.
        steady: learn from every result as it comes (True), or from whole generations (False).
        cells: per variable the number of whole numbers, in their order, that [0, 1] is cut into
            equal cells for, 0 for any other; () if there are none.
        slots: which variables form a list of variable length; None: each stands for itself.
        conditions: per variable when it counts: the place of one with levels that governs it, and the
            index of the level with which it does; None: always. () if all always do.
        origins: [k, variables] in [0, 1]: points of a space where almost every other is worthless.
            What would be drawn at random are then edits of these (`edits.py`). None: uniform points.

    Raises:
        InputError: the population is too small for a generation or for the initial points.
        ValueError: any other number or shape out of its range.
    """

    variables: int
    objectives: int
    constraints: int = 0
    population: int | None = None
    seed: int = 0
    initial: Array = field(default_factory=_nothing_known)
    levels: tuple[int, ...] = ()
    steady: bool = False
    cells: tuple[int, ...] = ()
    slots: Slots | None = None
    origins: Array = field(default_factory=_nothing_known)
    conditions: Conditions = ()

    def __post_init__(self) -> None:
        if self.variables < 1 or self.objectives < 1 or self.constraints < 0 or self.seed < 0:
            raise ValueError(
                f"Problem(variables={self.variables}, objectives={self.objectives}, constraints="
                f"{self.constraints}, seed={self.seed}): at least 1, 1, 0 and 0"
            )
        for name in ("levels", "cells"):
            object.__setattr__(self, name, _counts(name, getattr(self, name), self.variables))
        if any(a and b for a, b in zip(self.levels, self.cells, strict=True)):
            raise ValueError("a variable has levels or cells, not both")
        if self.slots is not None:
            _check_slots(self.slots, self.levels, self.cells)
        _check_conditions(self)
        for name in ("origins", "initial"):
            object.__setattr__(self, name, _known_points(name, getattr(self, name), self))
        if self.population is None:
            return
        _require_population(self.population, 2, "a generation has at least 2 candidates")
        known = len(self.initial)
        rule = f"the first generation holds the {known} known starting points"
        _require_population(self.population, known, rule)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Per variable the number of cells that [0, 1] is cut into, ordered or not; 0 for a number."""
        return tuple(a or b for a, b in zip(self.levels, self.cells, strict=True))

    @property
    def discrete(self) -> bool:
        """Whether candidates may repeat: a variable has cells, or a list has slots at rest."""
        return any(self.counts)

    def canonical(self, points: Array) -> Array:
        """A copy of `points` [..., variables] in which equal candidates are equal points.

        Variables that are cut into cells lie in the middle of one; slots beyond a list's length are
        at rest: in their first cells, numbers at 0; so are variables that do not count, or where
        there are origins, as the first of these has them.
        """
        points = snapped(points, self.counts)
        if any(self.conditions):
            points = np.where(self.counting(points), points, self._rest)
        if self.slots is None or self.slots.length is None:
            return points
        columns, rest = self._slot_columns
        idle = np.arange(len(columns)) >= self.lengths(points)[..., None]
        flat = columns.ravel()
        idle = np.repeat(idle, columns.shape[1], axis=-1)
        points[..., flat] = np.where(idle, rest[flat], points[..., flat])
        return points

    def counting(self, points: Array) -> NDArray[np.bool_]:
        """Which variables count at `points` [..., variables] as far as conditions say, same shape."""
        found = np.ones(points.shape, dtype=bool)
        if any(self.conditions):
            columns, governors, options, levels = self._governed
            found[..., columns] = _cell(points[..., governors], levels) == options
        return found

    def lengths(self, points: Array) -> NDArray[np.int64]:
        """How many slots count at each of `points` [..., variables], an array of shape [...].

        Raises:
            ValueError: the problem has no list.
        """
        if self.slots is None:
            raise ValueError("lengths(): no variables of this problem form a list")
        if self.slots.length is None:
            return np.full(points.shape[:-1], self.slots.most)
        return self.slots.least + _cell(points[..., self.slots.length], self._length_cells)

    @cached_property
    def _governed(self) -> NDArray[np.int64]:
        """Of each variable with a condition: its place, its governor's, the option, the levels."""
        said = [(v, *c, self.levels[c[0]]) for v, c in enumerate(self.conditions) if c is not None]
        return np.array(said).T

    @cached_property
    def _rest(self) -> Array:
        points = np.asarray(self.origins, dtype=np.float64)
        return snapped(points[0] if points.size else np.zeros(self.variables), self.counts)

    @cached_property
    def _length_cells(self) -> int:
        assert self.slots is not None
        assert self.slots.length is not None
        return self.cells[self.slots.length]

    @cached_property
    def _slot_columns(self) -> tuple[NDArray[np.int64], Array]:
        assert self.slots is not None
        return np.array(self.slots.columns), snapped(np.zeros(self.variables), self.counts)


def snapped(points: Array, counts: tuple[int, ...]) -> Array:
    """A copy of `points` [..., variables], each variable with a count in the middle of its cell.

    Args:
        points: in [0, 1].
        counts: per variable, the number of equal cells of [0, 1]; 0: the variable stays as it is.
    """
    points = np.array(points, dtype=np.float64)
    numbers = np.array(counts)
    columns = np.flatnonzero(numbers)
    cells = numbers[columns]
    points[..., columns] = (_cell(points[..., columns], cells) + 0.5) / cells
    return points


def _cell(points: Array, cells: NDArray[np.int64] | int) -> NDArray[np.int64]:
    return np.minimum(np.floor(points * cells), np.subtract(cells, 1)).astype(np.int64)


def _counts(name: str, given: tuple[int, ...], variables: int) -> tuple[int, ...]:
    counts = given or (0,) * variables
    if len(counts) != variables or min(counts) < 0:
        raise ValueError(f"{name} {given}: one per variable ({variables}), 0 for any other kind")
    return tuple(int(n) for n in counts)


def _check_slots(slots: Slots, levels: tuple[int, ...], cells: tuple[int, ...]) -> None:
    used = [column for slot in slots.columns for column in slot]
    used += [] if slots.length is None else [slots.length]
    if not all(0 <= column < len(levels) for column in used) or len(set(used)) < len(used):
        raise ValueError(f"slots use the variables {used}: each once, from 0 to {len(levels) - 1}")
    kinds = {tuple((levels[c], cells[c]) for c in slot) for slot in slots.columns}
    if len(kinds) != 1 or kinds == {()}:
        raise ValueError("slots: one or more, all with the same kinds of variables, 1 or more")
    if not 0 <= slots.least <= slots.most:
        raise ValueError(f"slots: at least {slots.least} of {slots.most}")
    if slots.length is not None and cells[slots.length] != slots.most - slots.least + 1:
        raise ValueError(
            f"slots: the length has {cells[slots.length]} cells; it counts from {slots.least} to "
            f"{slots.most}"
        )


def _check_conditions(problem: Problem) -> None:
    conditions, slots = problem.conditions, problem.slots
    if conditions and len(conditions) != problem.variables:
        raise ValueError(f"{len(conditions)} conditions: one per variable ({problem.variables})")
    listed = () if slots is None else (slots.length, *(c for slot in slots.columns for c in slot))
    for variable, condition in enumerate(conditions):
        if condition is None:
            continue
        place, option = condition
        if not 0 <= place < problem.variables or conditions[place] is not None:
            raise ValueError(f"variable {variable} is governed by {place}: one that always counts")
        if not 0 <= option < problem.levels[place]:
            raise ValueError(f"option {option} of variable {place}: {problem.levels[place]} levels")
        if variable in listed or place in listed:
            raise ValueError(f"variable {variable}: no part of a list governs or is governed")


def _known_points(name: str, given: Array, problem: Problem) -> Array:
    points = np.array(given, dtype=np.float64)
    if points.size == 0:
        return np.empty((0, problem.variables))
    if points.ndim != 2 or points.shape[1] != problem.variables:
        raise ValueError(f"{name} has shape {points.shape}: it is [k, {problem.variables}]")
    if not ((points >= 0) & (points <= 1)).all():
        raise ValueError(f"{name} has values outside [0, 1]: map them to the unit cube first")
    # The same candidate twice would be an evaluation wasted (and pymoo refuses duplicates).
    _, first = np.unique(problem.canonical(points), axis=0, return_index=True)
    points = points[np.sort(first)]
    points.flags.writeable = False
    return points


def _require_population(population: int, least: int, rule: str) -> None:
    if population < least:
        raise InputError(
            f"population {population}", rule, "search.population", f"use {least} or more"
        )
