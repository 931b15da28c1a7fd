"""What an evaluator is asked about a candidate: rungs of items, and the bar for the next rung."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fitness.estimate import Estimate
from fitness.items import Response

Array = NDArray[np.float64]

Rungs = tuple[tuple[int, ...], ...]
"""Positions in a split. A rung is answered after those before it; no position is in two."""

Bounds = tuple[tuple[int, int, float], ...]
"""Constraints on what beliefs are about: (column, 1 or -1, least)."""

_DRAWS = 512
"""Of a candidate's and the front's values: a probability of 0.1 is told to 0.013."""


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What candidates are worth, luck discounted. Every objective is turned so that greater is better.

    Attributes:
        means: [candidates, objectives].
        errors: [candidates, objectives], standard deviations.
    """

    means: Array
    errors: Array

    def of(self, rows: NDArray[np.intp]) -> "Beliefs":
        """Those of the candidates in these rows."""
        return Beliefs(self.means[rows], self.errors[rows])


@dataclass(frozen=True, eq=False)
class Prior:
    """What candidates like the last ones are worth before they answer anything.

    Attributes:
        means: [objectives].
        spreads: [objectives], standard deviations of what they are really worth; greater than 0.
    """

    means: Array
    spreads: Array

    def given(self, values: Array, errors: Array) -> Beliefs:
        """The posterior of normal values with normal errors, both [candidates, objectives].

        Of many candidates the luckiest seems the best; shrinking each towards what its like are
        worth, the more the less it answered, is the remedy (Efron and Morris 1975, Data analysis
        using Stein's estimator and its generalizations).
        """
        trust = self.spreads**2 / (self.spreads**2 + errors**2)
        means = self.means + trust * (values - self.means)
        return Beliefs(means, errors * np.sqrt(trust))


@dataclass(frozen=True, eq=False)
class Bar:
    """What a candidate has to pass to earn the next rung: it may still enter the front.

    Attributes:
        signs: objective -> 1 if it is maximised, -1 if minimised.
        prior: of the candidates of this search.
        front: the front's members, and who may be on it.
        bounds: constraints, as `chances` takes them.
        chance: to be on the front that it takes, in (0, 1).
    """

    signs: Mapping[str, int]
    prior: Prior
    front: Beliefs
    bounds: Bounds
    chance: float

    def passed(self, found: Mapping[str, Estimate]) -> bool:
        """Whether the candidate with these estimates may be on the front."""
        signs = np.array(list(self.signs.values()))
        values = np.array([[found[name].value for name in self.signs]]) * signs
        errors = np.array([[found[name].se for name in self.signs]])
        belief = self.prior.given(values, errors)
        return float(chances(belief, self.front, self.bounds)[0]) >= self.chance


@dataclass(frozen=True, slots=True)
class Asking:
    """Which items of a split to ask, and when to stop.

    Attributes:
        rungs: positions in the split, answered rung by rung; none at all: every item at once.
        bar: passed after each rung, or the evaluation ends; None: all are answered.
        known: answers that exist, by position: they count and cost nothing.
        incumbent: the scores that flips are counted against, by task and index; None: the
            candidate's own.
        before: the candidate's objectives when it gave answers that are known, for what was
            measured then and cannot be told from them.
    """

    rungs: Rungs = ()
    bar: Bar | None = field(default=None, hash=False)
    known: Mapping[int, Response] = field(default_factory=dict, hash=False)
    incumbent: Mapping[tuple[str, int], float] | None = field(default=None, hash=False)
    before: Mapping[str, Estimate] = field(default_factory=dict, hash=False)

    @property
    def most(self) -> int:
        """How many items it may come to; 0 if there are no rungs."""
        return sum(map(len, self.rungs))


EVERYTHING = Asking()


def chances(
    candidates: Beliefs,
    front: Beliefs,
    bounds: Bounds = (),
    itself: NDArray[np.intp] | None = None,
) -> Array:
    """The probability that each candidate keeps the bounds and that no member of a front beats it.

    By draws from the beliefs, always the same ones. A member beats a candidate if it is worth as
    much in every objective and more in one.

    Args:
        candidates: [n, objectives].
        front: [m, objectives]; may be empty.
        bounds: column, sign, least: column times sign has to be least or more.
        itself: [n], which member of the front a candidate is; -1: none.

    Returns:
        [n].
    """
    n, objectives = candidates.means.shape
    members = len(front.means)
    noise = np.random.default_rng(0).standard_normal((objectives, members + 1, _DRAWS))
    drawn = front.means.T[:, :, None] + front.errors.T[:, :, None] * noise[:, :members]
    found = np.empty(n)
    for row in range(n):
        mine = candidates.means[row][:, None] + candidates.errors[row][:, None] * noise[:, members]
        fine = np.ones(_DRAWS, dtype=bool)
        for column, sign, least in bounds:
            fine &= mine[column] * sign >= least
        no_worse = np.ones((members, _DRAWS), dtype=bool)
        better = np.zeros((members, _DRAWS), dtype=bool)
        for theirs, value in zip(drawn, mine, strict=True):
            no_worse &= theirs >= value
            better |= theirs > value
        beaten = no_worse & better
        if itself is not None and itself[row] >= 0:
            beaten[itself[row]] = False
        fine &= ~beaten.any(axis=0)
        found[row] = fine.mean()
    return found
