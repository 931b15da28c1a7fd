"""From whole generations to single points: adapters between the two ways of asking and telling."""

from typing import Protocol

import numpy as np

from evomerge.search.searcher import Array, Problem, Searcher


class Generations(Protocol):
    """An algorithm whose steps are generations; `ask` and `tell` are called in turn."""

    def ask(self) -> Array:
        """The next generation, [batch, variables] in [0, 1], at least one point."""
        ...

    def tell(self, losses: Array, violations: Array) -> None:
        """What it was worth: [batch, objectives], all nan where failed; [batch, constraints]."""
        ...


class ByGeneration:
    """A searcher that hands out an algorithm's generations point by point.

    The algorithm learns when the last point of a generation has been told, in the order of ask: its
    course does not depend on the order in which results come.
    """

    def __init__(self, algorithm: Generations, problem: Problem) -> None:
        self._algorithm, self._problem = algorithm, problem
        self._first = self._asked = self._told = 0
        self._points: Array | None = None

    @property
    def batch(self) -> int:
        """What is left to ask of the generation; 0 while results are awaited."""
        return len(self._generation()) - self._asked

    def ask(self) -> Array:
        """The next point of the generation.

        Raises:
            RuntimeError: all of them have been asked.
        """
        points = self._generation()
        if self._asked == len(points):
            raise RuntimeError(
                f"ask() called after all {len(points)} points of the generation: call tell() "
                "with the results of those that are pending first"
            )
        self._asked += 1
        return points[self._asked - 1]

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Note a result; the algorithm learns from the last one of a generation."""
        row = number - self._first
        self._losses[row], self._violations[row] = losses, violations
        self._told += 1
        if self._told == len(self._generation()):
            self._algorithm.tell(self._losses, self._violations)
            self._first += self._told
            self._points = None

    def _generation(self) -> Array:
        # made when it is wanted, not when the last one is told: it may be dear, and the last
        # generation of a search has no next one
        if self._points is None:
            self._points = self._algorithm.ask()
            self._asked = self._told = 0
            self._losses = np.full((len(self._points), self._problem.objectives), np.nan)
            self._violations = np.zeros((len(self._points), self._problem.constraints))
        return self._points


class InBatches:
    """Generations of an algorithm that asks and tells point by point."""

    def __init__(self, searcher: Searcher, population: int) -> None:
        self._searcher, self._population = searcher, population
        self._told = 0

    def ask(self) -> Array:
        """[population, variables]: as many asks as a generation has points."""
        return np.stack([self._searcher.ask() for _ in range(self._population)])

    def tell(self, losses: Array, violations: Array) -> None:
        """Tell the points of the generation one by one."""
        for loss, violation in zip(losses, violations, strict=True):
            self._searcher.tell(self._told, loss, violation)
            self._told += 1
