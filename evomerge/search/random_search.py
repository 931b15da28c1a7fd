"""Uniform random search: the baseline every other searcher has to beat at the same budget."""

import numpy as np

from evomerge.search.searcher import Array, Problem, random_start


class RandomSearch:
    """Draws every generation uniformly from the unit cube; the first holds the initial points."""

    def __init__(self, problem: Problem, population: int) -> None:
        self._problem, self._population = problem, population
        self._generator = np.random.default_rng(problem.seed)
        self._started = False

    def ask(self) -> Array:
        """[population, variables], independent of everything told."""
        if self._started:
            return self._generator.random((self._population, self._problem.variables))
        self._started = True
        return random_start(self._problem, self._generator, self._population)

    def tell(self, losses: Array, violations: Array) -> None:
        """Nothing to learn."""
