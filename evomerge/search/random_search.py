"""Random search: the baseline every other searcher has to beat at the same budget."""

import numpy as np

from evomerge.search.edits import MANY, random_points
from evomerge.search.pending import Pending
from evomerge.search.searcher import Array, Problem


class RandomSearch:
    """Draws points independently of what any was worth; the first are the initial points.

    They are uniform in the unit cube. Where almost all such points are worthless (a problem with
    `origins`) that would be a baseline of straw: they are then edits of the origins, each drawn at
    random and mutated 1 to 8 times. It learns nothing, so it goes on whatever is pending, also where
    generations are asked for.
    """

    def __init__(self, problem: Problem, population: int) -> None:
        self._problem, self._population = problem, population
        self._generator = np.random.default_rng(problem.seed)
        self._pending: Pending[None] = Pending(problem, self._generator)
        self._asked = 0

    @property
    def batch(self) -> int:
        """What is left of a population's worth of points; never 0."""
        return self._population - self._asked % self._population

    def ask(self) -> Array:
        """[variables], independent of what anything was worth."""
        point = self._pending.ask(self._draw)
        self._asked += 1
        return point

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Nothing to learn but that the point is not pending any more."""
        self._pending.tell(number)

    def _draw(self) -> tuple[Array, None]:
        # drawn also where an initial point takes its place: points do not depend on how many
        # of those there are
        [point] = random_points(self._problem, self._generator, 1, MANY)
        known = self._problem.initial
        return (known[self._asked] if self._asked < len(known) else point), None
