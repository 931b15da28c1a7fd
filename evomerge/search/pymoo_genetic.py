"""Genetic algorithms on pymoo: a population, parents recombined and mutated, the best kept.

Selection and survival are pymoo's; constraints follow Deb's feasibility-first rule. A failed
candidate never enters the population: it is no parent, and the population stays smaller until enough
succeed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.population import Population
from pymoo.core.termination import NoTermination
from pymoo.operators.selection.tournament import TournamentSelection, compare

from evomerge.search.edits import random_points
from evomerge.search.pending import Pending, distinct, random_start
from evomerge.search.pymoo_operators import operators
from evomerge.search.pymoo_tools import directions, evaluated, own_warnings, unit_cube
from evomerge.search.searcher import Array, Problem

Make = Callable[[Problem, dict[str, Any]], Any]
"""pymoo's algorithm for a problem, given the arguments that all of them share."""

_MATINGS = 4
"""How often parents are mated for children that are not in the pool, where there are choices."""

_MATINGS_OF_LISTS = 20
"""The same for lists: many children are their parents, but there are always others."""


def nsga2(problem: Problem, options: dict[str, Any]) -> NSGA2:
    """Deb, Pratap, Agarwal, Meyarivan 2002."""
    return NSGA2(**options, **operators(problem, 15, 0.9))


def nsga3(problem: Problem, options: dict[str, Any]) -> NSGA3:
    """Deb and Jain 2014; at most as many reference directions as the population has places."""
    rays = directions(problem.objectives, options["pop_size"])
    return NSGA3(
        ref_dirs=rays,
        selection=TournamentSelection(func_comp=_by_violation),
        **{**options, "pop_size": max(options["pop_size"], len(rays))},
        **operators(problem, 30, 1.0),
    )


def sms_emoa(problem: Problem, options: dict[str, Any]) -> Any:
    """Beume, Naujoks, Emmerich 2007."""
    from pymoo.algorithms.moo.sms import SMSEMOA

    return SMSEMOA(**options, **operators(problem, 15, 0.9))


def age_moea(problem: Problem, options: dict[str, Any]) -> Any:
    """Panichella 2019."""
    from pymoo.algorithms.moo.age import AGEMOEA  # imports Numba, which takes a second

    return AGEMOEA(**options, **operators(problem, 15, 0.9))


def ga(problem: Problem, options: dict[str, Any]) -> GA:
    """The best of parents and offspring survive."""
    return GA(**options, **operators(problem, 15, 0.9))


def _by_violation(pop: Any, pairs: Any, random_state: Any, **_: Any) -> np.ndarray:
    """NSGA-III's tournament: the lesser violation wins, else chance. (pymoo's draws unseeded.)"""
    violation = pop.get("CV")[:, 0]
    winners = [
        compare(
            a,
            violation[a],
            b,
            violation[b],
            method="smaller_is_better",
            return_random_if_equal=True,
            random_state=random_state,
        )
        for a, b in pairs
    ]
    return np.array(winners, dtype=int)[:, None]


class Pool:
    """A pymoo algorithm whose population is one pool: any evaluated point may join it.

    Args:
        problem: what is searched.
        population: places in the pool.
        offspring: how many points `breed` makes.
        make: the algorithm.
    """

    def __init__(self, problem: Problem, population: int, offspring: int, make: Make) -> None:
        self._problem, self._population, self._offspring = problem, population, offspring
        self._make = make
        self._cube = unit_cube(problem)
        self._algorithm: Any = None

    @property
    def started(self) -> bool:
        """Whether there are parents."""
        return self._algorithm is not None

    def start(self, points: Array, losses: Array, violations: Array, seed: int) -> None:
        """Begin with these parents, [n, variables], n at least 1; equal ones count once."""
        _, first = np.unique(points, axis=0, return_index=True)
        kept = np.sort(first)
        options = {
            "pop_size": self._population,
            "n_offsprings": self._offspring,
            "sampling": points[kept],
        }
        algorithm = self._make(self._problem, options)
        if self._problem.discrete:  # a pool may hold all there is of a small space
            lists = self._problem.slots is not None
            algorithm.mating.n_max_iterations = _MATINGS_OF_LISTS if lists else _MATINGS
        algorithm.setup(self._cube, termination=NoTermination(), seed=seed, verbose=False)
        self._algorithm = algorithm
        self._advance(algorithm.ask(), losses[kept], violations[kept])

    def breed(self) -> Array:
        """[n, variables] offspring, n at most what was asked for; 0 where no new point was found.

        (pymoo mates up to 100 times for points that are not in the pool; here a few times where
        candidates may repeat.)
        """
        with own_warnings():
            offspring = self._algorithm.ask()
        if offspring is None:
            self._algorithm.termination.force_termination = False
            return np.empty((0, self._problem.variables))
        return np.asarray(offspring.get("X"), dtype=np.float64)

    def join(self, points: Array, losses: Array, violations: Array) -> None:
        """Let evaluated points [n, variables] compete for places; those in the pool do not again."""
        pool = self._algorithm.pop.get("X")
        new = [not (pool == point).all(axis=1).any() for point in points]
        if any(new):
            self._advance(Population.new(X=points[new]), losses[new], violations[new])

    def _advance(self, individuals: Population, losses: Array, violations: Array) -> None:
        # AGE-MOEA divides by the distance to the best of all losses, which a candidate may have
        with own_warnings(), np.errstate(divide="ignore"):
            self._algorithm.tell(infills=evaluated(self._cube, individuals, losses, violations))


