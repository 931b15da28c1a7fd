"""Points that have been asked and not told, and how not to ask for the same candidate twice."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from evomerge.search.edits import edited, random_points
from evomerge.search.searcher import Array, Problem

Note = TypeVar("Note")

_STEPS = 64
"""How far a random walk over the cells goes to find one that is not pending."""


class Pending(Generic[Note]):
    """Numbers points as they are asked and keeps each, with a note, until it is told.

    Two points are the same candidate if they have the same canonical form (`Problem.canonical`); that
    happens to points of a converged search and in discrete spaces.

    Args:
        problem: whose points.
        generator: where a repeated point is moved to.
        draws: how often an algorithm is asked for another point in place of one that is pending.
        forever: avoid what has been told, too, for algorithms that would ask it again and again. So
            it is in problems with conditions, where few variables count and those soon repeat.
    """

    def __init__(
        self,
        problem: Problem,
        generator: np.random.Generator,
        draws: int = 8,
        forever: bool = False,
    ) -> None:
        self._problem, self._generator, self._draws = problem, generator, draws
        forever = forever or any(problem.conditions)
        self._known: set[bytes] | None = set() if forever else None
        self._points: dict[int, tuple[Array, Note]] = {}
        self._keys: dict[bytes, int] = {}
        self._asked = 0

    def __len__(self) -> int:
        return len(self._points)

    def ask(self, draw: Callable[[], tuple[Array, Note]]) -> Array:
        """A point [variables] from `draw`, which also says what to remember of it.

        If `draw` keeps coming up with what is pending, its last point is moved to a free cell
        nearby; if there is none, a point is asked twice.
        """
        point, note = draw()
        for _ in range(self._draws - 1):
            if self._new(point):
                break
            point, note = draw()
        if not self._new(point):
            point = moved(point, self._problem, self._generator, self._new)
        if not self._free(point):  # all of a small space has been asked
            point = moved(point, self._problem, self._generator, self._free)
        self._points[self._asked] = point, note
        key = self._key(point)
        self._keys[key] = self._keys.get(key, 0) + 1
        if self._known is not None:
            self._known.add(key)
        self._asked += 1
        return point

    def tell(self, number: int) -> tuple[Array, Note]:
        """The point of that number and its note; it is pending no more."""
        point, note = self._points.pop(number)
        key = self._key(point)
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]
        return point, note

    def notes(self) -> list[Note]:
        """The notes of what is pending, in the order of ask."""
        return [note for _, note in self._points.values()]

    def _new(self, point: Array) -> bool:
        key = self._key(point)
        return key not in self._keys and (self._known is None or key not in self._known)

    def _free(self, point: Array) -> bool:
        return self._key(point) not in self._keys

    def _key(self, point: Array) -> bytes:
        return self._problem.canonical(point).tobytes()


def moved(
    point: Array,
    problem: Problem,
    generator: np.random.Generator,
    free: Callable[[Array], bool],
) -> Array:
    """A free point near `point` [variables]: a random walk over its variables that have cells.

    Where there are none it is a random point; where there is a list or almost every point is
    worthless, the walk is one of edits. After a walk that met no free point: where it ended.
    """
    edits = problem.slots is not None or len(problem.origins) > 0 or any(problem.conditions)
    columns = np.flatnonzero(np.array(problem.counts) > 1)
    if not len(columns) and not edits:
        return generator.random(len(point))
    walker = point.copy()
    for _ in range(_STEPS):
        if edits:
            walker = edited(walker, problem, 1, generator)
        else:
            column = int(generator.choice(columns))
            cells = problem.counts[column]
            walker[column] = (generator.integers(cells) + 0.5) / cells
        if free(walker):
            break
    return walker


def distinct(
    points: Array, problem: Problem, generator: np.random.Generator, taken: Array | None = None
) -> Array:
    """`points` [batch, variables], rows that repeat an earlier candidate moved where possible.

    Args:
        points: what is to be asked; rows are replaced in place.
        problem: whose points.
        generator: drawn from only where rows repeat.
        taken: [n, variables], other points that are not to be asked again.
    """
    known = set() if taken is None else {row.tobytes() for row in problem.canonical(taken)}
    batch: set[bytes] = set()

    def new(point: Array) -> bool:
        key = problem.canonical(point).tobytes()
        return key not in batch and key not in known

    def once(point: Array) -> bool:
        return problem.canonical(point).tobytes() not in batch

    for row, point in enumerate(points):
        if not new(point):
            points[row] = moved(point, problem, generator, new)
        if not once(points[row]):  # all of a small space is taken
            points[row] = moved(point, problem, generator, once)
        batch.add(problem.canonical(points[row]).tobytes())
    return points


def random_start(problem: Problem, generator: np.random.Generator, population: int) -> Array:
    """A first generation, [population, variables]: the initial points, then random ones."""
    points = random_points(problem, generator, population)
    points[: len(problem.initial)] = problem.initial
    return distinct(points, problem, generator)
