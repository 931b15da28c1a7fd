"""What the searchers on pymoo share: the problem as pymoo sees it, reference directions.

pymoo is given its random generator everywhere; where it would make an unseeded one of its own (the
tournament of its NSGA-III among infeasible candidates, 0.6.2) our function takes the place of its.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem as UnitCube
from pymoo.problems.static import StaticProblem
from pymoo.util.ref_dirs import get_reference_directions

from evomerge.search.searcher import Array, Problem


def unit_cube(problem: Problem) -> UnitCube:
    """The search problem for pymoo; what a candidate is worth comes from outside."""
    return UnitCube(
        n_var=problem.variables,
        n_obj=problem.objectives,
        n_ieq_constr=problem.constraints,
        xl=0.0,
        xu=1.0,
    )


def evaluated(
    cube: UnitCube, individuals: Population, losses: Array, violations: Array
) -> Population:
    """`individuals` with what they are worth: [n, objectives] and [n, constraints], no nan."""
    Evaluator().eval(StaticProblem(cube, F=losses, G=violations), individuals)
    return individuals


@contextmanager
def own_warnings() -> Iterator[None]:
    """Undoes pymoo's changes to Python's warning filters (its NSGA-III switches all warnings off)."""
    with warnings.catch_warnings():
        yield


def directions(objectives: int, most: int, least: int = 1) -> Array:
    """Evenly spread weights, [n, objectives], that sum to 1: the points of a simplex lattice.

    Das and Dennis 1998, Normal-Boundary Intersection. Lattices come in certain sizes (with two
    objectives any, with three 3, 6, 10, 15, 21, 28, ...); n is the greatest up to `most` that is at
    least `least` and the number of objectives; if there is none, the next greater.
    """
    parts = 1
    while math.comb(parts + objectives, objectives - 1) <= most:
        parts += 1
    while math.comb(parts + objectives - 1, objectives - 1) < least:
        parts += 1
    return get_reference_directions("das-dennis", objectives, n_partitions=parts)
