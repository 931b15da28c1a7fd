"""Ask and tell: the protocol every search algorithm follows, and the wrapper that enforces it."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import InputError

Array = NDArray[np.float64]


def _nothing_known() -> Array:
    return np.empty((0, 0))


@dataclass(frozen=True, eq=False)
class Problem:
    """What a searcher is built from: plain data, so that a run can be rebuilt from its run file.

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
            cells for, 0 for a number; () if all are numbers.
        steady: learn from every result as it comes (True), or from whole generations (False).

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

    def __post_init__(self) -> None:
        if self.variables < 1 or self.objectives < 1 or self.constraints < 0 or self.seed < 0:
            raise ValueError(
                f"Problem(variables={self.variables}, objectives={self.objectives}, constraints="
                f"{self.constraints}, seed={self.seed}): at least 1, 1, 0 and 0"
            )
        levels = self.levels or (0,) * self.variables
        if len(levels) != self.variables or min(levels) < 0:
            raise ValueError(
                f"levels {self.levels}: one per variable ({self.variables}), 0 for a number"
            )
        object.__setattr__(self, "levels", tuple(int(n) for n in levels))
        object.__setattr__(self, "initial", _starting_points(self.initial, self.levels))
        if self.population is None:
            return
        _require_population(self.population, 2, "a generation has at least 2 candidates")
        known = len(self.initial)
        rule = f"the first generation holds the {known} known starting points"
        _require_population(self.population, known, rule)


class Searcher(Protocol):
    """Proposes candidates in the unit cube, one at a time, and is told what they were worth.

    Its state depends on the problem and on the sequence of asks and tells, and on nothing else: no
    clock, no hash seed, no global random generator (which it does not disturb either).
    """

    @property
    def batch(self) -> int:
        """How many points to ask for before telling any, where a driver works in generations.

        What is left of the generation: the population as a rule, less where only failed candidates
        are replaced, 0 where all of it has been asked. A searcher that learns from every result as
        it comes says its population.
        """
        ...

    def ask(self) -> Array:
        """The next point, [variables] in [0, 1]; any number of points may be pending."""
        ...

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Learn what a point was worth; in any order, each number once.

        Args:
            number: which ask it answers, from 0.
            losses: [objectives], minimised; all nan if the candidate failed.
            violations: [constraints], 0 where the constraint is met, greater otherwise; summed over
                constraints, so in comparable units. Ignored if the candidate failed.
        """
        ...


class Checked:
    """A searcher that refuses calls out of order and arrays of the wrong shape.

    It hands copies in both directions, so neither side can change the other's arrays.
    """

    def __init__(self, searcher: Searcher, problem: Problem) -> None:
        self._searcher, self._problem = searcher, problem
        self._asked = 0
        self._pending: set[int] = set()

    @property
    def batch(self) -> int:
        """How many points to ask for before telling any (see `Searcher.batch`)."""
        return self._searcher.batch

    def ask(self) -> Array:
        """The next point, [variables] in [0, 1]; variables with levels in the middle of a cell.

        Raises:
            RuntimeError: the generation has been asked and waits for `tell`.
        """
        point = snapped(self._searcher.ask(), self._problem.levels)
        self._pending.add(self._asked)
        self._asked += 1
        return point

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Learn what a point was worth (see `Searcher.tell`).

        Raises:
            RuntimeError: it has not been asked, or has been told.
            ValueError: a wrong shape, a negative violation, values neither finite nor all nan.
        """
        if not 0 <= number < self._asked:
            raise RuntimeError(
                f"tell({number}) before ask(): {self._asked} points have been asked, from 0"
            )
        if number not in self._pending:
            raise RuntimeError(f"tell({number}) called twice: each ask() is told once")
        losses = _checked("losses", losses, self._problem.objectives)
        failed = bool(np.isnan(losses).any())
        violations = _checked("violations", violations, self._problem.constraints)
        if not failed and not (violations >= 0).all():
            raise ValueError(f"tell({number}): violations are 0 or greater where nothing failed")
        self._pending.remove(number)
        self._searcher.tell(number, losses, violations)


def snapped(points: Array, levels: tuple[int, ...]) -> Array:
    """A copy of `points` [..., variables] with every variable that has levels in its cell's middle."""
    points = np.array(points, dtype=np.float64)
    counts = np.array(levels)
    columns = np.flatnonzero(counts)
    cells = counts[columns]
    index = np.minimum(np.floor(points[..., columns] * cells), cells - 1)
    points[..., columns] = (index + 0.5) / cells
    return points


def _starting_points(initial: Array, levels: tuple[int, ...]) -> Array:
    variables = len(levels)
    points = np.array(initial, dtype=np.float64)
    if points.size == 0:
        return np.empty((0, variables))
    if points.ndim != 2 or points.shape[1] != variables:
        raise ValueError(f"initial has shape {points.shape}: it is [k, {variables}]")
    if not ((points >= 0) & (points <= 1)).all():
        raise ValueError("initial has values outside [0, 1]: map them to the unit cube first")
    # The same candidate twice would be an evaluation wasted (and pymoo refuses duplicates).
    _, first = np.unique(snapped(points, levels), axis=0, return_index=True)
    points = points[np.sort(first)]
    points.flags.writeable = False
    return points


def _require_population(population: int, least: int, rule: str) -> None:
    if population < least:
        raise InputError(
            f"population {population}", rule, "search.population", f"use {least} or more"
        )


def _checked(name: str, values: Array, size: int) -> Array:
    copy = np.array(values, dtype=np.float64)
    if copy.shape != (size,) and not copy.size == size == 0:
        raise ValueError(f"tell(): {name} has shape {copy.shape}; it is ({size},)")
    if not (np.isfinite(copy).all() or np.isnan(copy).all()):
        raise ValueError(f"tell(): {name} are neither finite nor all nan")
    return copy.reshape(size)
