"""Edits of known points: where almost every point is worthless, what is near a good one may not be.

Of layers put together at random hardly any stack speaks (Akiba et al. 2024 search a space of 10^9
paths and better begin with whole models). So where a problem names `origins`, the first generation
is those and small edits of them, and whatever else would be drawn uniformly is edited too.
"""

from collections.abc import Callable, Hashable

import numpy as np

from evomerge.search.conditions import alive, stepped_at
from evomerge.search.lists import Lists, Rng
from evomerge.search.path_operators import mutated
from evomerge.search.problem import Array, Problem

FEW = 3
"""Most mutations of a small edit."""

MANY = 8
"""Most mutations of what a random search draws."""

_DRAWS = 32
"""Edits that are known already before one is taken all the same."""


def edited(point: Array, problem: Problem, mutations: int, generator: Rng) -> Array:
    """A canonical copy of `point` [variables] after so many mutations.

    Each is of the list, if the problem has one, or of one variable that counts: half and half where
    both are there to be mutated.
    """
    point = problem.canonical(point)
    lists = Lists(problem) if problem.slots is not None else None
    for _ in range(mutations):
        outside = alive(point, problem)
        if lists is not None:
            outside = np.intersect1d(outside, lists.outside)
        if lists is not None and (not len(outside) or generator.random() < 0.5):
            point = lists.write(point, mutated(lists.read(point), lists, generator))
        elif len(outside):
            point = stepped_at(point, int(generator.choice(outside)), problem, generator)
    return point


def random_points(problem: Problem, generator: Rng, number: int, most: int = FEW) -> Array:
    """[number, variables]: uniform, or where the problem has origins, edits of them.

    Args:
        problem: whose points.
        generator: drawn from.
        number: how many, each independent of the others.
        most: mutations of an edit, from 1 to so many.
    """
    origins = problem.origins
    if not len(origins):
        return generator.random((number, problem.variables))
    points = np.empty((number, problem.variables))
    for row in range(number):
        origin = origins[int(generator.integers(len(origins)))]
        points[row] = edited(origin, problem, int(generator.integers(1, most + 1)), generator)
    return points


def filled_up(
    problem: Problem, number: int, identity: Callable[[Array], Hashable] = np.ndarray.tobytes
) -> Array:
    """A first generation [number, variables]: the origins, and small edits of them in turn.

    Of more than `number` origins the first. No candidate twice, unless there are hardly any others.

    Args:
        problem: one that has origins; its seed decides what the edits are.
        number: how many points, at least 1.
        identity: equal for canonical points that are the same candidate.
    """
    generator = np.random.default_rng([problem.seed, 1])  # not the stream that searchers draw from
    points = list(problem.canonical(problem.origins)[:number])
    origins = points.copy()
    known = {identity(origin) for origin in origins}

    def edit() -> Array:
        origin = origins[len(points) % len(origins)]
        return edited(origin, problem, int(generator.integers(1, FEW + 1)), generator)

    while len(points) < number:
        point = edit()
        for _ in range(_DRAWS):
            if identity(point) not in known:
                break
            point = edit()
        known.add(identity(point))
        points.append(point)
    return np.stack(points)
