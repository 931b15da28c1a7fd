"""The battery: what every search algorithm has to pass, ours or yours.

Each check takes an `Entry`, builds searchers with it and raises an `AssertionError` that says what is
wrong. Import it for an algorithm that is not in the table:

    for check in CHECKS:
        check(Entry("mine", build=lambda problem: Checked(Mine(problem, 16), problem)))
"""

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from evomerge.search.archive import gains, hypervolume
from evomerge.search.battery_lists import check_lists_beat_random_edits, check_lists_replay
from evomerge.search.battery_tools import (
    Entry,
    Score,
    failing,
    mixed_results,
    play,
    refused,
    spend,
    sphere,
)
from evomerge.search.searcher import Array, snapped

__all__ = [
    "CHECKS", "LEVELS", "Entry", "Score", "check_lists_beat_random_edits", "check_lists_replay",
    "failing", "mixed_results", "play", "sphere",
]  # fmt: skip


def check_calls_out_of_order(entry: Entry) -> None:
    """What was not asked cannot be told, nor anything twice; asking too much is refused."""
    searcher = entry.searcher(3)
    losses = np.zeros(entry.objectives)
    refused(RuntimeError, r"before ask()", lambda: searcher.tell(0, losses, np.zeros(0)))
    searcher.ask()
    refused(RuntimeError, r"before ask()", lambda: searcher.tell(1, losses, np.zeros(0)))
    searcher.tell(0, losses, np.zeros(0))
    refused(RuntimeError, "called twice", lambda: searcher.tell(0, losses, np.zeros(0)))


def check_wrong_values_are_refused_and_can_be_told_again(entry: Entry) -> None:
    """Shapes, infinities, half-failed rows, negative violations."""
    constraints = int(entry.constraints)
    searcher = entry.searcher(3, constraints=constraints)
    searcher.ask()
    good, met = np.full(entry.objectives, 0.5), np.zeros(constraints)
    refused(ValueError, "losses has shape", lambda: searcher.tell(0, np.zeros(9), met))
    refused(ValueError, "violations has shape", lambda: searcher.tell(0, good, np.zeros(9)))
    refused(ValueError, "neither finite", lambda: searcher.tell(0, good * np.inf, met))
    if constraints:
        refused(ValueError, "0 or greater", lambda: searcher.tell(0, good, met - 1))
        refused(ValueError, "0 or greater", lambda: searcher.tell(0, good, met * np.nan))
    searcher.tell(0, good, met)


