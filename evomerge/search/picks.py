"""Ways of picking one model of a front: `knee`, `best:OBJECTIVE`, `prefer:NAME=W,NAME=W`.

Where something else than scores of tasks is optimised as well (a cost, a spread, flips), a front ends
in models that are cheap because they can do nothing. A compromise is therefore sought among the living
alone: those whose mean score reaches half of the best one's among the same candidates, on the same
items (`report/alive.py` counts the living by the same half). Whoever asks for `best:` of a cost gets
what was asked for, dead or alive.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.search.archive import Array
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals
from search_spaces.errors import InputError, nearest

KNEE, BEST, PREFER = "knee", "best:", "prefer:"

HALF = 0.5
"""Of the best mean score: who reaches it is alive."""

AUGMENTATION = 0.05
"""Weight of the sum beside the maximum in the achievement function."""


@dataclass(frozen=True)
class Pick:
    """How one of a front is picked.

    Attributes:
        objective: whose best it is; None: a compromise.
        weights: by objective, what a shortfall in it counts; empty: the knee.
    """

    objective: str | None = None
    weights: Mapping[str, float] | None = None


def parse_pick(how: str, objectives: Sequence[str], where: str) -> Pick:
    """What `knee`, `best:OBJECTIVE` or `prefer:NAME=W,NAME=W` asks for.

    Args:
        how: as the user wrote it.
        objectives: the run's.
        where: the option or key it stands in.

    Raises:
        InputError: it is none of these, names no objective, or a weight is no positive number.
    """
    if how == KNEE:
        return Pick()
    if how.startswith(PREFER):
        return Pick(weights=_weights(how.removeprefix(PREFER), objectives, where))
    known = [KNEE, *(f"{BEST}{name}" for name in objectives)]
    if how not in known:
        raise InputError(
            f"'{how}'",
            "it is neither `knee` nor `best:OBJECTIVE` nor `prefer:NAME=W,NAME=W`",
            where,
            nearest(how, known),
        )
    return Pick(objective=how.removeprefix(BEST))


def _weights(text: str, objectives: Sequence[str], where: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.rpartition("="))
        if not equals or not name:
            raise InputError(
                f"'{part.strip()}'",
                "a preference is NAME=WEIGHT, several with commas between them",
                where,
                f"write {objectives[0]}=1, say",
            )
        if name not in objectives:
            raise InputError(f"'{name}'", "no such objective", where, nearest(name, objectives))
        if name in found:
            raise InputError(f"'{name}'", "it is named twice", where, "name each objective once")
        found[name] = _positive(name, value, where)
    return found


def _positive(name: str, value: str, where: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(
            f"'{name}={value}'",
            "a weight is a number above 0",
            where,
            "leave an objective out that is not to count",
        )
    return weight


def check_pick(how: str, objectives: Sequence[str], where: str) -> None:
    """Refuse a way of picking that names nothing.

    Raises:
        InputError: see `parse_pick`.
    """
    parse_pick(how, objectives, where)


def without(how: str, objectives: Sequence[str]) -> str:
    """The same way of picking over these objectives only; the knee where none is left.

    Args:
        how: valid for the objectives of the run.
        objectives: some of them.
    """
    if how.startswith(PREFER):
        parts = [
            p
            for p in how.removeprefix(PREFER).split(",")
            if p.rpartition("=")[0].strip() in objectives
        ]
        return PREFER + ",".join(parts) if parts else KNEE
    return how if how.removeprefix(BEST) in objectives else KNEE


def living(candidates: Sequence[Candidate], goals: Goals) -> list[Candidate]:
    """Those whose mean score reaches half of the best one's, and more than nothing.

    All of them where nothing but scores is optimised (then the front has no cheap end), where the
    goals do not say what a score is, or where nobody scored anything.

    Args:
        candidates: scored on the same items.
        goals: what is optimised; `scores` says which of it are scores of tasks.
    """
    everyone = list(candidates)
    if not goals.scores or set(goals.scores) == set(goals.names):
        return everyone
    means = [_mean_score(c, goals) for c in everyone]
    best = max(means, default=0.0)
    kept = [c for c, mean in zip(everyone, means, strict=True) if mean > 0 and mean >= HALF * best]
    return kept or everyone


def _mean_score(candidate: Candidate, goals: Goals) -> float:
    objectives = candidate.evaluation.objectives
    return sum(objectives[name].value for name in goals.scores) / len(goals.scores)


def preferred(front: Array, weights: Sequence[float]) -> int:
    """The row of the point that serves a preference best.

    Each objective's shortfall d is the distance from the front's best value in units of the front's
    range, so 0 is its best and 1 its worst; weights are scaled to the sum 1. Minimised is the
    augmented weighted Chebyshev distance from the ideal point,

        max_i w_i d_i + 0.05 sum_i w_i d_i,

    an achievement scalarising function (Wierzbicki 1980, The Use of Reference Objectives in
    Multiobjective Optimization; augmented as in Steuer and Choo 1983). A weighted sum would do worse:
    it never finds a point in a dent of the front and jumps from one end to the other at some weight,
    while every point of a front is the best by this for some weights. Equal: the smaller sum of
    shortfalls in all objectives, then the earlier row.

    Args:
        front: [points, objectives], greater is better, at least one point.
        weights: [objectives], 0 or more, not all 0. An objective without one does not count.
    """
    share = np.asarray(weights, dtype=float) / float(np.sum(weights))
    span = np.ptp(front, axis=0)
    short = (front.max(axis=0) - front) / np.where(span > 0, span, 1.0)
    weighted = short * share
    reached = weighted.max(axis=1) + AUGMENTATION * weighted.sum(axis=1)
    return int(np.lexsort((short.sum(axis=1), np.round(reached, 12)))[0])
