"""Variables that count only with some option of another: the numbers of a template that is chosen.

Steps are of what counts. A step of what governs others wakes some of these: between values at rest,
which no search has looked at, and those of a known point, the latter are the better guess.
"""

import numpy as np
from numpy.typing import NDArray

from evomerge.search.problem import Array, Problem
from evomerge.search.steps import step

Rng = np.random.Generator

_STEPS = 8
"""Most steps away from origins."""


def alive(point: Array, problem: Problem) -> NDArray[np.int64]:
    """The variables that count at `point` [variables] and have more than one value."""
    return np.flatnonzero(problem.counting(point) & (np.array(problem.counts) != 1))


def stepped_at(point: Array, variable: int, problem: Problem, generator: Rng) -> Array:
    """A canonical copy of `point` [variables] with a step of one variable.

    What begins to count is as it is in an origin where it counts (in any, if it does in none; drawn
    uniformly without origins). Where that is an origin again, what woke takes steps, one as a rule.
    """
    before = problem.counting(point)
    point = point.copy()
    point[variable] = _step(point, variable, problem, generator)
    woken = problem.counting(point) & ~before
    if woken.any():
        origins = problem.origins
        if len(origins):
            fitting = origins[problem.counting(origins)[:, woken].all(axis=1)]
            known = fitting if len(fitting) else origins
            point[woken] = known[int(generator.integers(len(known))), woken]
        else:
            point[woken] = generator.random(int(woken.sum()))
        point = problem.canonical(point)
        free = np.flatnonzero(woken & (np.array(problem.counts) != 1))
        known, tries = problem.canonical(origins), _STEPS if len(free) else 0
        while tries and (known == point).all(axis=-1).any():
            other = int(generator.choice(free))
            point[other] = _step(point, other, problem, generator)
            tries -= 1
    return problem.canonical(point)


def inherited(children: Array, parents: Array, problem: Problem) -> Array:
    """Canonical `children` [n, matings, variables] of `parents` [2, matings, variables].

    What counts in a child and in one parent alone comes from that one: the other's is at rest.
    """
    counted = problem.counting(parents)
    own = np.where(counted[0], parents[0], parents[1])
    single = problem.counting(children) & (counted[0] != counted[1])
    return problem.canonical(np.where(single, own, children))


def _step(point: Array, variable: int, problem: Problem, generator: Rng) -> float:
    value = float(point[variable])
    return step(value, problem.levels[variable], problem.cells[variable], generator)
