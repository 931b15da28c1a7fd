"""NSGA-II on pymoo: a population, ranked by dominance and spread, recombined and mutated.

Deb, Pratap, Agarwal, Meyarivan 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II.
Recombination is simulated binary crossover (eta 15, probability 0.9), mutation polynomial (eta 20),
constraints follow Deb's feasibility-first rule; all of that is pymoo's.
"""

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem as UnitCube
from pymoo.core.termination import NoTermination
from pymoo.problems.static import StaticProblem

from evomerge.search.searcher import Array, Problem, random_start


class NSGAII:
    """pymoo's NSGA-II, told only of candidates that did not fail.

    A failed candidate never enters the population: it is no parent, and the population stays
    smaller until enough succeed. pymoo is started by the first generation in which something
    succeeded; until then generations are drawn uniformly.
    """

    def __init__(self, problem: Problem, population: int) -> None:
        self._problem, self._population = problem, population
        self._generator = np.random.default_rng(problem.seed)
        self._cube = UnitCube(
            n_var=problem.variables,
            n_obj=problem.objectives,
            n_ieq_constr=problem.constraints,
            xl=0.0,
            xu=1.0,
        )
        self._points = random_start(problem, self._generator, population)
        self._algorithm: Any = None
        self._offspring: Any = None

    def ask(self) -> Array:
        """[population, variables]: offspring of the population, no point asked twice in a row."""
        if self._algorithm is not None:
            self._offspring = self._topped_up(self._algorithm.ask())
            self._points = np.asarray(self._offspring.get("X"), dtype=np.float64)
        return self._points

    def tell(self, losses: Array, violations: Array) -> None:
        """Give pymoo the candidates that succeeded; it selects the next parents from them."""
        succeeded = ~np.isnan(losses).any(axis=1)
        if not succeeded.any():
            if self._algorithm is None:
                self._points = self._generator.random(self._points.shape)
            return
        if self._algorithm is None:
            self._algorithm = self._started(self._points[succeeded])
            parents = self._algorithm.ask()
        else:
            parents = self._offspring[succeeded]
        known = StaticProblem(self._cube, F=losses[succeeded], G=violations[succeeded])
        Evaluator().eval(known, parents)
        self._algorithm.tell(infills=parents)

    def _started(self, points: Any) -> NSGA2:
        algorithm = NSGA2(pop_size=self._population, sampling=points)
        seed = int(self._generator.integers(2**31))
        algorithm.setup(self._cube, termination=NoTermination(), seed=seed, verbose=False)
        return algorithm

    def _topped_up(self, offspring: Population | None) -> Population:
        """A full generation, also where mating found too few new points (it tries 100 times)."""
        found = Population.new() if offspring is None else offspring
        missing = self._population - len(found)
        if missing == 0:
            return found
        fresh = Population.new(X=self._generator.random((missing, self._problem.variables)))
        return Population.merge(found, fresh)
