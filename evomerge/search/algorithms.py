"""The table of search algorithms. Adding one is a file with `ask` and `tell`, and a line here.

pymoo's own CMA-ES is not in it: it wraps the same `cma` package as `cmaes` does, draws from NumPy's
global generator and runs whole restarts of its own, which cannot be asked and told point by point.
"""

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
        library: the package that does the work.
        objectives: how many losses it takes: `one`, `many` (2 or more) or `any`.
        constraints: whether it prefers candidates that keep constraints; what learns nothing from
            results may be used with them too.
        choices: how it searches variables with levels: `unordered`, or `rounded` from an interval
            that is cut into cells, so that neighbouring options look alike to it.
        build: a searcher for a problem and a population; imports the library behind it.
        default_population: candidates per generation for a number of variables.
        lists: whether it varies a list of variable length (the layers of a stack) as a list: inserts,
            deletes and moves items. To the others a list is a row of coordinates.
    """

    name: str
    doc: str
    paper: str
    library: str
    objectives: Objectives
    constraints: bool
    choices: Literal["unordered", "rounded"]
    build: Callable[[Problem, int], Searcher]
    default_population: Callable[[int], int] = lambda variables: 32
    lists: bool = False

    def takes(self, objectives: int, constraints: int = 0) -> bool:
        """Whether it can search with that many losses and constraints."""
        fits = self.objectives == "any" or (self.objectives == "one") == (objectives == 1)
        return fits and (self.constraints or not constraints)


def _lambda(variables: int) -> int:
    """Hansen 2016, table 1."""
    return 4 + math.floor(3 * math.log(variables))


def _genetic(name: str) -> Callable[[Problem, int], Searcher]:
    def build(problem: Problem, population: int) -> Searcher:
        from evomerge.search import pymoo_genetic
        from evomerge.search.batches import ByGeneration

        make: pymoo_genetic.Make = getattr(pymoo_genetic, name)
        if problem.steady:
            return pymoo_genetic.SteadyGenetic(problem, population, make)
        generations = pymoo_genetic.GeneticGenerations(problem, population, make)
        return ByGeneration(generations, problem)

    return build


def _slots(name: str) -> Callable[[Problem, int], Searcher]:
    def build(problem: Problem, population: int) -> Searcher:
        from evomerge.search import pymoo_slots
        from evomerge.search.batches import ByGeneration

        start: pymoo_slots.Start = getattr(pymoo_slots, name)
        if name == "Decomposition":
            population = pymoo_slots.Decomposition.population(problem, population)
        if problem.steady:
            return pymoo_slots.SteadySlots(problem, population, start)
        return ByGeneration(pymoo_slots.SlotGenerations(problem, population, start), problem)

    return build


def _optuna(
    name: str, ordered: bool = False, models: bool = False
) -> Callable[[Problem, int], Searcher]:
    def build(problem: Problem, population: int) -> Searcher:
        from evomerge.search import optuna_searcher
        from evomerge.search.batches import ByGeneration, InBatches

        make: optuna_searcher.Make = getattr(optuna_searcher, name)
        searcher = optuna_searcher.OptunaSearcher(problem, population, make, ordered, models)
        if problem.steady:
            return searcher
        return ByGeneration(InBatches(searcher, population), problem)

    return build


def _cmaes(problem: Problem, population: int) -> Searcher:
    from evomerge.search.batches import ByGeneration
    from evomerge.search.cmaes import CMAESGenerations, SteadyCMAES

    if problem.steady:
        return SteadyCMAES(problem, population)
    return ByGeneration(CMAESGenerations(problem, population), problem)


def _random(problem: Problem, population: int) -> Searcher:
    from evomerge.search.random_search import RandomSearch

    return RandomSearch(problem, population)


_TABLE = (
    Algorithm(
        "nsga2",
        "genetic search for the whole front of best compromises",
        "Deb et al. 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
        "pymoo",
        objectives="any",
        constraints=True,
        choices="unordered",
        build=_genetic("nsga2"),
        lists=True,
    ),
    Algorithm(
        "nsga3",
        "NSGA-II that spreads the front along reference directions; for 3 objectives and more",
        "Deb and Jain 2014, An Evolutionary Many-Objective Optimization Algorithm, Part I: NSGA-III",
        "pymoo",
        objectives="many",
        constraints=True,
        choices="unordered",
        build=_genetic("nsga3"),
        lists=True,
    ),
    Algorithm(
        "sms_emoa",
        "genetic search that drops what adds least hypervolume; slow beyond 4 objectives",
        "Beume et al. 2007, SMS-EMOA: Multiobjective Selection Based on Dominated Hypervolume",
        "pymoo",
        objectives="many",
        constraints=True,
        choices="unordered",
        build=_genetic("sms_emoa"),
        lists=True,
    ),
    Algorithm(
        "age_moea",
        "genetic search that estimates the front's curvature to spread along it",
        "Panichella 2019, An Adaptive Evolutionary Algorithm Based on Non-Euclidean Geometry",
        "pymoo",
        objectives="many",
        constraints=True,
        choices="unordered",
        build=_genetic("age_moea"),
        lists=True,
    ),
    Algorithm(
        "moead",
        "one search per direction of compromise, neighbours helping each other; no constraints",
        "Zhang and Li 2007, MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition",
        "pymoo",
        objectives="many",
        constraints=False,
        choices="unordered",
        build=_slots("Decomposition"),
        lists=True,
    ),
    Algorithm(
        "ga",
        "genetic search for one objective",
        "Holland 1975, Adaptation in Natural and Artificial Systems",
        "pymoo",
        objectives="one",
        constraints=True,
        choices="unordered",
        build=_genetic("ga"),
        lists=True,
    ),
    Algorithm(
        "de",
        "adds differences of candidates to others; robust, slower than cmaes",
        "Storn and Price 1997, Differential Evolution",
        "pymoo",
        objectives="one",
        constraints=True,
        choices="rounded",
        build=_slots("DifferentialEvolution"),
        default_population=lambda variables: 20,
    ),
    Algorithm(
        "pso",
        "particles drawn to the best places that they and the swarm have seen",
        "Kennedy and Eberhart 1995, Particle Swarm Optimization",
        "pymoo",
        objectives="one",
        constraints=True,
        choices="rounded",
        build=_slots("ParticleSwarm"),
        default_population=lambda variables: 25,
    ),
    Algorithm(
        "cmaes",
        "adapts a normal distribution; the strongest on one objective",
        "Hansen 2016, The CMA Evolution Strategy: A Tutorial",
        "cma",
        objectives="one",
        constraints=True,
        choices="rounded",
        build=_cmaes,
        default_population=_lambda,
    ),
    Algorithm(
        "optuna_cmaes",
        "CMA-ES with a margin that keeps choices from freezing; no constraints",
        "Hamano et al. 2022, CMA-ES with Margin",
        "optuna",
        objectives="one",
        constraints=False,
        choices="rounded",
        build=_optuna("cmaes", ordered=True),
        default_population=_lambda,
    ),
    Algorithm(
        "tpe",
        "models where good and bad candidates lie; for small budgets and many choices",
        "Watanabe 2023, Tree-Structured Parzen Estimator",
        "optuna",
        objectives="any",
        constraints=True,
        choices="unordered",
        build=_optuna("tpe", models=True),
        default_population=lambda variables: 10,
    ),
    Algorithm(
        "gp",
        "Gaussian process: the most from the fewest candidates; up to ~20 variables and ~500 of them",
        "Jones et al. 1998, Efficient Global Optimization of Expensive Black-Box Functions",
        "optuna",
        objectives="any",
        constraints=True,
        choices="unordered",
        build=_optuna("gp", models=True),
        default_population=lambda variables: 10,
    ),
    Algorithm(
        "optuna_nsga2",
        "NSGA-II with uniform crossover: mixes parents' values and does not blend them",
        "Deb et al. 2002, A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
        "optuna",
        objectives="any",
        constraints=True,
        choices="unordered",
        build=_optuna("nsga2"),
    ),
    Algorithm(
        "optuna_nsga3",
        "NSGA-III with uniform crossover: mixes parents' values and does not blend them",
        "Deb and Jain 2014, An Evolutionary Many-Objective Optimization Algorithm, Part I: NSGA-III",
        "optuna",
        objectives="many",
        constraints=True,
        choices="unordered",
        build=_optuna("nsga3"),
    ),
    Algorithm(
        "qmc",
        "points that fill the space evenly (Sobol); learns nothing",
        "Bergstra and Bengio 2012, Random Search for Hyper-Parameter Optimization",
        "optuna",
        objectives="any",
        constraints=True,
        choices="unordered",
        build=_optuna("qmc"),
        default_population=lambda variables: 16,
    ),
    Algorithm(
        "random",
        "random points, in spaces of stacks random edits of the seeds: the baseline; learns nothing",
        "Bergstra and Bengio 2012, Random Search for Hyper-Parameter Optimization",
        "numpy",
        objectives="any",
        constraints=True,
        choices="unordered",
        build=_random,
        default_population=lambda variables: 16,
        lists=True,
    ),
)

ALGORITHMS: Mapping[str, Algorithm] = {algorithm.name: algorithm for algorithm in _TABLE}
"""Every search algorithm by name."""


def default_algorithm(objectives: int, chooses: bool = False) -> str:
    """The name of the algorithm where the run file names none.

    Args:
        objectives: how many there are.
        chooses: whether rules, stages or layers are chosen among: to CMA-ES a choice is a plateau
            per option, and it has been seen to settle on the wrong one; and a list of layers is no
            list to it.
    """
    return "cmaes" if objectives == 1 and not chooses else "nsga2"


def build_searcher(name: str, problem: Problem) -> Checked:
    """The searcher `name` for `problem`; it refuses calls out of order and wrong shapes.

    Raises:
        InputError: no such algorithm, or one that does not take that many objectives, or that has
            no way to keep constraints.
    """
    if name not in ALGORITHMS:
        raise InputError(
            f"'{name}'",
            "it is not a known search algorithm",
            "search.algorithm",
            nearest(name, ALGORITHMS),
        )
    algorithm = ALGORITHMS[name]
    if not algorithm.takes(problem.objectives, problem.constraints):
        raise _unfit(algorithm, problem)
    population = problem.population
    if population is None:
        default = algorithm.default_population(problem.variables)
        population = max(default, len(problem.initial))
    return Checked(algorithm.build(problem, population), problem)


def _unfit(algorithm: Algorithm, problem: Problem) -> InputError:
    fitting = [
        a.name for a in ALGORITHMS.values() if a.takes(problem.objectives, problem.constraints)
    ]
    others = f"use {', '.join(fitting[:-1])} or {fitting[-1]}"
    if not algorithm.takes(problem.objectives):
        return InputError(
            f"'{algorithm.name}' with {problem.objectives} objective(s)",
            f"it takes {algorithm.objectives}",
            "search.algorithm",
            f"{others}, or change the number of objectives",
        )
    return InputError(
        f"'{algorithm.name}' with {problem.constraints} constraint(s)",
        "it cannot keep constraints",
        "search.algorithm",
        f"{others}, or drop the constraints",
    )
