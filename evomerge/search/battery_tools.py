"""What checks of the battery are made of: an algorithm used in one way, games with known answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.search.searcher import Array, Checked, Problem

Score = Callable[[Array, int], tuple[Array, Array]]
"""What a point [variables] is worth, given its number: losses [objectives], violations."""


@dataclass(frozen=True)
class Entry:
    """An algorithm, used in one way.

    Attributes:
        name: for messages.
        build: a searcher for a problem.
        objectives: how many losses.
        steady: told of each result as it comes.
        constraints: whether it prefers candidates that keep them.
        learns: whether results change what it asks.
        unordered: whether it searches options without taking them for neighbours.
        lists: whether it varies lists as lists.
        most: candidates that a check may spend, for algorithms that think for long.
    """

    name: str
    build: Callable[[Problem], Checked]
    objectives: int = 1
    steady: bool = False
    constraints: bool = True
    learns: bool = True
    unordered: bool = True
    lists: bool = False
    most: int = 10_000

    def searcher(self, variables: int, **options: Any) -> Checked:
        """A searcher for a problem of that many variables."""
        return self.build(Problem(variables, self.objectives, steady=self.steady, **options))


def sphere(objectives: int, levels: tuple[int, ...] = ()) -> Score:
    """Mean squared distance to 0.3 (and to 0.7); with levels, the first option of each is best."""
    numbers = [i for i, n in enumerate(levels) if not n] if levels else slice(None)
    choices = [i for i, n in enumerate(levels) if n]

    def score(point: Array, number: int) -> tuple[Array, Array]:
        wrong = sum(point[i] > 1 / levels[i] for i in choices)
        centres = (0.3, 0.7)[:objectives]
        losses = [wrong + ((point[numbers] - c) ** 2).sum() for c in centres]
        return np.array(losses) / len(point), np.zeros(0)

    return score


def failing(score: Score, fails: Callable[[Array, int], bool]) -> Score:
    """`score`, but for candidates that fail."""

    def worth(point: Array, number: int) -> tuple[Array, Array]:
        losses, violations = score(point, number)
        return (losses * np.nan if fails(point, number) else losses), violations

    return worth


def play(
    searcher: Checked, candidates: int, score: Score, steady: bool = False, pending: int = 8
) -> Array:
    """The points asked, [candidates, variables], results coming in an order of their own.

    Up to `pending` are out at a time; by generations all of one are, and they are told shuffled.
    """
    chance = np.random.default_rng(0)
    points: list[Array] = []
    out: list[int] = []
    while len(points) < candidates or out:
        free = pending - len(out) if steady else 0 if out else searcher.batch
        for _ in range(min(free, candidates - len(points))):
            out.append(len(points))
            points.append(searcher.ask())
        number = out.pop(int(chance.integers(len(out))))
        searcher.tell(number, *score(points[number], number))
    return np.stack(points)


def spend(entry: Entry, searcher: Checked, candidates: int, score: Score) -> Array:
    """The points asked of an entry's searcher, [candidates, variables], as far as it may spend them."""
    pending = 8 if entry.most > 100 else 3
    return play(searcher, min(candidates, entry.most), score, entry.steady, pending)


def mixed_results(entry: Entry, levels: tuple[int, ...]) -> Score:
    """Every fourth fails; a constraint is broken at times, where the algorithm takes one."""
    inner = failing(sphere(entry.objectives, levels), lambda point, number: number % 4 == 3)

    def score(point: Array, number: int) -> tuple[Array, Array]:
        broken = np.maximum(0.4 - point[:1], 0)[: int(entry.constraints)]
        return inner(point, number)[0], broken

    return score


def refused(kind: type[Exception], text: str, call: Callable[[], object]) -> None:
    """Assert that the call raises an exception that says so."""
    said = None
    try:
        call()
    except kind as error:
        said = str(error)
    assert said is not None, f"no {kind.__name__} that says '{text}'"
    assert text in said, f"it says '{said}', not '{text}'"
