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
        initial: [k, variables] in [0, 1], known good starting points; k may be 0. The first
            generation contains all of them, in this order, each once.

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

    def __post_init__(self) -> None:
        if self.variables < 1 or self.objectives < 1 or self.constraints < 0 or self.seed < 0:
            raise ValueError(
                f"Problem(variables={self.variables}, objectives={self.objectives}, constraints="
                f"{self.constraints}, seed={self.seed}): at least 1, 1, 0 and 0"
            )
        object.__setattr__(self, "initial", _starting_points(self.initial, self.variables))
        if self.population is None:
            return
        _require_population(self.population, 2, "a generation has at least 2 candidates")
        known = len(self.initial)
        rule = f"the first generation holds the {known} known starting points"
        _require_population(self.population, known, rule)


class Searcher(Protocol):
    """Proposes candidates in the unit cube; `ask` and `tell` are called in turn.

    Its state depends on the problem and on what it was told, and on nothing else: no clock, no hash
    seed, no global random generator (which it does not disturb either).
    """

    def ask(self) -> Array:
        """The next generation, [batch, variables] in [0, 1].

        `batch` is the population as a rule; it may be smaller where only the failed candidates of a
        generation are replaced.
        """
        ...

    def tell(self, losses: Array, violations: Array) -> None:
        """Learn what the last generation was worth.

        Args:
            losses: [batch, objectives], minimised; all nan in the row of a failed candidate.
            violations: [batch, constraints], 0 where the constraint is met, greater otherwise;
                summed over constraints, so in comparable units. nan in a failed candidate's row.
        """
        ...


class Checked:
    """A searcher that refuses calls out of order and arrays of the wrong shape.

    It hands copies in both directions, so neither side can change the other's arrays.
    """

    def __init__(self, searcher: Searcher, problem: Problem) -> None:
        self._searcher, self._problem = searcher, problem
        self._batch: int | None = None

    def ask(self) -> Array:
        """The next generation, [batch, variables] in [0, 1].

        Raises:
            RuntimeError: the last generation has not been told.
        """
        if self._batch is not None:
            raise RuntimeError("ask() called twice: call tell() with the last ask()'s losses first")
        points = np.array(self._searcher.ask(), dtype=np.float64)
        self._batch = len(points)
        return points

    def tell(self, losses: Array, violations: Array) -> None:
        """Learn what the last generation was worth (see `Searcher.tell`).

        Raises:
            RuntimeError: nothing has been asked.
            ValueError: a wrong shape, a negative violation, a row neither finite nor all nan.
        """
        if self._batch is None:
            raise RuntimeError("tell() called before ask(): there is no generation to learn from")
        losses = _checked("losses", losses, (self._batch, self._problem.objectives))
        violations = _checked("violations", violations, (self._batch, self._problem.constraints))
        failed = np.isnan(losses).any(axis=1)
        if (violations < 0).any() or np.isnan(violations[~failed]).any():
            raise ValueError("tell(): violations are 0 or greater in every row that did not fail")
        self._searcher.tell(losses, violations)
        self._batch = None


def random_start(problem: Problem, generator: np.random.Generator, population: int) -> Array:
    """A first generation, [population, variables]: the initial points, then uniform ones."""
    points = generator.random((population, problem.variables))
    points[: len(problem.initial)] = problem.initial
    return points


def _starting_points(initial: Array, variables: int) -> Array:
    points = np.array(initial, dtype=np.float64)
    if points.size == 0:
        return np.empty((0, variables))
    if points.ndim != 2 or points.shape[1] != variables:
        raise ValueError(f"initial has shape {points.shape}: it is [k, {variables}]")
    if not ((points >= 0) & (points <= 1)).all():
        raise ValueError("initial has values outside [0, 1]: map them to the unit cube first")
    # The same point twice would be a candidate wasted (and pymoo refuses duplicates).
    _, first = np.unique(points, axis=0, return_index=True)
    points = points[np.sort(first)]
    points.flags.writeable = False
    return points


def _require_population(population: int, least: int, rule: str) -> None:
    if population < least:
        raise InputError(
            f"population {population}", rule, "search.population", f"use {least} or more"
        )


def _checked(name: str, values: Array, shape: tuple[int, int]) -> Array:
    copy = np.array(values, dtype=np.float64)
    if copy.size == 0 and 0 in shape:
        copy = copy.reshape(shape)
    if copy.shape != shape:
        raise ValueError(f"tell(): {name} has shape {copy.shape}; for the last ask() it is {shape}")
    failed = np.isnan(copy).all(axis=1)
    if shape[1] and not np.isfinite(copy[~failed]).all():
        raise ValueError(f"tell(): a row of {name} is neither finite nor all nan")
    return copy
