"""What the searchers on pymoo share: the problem as pymoo sees it, operators, reference directions.

pymoo is given its random generator everywhere; where it would make an unseeded one of its own (the
tournament of its NSGA-III among infeasible candidates, 0.6.2) our function takes the place of its.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem as UnitCube
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
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


class Exchange(SBX):
    """Simulated binary crossover of numbers; variables with levels are swapped or left.

    Between options without an order there is nothing to blend: each comes from one parent or the
    other, at even odds, as in uniform crossover.
    """

    def __init__(self, levels: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self._columns = np.flatnonzero(levels)

    def _do(
        self,
        problem: Any,
        X: Any,  # noqa: N803
        *args: Any,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        children = super()._do(problem, X, *args, random_state=random_state, **options)
        parents = X[:, :, self._columns]
        swapped = random_state.random(parents.shape[1:]) < 0.5
        children[:, :, self._columns] = np.where(swapped, parents[::-1], parents)
        return children


class Redraw(PM):
    """Polynomial mutation of numbers; variables with levels are redrawn, at the same probability."""

    def __init__(self, levels: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self._levels = levels

    def _do(
        self,
        problem: Any,
        X: Any,  # noqa: N803
        *args: Any,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        mutated = super()._do(problem, X, *args, random_state=random_state, **options)
        columns = np.flatnonzero(self._levels)
        mutated[:, columns] = X[:, columns]
        return redraw(mutated, self._levels, random_state)


def redraw(points: Array, levels: tuple[int, ...], generator: np.random.Generator) -> Array:
    """`points` [n, variables] with each variable that has levels drawn anew, once in `variables`."""
    columns = np.flatnonzero(levels)
    cells = np.array(levels)[columns]
    shape = (len(points), len(columns))
    drawn = (generator.integers(cells, size=shape) + 0.5) / cells
    chosen = generator.random(shape) < min(0.5, 1 / len(levels))
    redrawn = points.astype(float)
    redrawn[:, columns] = np.where(chosen, drawn, redrawn[:, columns])
    return redrawn


def operators(problem: Problem, eta: float, probability: float) -> dict[str, Any]:
    """Crossover and mutation (Deb and Agrawal 1995) for these variables, as pymoo's arguments."""
    crossing: dict[str, Any] = {"eta": eta, "prob": probability}
    if any(problem.levels):
        return {
            "crossover": Exchange(problem.levels, **crossing),
            "mutation": Redraw(problem.levels, eta=20),
        }
    return {"crossover": SBX(**crossing), "mutation": PM(eta=20)}


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