def check_nobody_s_arrays_are_touched(entry: Entry) -> None:
    """Neither the caller's by the searcher, nor the searcher's by the caller."""
    initial = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    clean = entry.searcher(3, seed=4, initial=initial)
    dirty = entry.searcher(3, seed=4, initial=initial)
    for number in range(min(24, entry.most)):
        point, scribbled = clean.ask(), dirty.ask()
        assert np.array_equal(point, scribbled), "writing to a point changed later ones"
        losses, violations = sphere(entry.objectives)(point, number)
        before = losses.copy()
        scribbled[:] = 0.5
        for searcher in (clean, dirty):
            searcher.tell(number, losses, violations)
            assert np.array_equal(losses, before), "tell() wrote to the losses"
        losses[:] = 0.0
    assert np.array_equal(initial, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def check_points_lie_in_the_unit_cube(entry: Entry) -> None:
    """In 1, 2, 7 and 200 dimensions, the optimum in a corner."""
    for variables, candidates in ((1, 60), (2, 60), (7, 60), (200, 24)):
        points = spend(
            entry,
            entry.searcher(variables, population=10),
            candidates,
            lambda point, number: sphere(entry.objectives)(point - 0.7, number),
        )
        assert points.shape == (min(candidates, entry.most), variables)
        assert points.min() >= 0
        assert points.max() <= 1
        assert len(np.unique(points, axis=0)) > len(points) / 2, "the same points over and over"


def check_initial_points_come_first(entry: Entry) -> None:
    """In their order, each once, whatever their number, and the population makes room."""
    known = np.random.default_rng(77).random((12, 3))
    for initial in (known[:1], known[:5], known):
        searcher = entry.searcher(3, initial=np.concatenate([initial, initial]))
        asked = np.stack([searcher.ask() for _ in range(min(searcher.batch, 14))])
        assert np.array_equal(asked[: len(initial)], initial)
        assert len(np.unique(asked, axis=0)) == len(asked)
        assert searcher.batch + len(asked) >= len(initial)
    full = entry.searcher(3, initial=known, population=12)
    spend(entry, full, 30, sphere(entry.objectives))


LEVELS = (0, 3, 0, 2, 4, 1)


def check_choices_come_in_the_middle_of_their_cells(entry: Entry) -> None:
    """Of numbers and options mixed; more than half of the options are tried."""
    searcher = entry.searcher(len(LEVELS), levels=LEVELS, population=10)
    score = failing(sphere(entry.objectives, LEVELS), lambda point, number: number % 5 == 1)
    points = spend(entry, searcher, 60, score)
    for column, count in zip(points.T, LEVELS, strict=True):
        if count:
            cells = set(np.round(column * count - 0.5, 9).tolist())
            assert cells <= set(range(count)), f"off the middle: {cells}"
            assert len(points) < 30 or len(cells) > count / 2, f"only options {cells} of {count}"


def check_nothing_is_asked_twice_at_once(entry: Entry) -> None:
    """In a space of 24 candidates with 6 pending; and one of 4 with 6 pending goes on."""
    for levels in ((2, 3, 4), (2, 2)):
        searcher = entry.searcher(len(levels), levels=levels, population=6)
        out: dict[int, bytes] = {}
        score, size = sphere(entry.objectives, levels), int(np.prod(levels))
        for number in range(min(48, entry.most)):
            point = searcher.ask()
            assert len(out) >= size or point.tobytes() not in out.values(), (
                f"{point} asked while it was pending"
            )
            out[number] = point.tobytes()
            if len(out) == 6:
                told = list(out) if not entry.steady else [min(out)]
                for each in told:
                    searcher.tell(each, *score(np.frombuffer(out.pop(each)), each))


def check_failures_never_stop_a_search(entry: Entry) -> None:
    """Every third; the first 40; all but one in eight; all."""
    patterns: tuple[Callable[[Array, int], bool], ...] = (
        lambda point, number: number % 3 == 2,
        lambda point, number: number < min(40, entry.most - 8),
        lambda point, number: number % 8 > 0,
        lambda point, number: True,
    )
    for fails in patterns:
        searcher = entry.searcher(3, population=8)
        points = spend(entry, searcher, 64, failing(sphere(entry.objectives), fails))
        assert np.isfinite(points).all()
        assert len(np.unique(points, axis=0)) == len(points)


def check_failed_candidates_are_no_example(entry: Entry) -> None:
    """Half the space fails, where losses would be best; its border is the best that is left.

    A search comes near the border from the other side; one that selects what fails stays beyond.
    """
    if not entry.learns or entry.most < 100:
        return
    score = failing(sphere(entry.objectives), lambda point, number: bool(point[0] < 0.5))
    points = spend(entry, entry.searcher(3, population=10), 200, score)
    late = points[-80:, 0]
    assert np.mean(late < 0.5) < 0.75, f"{np.mean(late < 0.5):.0%} of late points fail"


def check_replay_restores_the_state(entry: Entry) -> None:
    """The same asks and tells give the same points, numbers and choices mixed, some failing."""
    constraints = int(entry.constraints)

    def asked(levels: tuple[int, ...], seed: int) -> Array:
        searcher = entry.searcher(
            6, levels=levels, seed=seed, population=6, constraints=constraints
        )
        return spend(entry, searcher, 40, mixed_results(entry, levels))

    mixed = asked(LEVELS, 3)
    assert np.array_equal(mixed, asked(LEVELS, 3)), "another course the second time"
    assert not np.array_equal(mixed[-4:], asked(LEVELS, 4)[-4:]), "the seed makes no difference"
    if entry.most > 100:
        assert np.array_equal(asked((), 3), asked((), 3)), "another course the second time"


def check_generations_do_not_depend_on_the_order_of_results(entry: Entry) -> None:
    """Where a search goes by generations, who finishes first must not matter."""
    if entry.steady:
        return
    shuffled = spend(entry, entry.searcher(3, population=6), 24, sphere(entry.objectives))
    searcher = entry.searcher(3, population=6)
    for first in range(0, len(shuffled), 6):
        batch = range(first, min(first + 6, len(shuffled)))
        points = np.stack([searcher.ask() for _ in batch])
        assert np.array_equal(points, shuffled[first : first + 6])
        for number, point in zip(batch, points, strict=True):
            searcher.tell(number, *sphere(entry.objectives)(point, number))


def check_global_state_is_neither_read_nor_disturbed(entry: Entry) -> None:
    """NumPy's and Python's generators, and Python's warning filters."""
    saved = np.random.get_state(), random.getstate()
    score = failing(sphere(entry.objectives), lambda point, number: number % 3 == 0)

    def asked(seed: int) -> Array:
        np.random.seed(seed)
        random.seed(seed)
        before: Any = np.random.get_state()
        python, filters = random.getstate(), list(warnings.filters)
        points = spend(entry, entry.searcher(4, population=6), 40, score)
        after: Any = np.random.get_state()
        assert np.array_equal(after[1], before[1]), "drew from numpy.random"
        assert after[2] == before[2], "drew from numpy.random"
        assert random.getstate() == python, "drew from random"
        assert list(warnings.filters) == filters, "changed the warning filters"
        return points

    spend(entry, entry.searcher(4, population=6), 8, score)  # imports may add filters
    try:
        assert np.array_equal(asked(1), asked(2)), "it reads a global generator"
    finally:
        np.random.set_state(saved[0])
        random.setstate(saved[1])


def check_constraints_are_respected(entry: Entry) -> None:
    """The optimum 0.3 is forbidden: the mean of the variables has to reach 0.5."""
    if not entry.constraints or not entry.learns:
        return

    def score(point: Array, number: int) -> tuple[Array, Array]:
        return sphere(entry.objectives)(point, number)[0], np.maximum(0.5 - point[:4].mean(), [0])

    searcher = entry.searcher(4, constraints=1, population=10, seed=1)
    points = spend(entry, searcher, 300, score)
    late = points[-min(100, len(points) // 2) :]
    kept = late[late.mean(axis=1) >= 0.5]
    if len(points) < 100:
        assert len(kept) > 0, "no late point keeps it"
        return
    assert len(kept) > 0.4 * len(late), f"only {len(kept)} of {len(late)} late points keep it"
    if entry.objectives == 1:
        best = min(((point - 0.3) ** 2).mean() for point in kept)
        assert 0.04 <= best < 0.06, f"{best}, where 0.04 can be had"


def check_it_beats_random_search(entry: Entry) -> None:
    """At the same budget, with a known optimum: one loss, or the hypervolume of two; with choices."""
    if not entry.learns:
        return
    mixed = (0, 3, 0, 4, 0, 4, 0, 5, 0, 3, 0, 4) if entry.unordered else (0,) * 7 + (3,)
    for levels in ((0,) * 8, mixed)[: 2 if entry.most > 100 else 1]:
        score, seeds = sphere(entry.objectives, levels), (1, 2) if entry.most > 100 else (1,)
        population = min(10, entry.most // 4)
        played = [
            spend(
                entry,
                entry.searcher(len(levels), levels=levels, population=population, seed=seed),
                160,
                score,
            )
            for seed in seeds
        ]
        chance = np.random.default_rng(0).random((6, *played[0].shape))
        ours = np.mean([_quality(points, score) for points in played])
        lucky = [_quality(snapped(points, levels), score) for points in chance]
        # numbers alone are easy: better than the luckiest of six; one wrong choice is dear
        theirs = np.mean(lucky) if any(levels) or entry.most < 100 else max(lucky)
        assert ours > theirs, f"{ours} against {theirs} at random, levels {levels}"


def _quality(points: Array, score: Score) -> float:
    losses = np.stack([score(point, 0)[0] for point in points])
    if losses.shape[1] == 1:
        return -float(losses.min())
    # the ends of the front are at (0, 0.16) and (0.16, 0)
    worst = np.full(losses.shape[1], -0.25)
    return hypervolume(gains(losses, ["minimize"] * losses.shape[1]), worst)


CHECKS: tuple[Callable[[Entry], None], ...] = tuple(
    check for name, check in list(globals().items()) if name.startswith("check_")
)
"""All of the battery."""
