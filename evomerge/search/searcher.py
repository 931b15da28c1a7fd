"""Ask and tell: the protocol every search algorithm follows, and the wrapper that enforces it."""

from typing import Protocol

import numpy as np

from evomerge.search.problem import Array, Problem, snapped

__all__ = ["Array", "Checked", "Problem", "Searcher", "snapped"]


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
        """The next point, [variables] in [0, 1], in its canonical form (`Problem.canonical`).

        Raises:
            RuntimeError: the generation has been asked and waits for `tell`.
        """
        point = self._problem.canonical(self._searcher.ask())
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


def _checked(name: str, values: Array, size: int) -> Array:
    copy = np.array(values, dtype=np.float64)
    if copy.shape != (size,) and not copy.size == size == 0:
        raise ValueError(f"tell(): {name} has shape {copy.shape}; it is ({size},)")
    if not (np.isfinite(copy).all() or np.isnan(copy).all()):
        raise ValueError(f"tell(): {name} are neither finite nor all nan")
    return copy.reshape(size)