class GeneticGenerations:
    """Generations of a pool, told only of candidates that did not fail.

    The pool starts with the first generation in which something succeeded; until then generations
    are drawn at random (`random_points`).
    """

    def __init__(self, problem: Problem, population: int, make: Make) -> None:
        self._problem, self._population = problem, population
        self._generator = np.random.default_rng(problem.seed)
        self._pool = Pool(problem, population, population, make)
        self._points = random_start(problem, self._generator, population)
        self._asked = self._points[:0]

    def ask(self) -> Array:
        """[population, variables]: offspring of the pool; with conditions, none asked before."""
        if self._pool.started:
            self._points = self._topped_up(self._pool.breed())
        self._points = self._problem.canonical(self._points)
        if any(self._problem.conditions):  # where few variables count, points soon repeat
            self._points = distinct(self._points, self._problem, self._generator, self._asked)
            self._asked = np.concatenate([self._asked, self._points])
        return self._points

    def tell(self, losses: Array, violations: Array) -> None:
        """Give the pool the candidates that succeeded."""
        succeeded = ~np.isnan(losses).any(axis=1)
        if not succeeded.any():
            if not self._pool.started:
                self._points = self._random(self._population)
            return
        told = self._points[succeeded], losses[succeeded], violations[succeeded]
        if self._pool.started:
            self._pool.join(*told)
        else:
            self._pool.start(*told, seed=int(self._generator.integers(2**31)))

    def _topped_up(self, offspring: Array) -> Array:
        missing = self._population - len(offspring)
        if not missing:
            return offspring
        points = np.concatenate([offspring, self._random(missing)])
        return distinct(points, self._problem, self._generator)

    def _random(self, number: int) -> Array:
        points = random_points(self._problem, self._generator, number)
        return distinct(points, self._problem, self._generator)


class SteadyGenetic:
    """A pool that every result joins as it comes, and that has one child per ask.

    (mu + 1) selection without a barrier (Durillo et al. 2008, A Study of Master-Slave Approaches to
    Parallelize NSGA-II). Until `population` candidates have succeeded, in whatever order, asks are
    the initial points and then random ones: a pool of the first few that came would be bred
    from what is quick to evaluate.
    """

    def __init__(self, problem: Problem, population: int, make: Make) -> None:
        self._problem, self._population = problem, population
        self._generator = np.random.default_rng(problem.seed)
        self._pool = Pool(problem, population, 1, make)
        self._pending: Pending[None] = Pending(problem, self._generator)
        self._known = list(problem.initial)
        self._first: list[tuple[Array, Array, Array]] = []

    @property
    def batch(self) -> int:
        """The population."""
        return self._population

    def ask(self) -> Array:
        """[variables]: a child of the pool, or a random point while there is none."""
        return self._pending.ask(self._draw)

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Let the point into the pool, if it did not fail."""
        point, _ = self._pending.tell(number)
        if np.isnan(losses).any():
            return
        if self._pool.started:
            self._pool.join(point[None], losses[None], violations[None])
            return
        self._first.append((point, losses, violations))
        if len(self._first) == self._population:
            points, scores, broken = (np.stack(column) for column in zip(*self._first, strict=True))
            self._pool.start(points, scores, broken, int(self._generator.integers(2**31)))
            self._first.clear()

    def _draw(self) -> tuple[Array, None]:
        if self._known:
            return self._problem.canonical(self._known.pop(0)), None
        children = self._pool.breed() if self._pool.started else []
        if not len(children):
            children = random_points(self._problem, self._generator, 1)
        return self._problem.canonical(children[0]), None
