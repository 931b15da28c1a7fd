"""The table of search algorithms. Adding one is a file with `ask` and `tell`, and a line here."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.search.searcher import Checked, Problem, Searcher
from search_spaces.errors import InputError, nearest

Objectives = Literal["one", "many", "any"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A way to search.

    Attributes:
        name: as the run file spells it.
        doc: one line.
        paper: author, year, title.
        objectives: how many losses it takes: `one`, `many` (2 or more) or `any`.
        default_population: candidates per generation for a number of variables.
        build: a searcher for a problem and a population; imports the library behind it.
    """

    name: str
    doc: str
    paper: str
    objectives: Objectives
    default_population: Callable[[int], int]
    build: Callable[[Problem, int], Searcher]

    def takes(self, objectives: int) -> bool:
        """Whether it can search with that many losses."""
        return self.objectives == "any" or (self.objectives == "one") == (objectives == 1)


def _nsga2(problem: Problem, population: int) -> Searcher:
    from evomerge.search.nsga2 import NSGAII

    return NSGAII(problem, population)


def _cmaes(problem: Problem, population: int) -> Searcher:
    from evomerge.search.cmaes import CMAES

    return CMAES(problem, population)


def _random(problem: Problem, population: int) -> Searcher:
    from evomerge.search.random_search import RandomSearch

    return RandomSearch(problem, population)


ALGORITHMS: Mapping[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            name="nsga2",
            doc="genetic search for the whole front of best compromises; takes constraints",
            paper="Deb et al. 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
            objectives="any",
            default_population=lambda variables: 32,
            build=_nsga2,
        ),
        Algorithm(
            name="cmaes",
            doc="adapts a normal distribution; the strongest on one objective",
            paper="Hansen 2016, The CMA Evolution Strategy: A Tutorial",
            objectives="one",
            default_population=lambda variables: 4 + math.floor(3 * math.log(variables)),
            build=_cmaes,
        ),
        Algorithm(
            name="random",
            doc="uniform random points: the baseline",
            paper="Bergstra and Bengio 2012, Random Search for Hyper-Parameter Optimization",
            objectives="any",
            default_population=lambda variables: 16,
            build=_random,
        ),
    )
}
"""Every search algorithm by name."""


def default_algorithm(objectives: int, chooses: bool = False) -> str:
    """The name of the algorithm where the run file names none.

    Args:
        objectives: how many there are.
        chooses: whether rules or stages are chosen among: to CMA-ES a choice is a plateau per
            option, and it has been seen to settle on the wrong one.
    """
    return "cmaes" if objectives == 1 and not chooses else "nsga2"


def build_searcher(name: str, problem: Problem) -> Searcher:
    """The searcher `name` for `problem`; it refuses calls out of order and wrong shapes.

    Raises:
        InputError: no such algorithm, or one that does not take that many objectives.
    """
    if name not in ALGORITHMS:
        raise InputError(
            f"'{name}'",
            "it is not a known search algorithm",
            "search.algorithm",
            nearest(name, ALGORITHMS),
        )
    algorithm = ALGORITHMS[name]
    if not algorithm.takes(problem.objectives):
        fitting = [a.name for a in ALGORITHMS.values() if a.takes(problem.objectives)]
        raise InputError(
            f"'{name}' with {problem.objectives} objective(s)",
            f"it takes {algorithm.objectives}",
            "search.algorithm",
            f"use {' or '.join(fitting)}, or change the number of objectives",
        )
    population = problem.population
    if population is None:
        default = algorithm.default_population(problem.variables)
        population = max(default, len(problem.initial))
    return Checked(algorithm.build(problem, population), problem)
