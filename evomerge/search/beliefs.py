"""Beliefs: what a search's candidates are really worth, given how few items they answered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from evomerge.asking import Bar, Beliefs, Bounds, Prior, chances
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals

Rows = NDArray[np.intp]

RECENT = 64
"""So many of the last candidates say what their like are worth: a search moves on."""

_FAR = 2.0
"""Errors: who would be beaten even if it were worth this much more is not looked at."""

_RIVALS = 32
"""So many candidates, at least, are drawn against each other."""

_DRAWN = 128
"""For so many candidates, at most, chances are drawn: it takes 0.1 ms each."""

_LEAST = 0.25
"""Candidates differ by at least this share of their errors: chance alone may hide all of it."""


@dataclass(frozen=True)
class Believed:
    """The scored candidates of a search, luck discounted.

    Attributes:
        candidates: in the order in which they were added.
        beliefs: their worth, row by row.
        prior: of the last of them.
        bounds: constraints, as `chances` takes them.
        front: rows of `candidates` that keep the constraints and that no other such row beats.
        rivals: these, and the rows that come next: a front of one has rivals, too.
    """

    candidates: tuple[Candidate, ...]
    beliefs: Beliefs
    prior: Prior
    bounds: Bounds
    front: Rows
    rivals: Rows

    def bar(self, goals: Goals, chance: float) -> Bar:
        """What the next candidate has to pass: such a chance to be on the front."""
        return Bar(goals.signs, self.prior, self.beliefs.of(self.rivals), self.bounds, chance)

    def chances(self) -> np.ndarray:
        """[candidates], the probability of each to be on the front.

        0 for who is far from it, and beyond the 128 likeliest.
        """
        rivals = self.beliefs.of(self.rivals)
        place = np.full(len(self.candidates), -1)
        place[self.rivals] = np.arange(len(self.rivals))
        best = (self.beliefs.means + _FAR * self.beliefs.errors)[:, None]
        worst = (rivals.means - _FAR * rivals.errors)[None]
        ahead = np.prod(worst >= best, axis=2) * (np.sum(worst > best, axis=2) > 0)
        near = np.flatnonzero(ahead.sum(axis=1) == 0)
        if len(near) > _DRAWN:
            near = near[np.sort(np.argsort(-self._likely(near), kind="stable")[:_DRAWN])]
        found = np.zeros(len(self.candidates))
        found[near] = chances(self.beliefs.of(near), rivals, self.bounds, place[near])
        return found

    def _likely(self, rows: Rows) -> np.ndarray:
        """Chances of some candidates in closed form: as if the rivals were independent."""
        mine, rivals = self.beliefs.of(rows), self.beliefs.of(self.rivals)
        gap = rivals.means[None] - mine.means[:, None]
        error = np.hypot(rivals.errors[None], mine.errors[:, None])
        beaten = ndtr(gap / np.maximum(error, 1e-12)).prod(axis=2)
        beaten[rows[:, None] == self.rivals[None]] = 0.0
        return (1 - beaten).prod(axis=1)


def believe(candidates: Sequence[Candidate], goals: Goals) -> Believed:
    """Beliefs about scored candidates, at least one.

    Args:
        candidates: in the order in which they were added.
        goals: what is optimised.
    """
    signs = np.array(list(goals.signs.values()))
    values = np.array([goals.values(c.evaluation) for c in candidates]) * signs
    errors = np.array([goals.errors(c.evaluation) for c in candidates])
    prior = prior_of(values[-RECENT:], errors[-RECENT:])
    beliefs = prior.given(values, errors)
    bounds = tuple(_bound(goals, c.objective, c.sign, c.bound) for c in goals.constraints)
    keep = np.flatnonzero([goals.feasible(c.evaluation) for c in candidates])
    front = keep[_front(beliefs.means[keep])]
    rivals = front
    while len(rivals) < _RIVALS and len(rest := np.setdiff1d(keep, rivals)):
        rivals = np.concatenate([rivals, rest[_front(beliefs.means[rest])]])
    return Believed(tuple(candidates), beliefs, prior, bounds, front, rivals)


def _bound(goals: Goals, name: str, sign: str, bound: float) -> tuple[int, int, float]:
    """A constraint on what is turned so that greater is better."""
    upward = 1 if sign == ">=" else -1
    return goals.names.index(name), upward * goals.signs[name], upward * bound


def prior_of(values: np.ndarray, errors: np.ndarray) -> Prior:
    """The prior of which values [n, objectives] with these errors were drawn, by their moments.

    What they vary by beyond their errors is what candidates differ by (DerSimonian and Laird 1986,
    Meta-analysis in clinical trials, with equal weights).
    """
    noise = (errors**2).mean(axis=0)
    spread = np.maximum(values.var(axis=0) - noise, _LEAST**2 * noise)
    return Prior(values.mean(axis=0), np.sqrt(np.maximum(spread, 1e-12)))


def _front(means: np.ndarray) -> Rows:
    """Rows that no other row beats, ascending; of equal ones the first."""
    left = np.argsort(-means.sum(axis=1), kind="stable")
    front: list[int] = []
    while len(left):  # the greatest sum of what is left cannot be beaten
        front.append(int(left[0]))
        left = left[np.prod(means[left[0]] >= means[left], axis=1) == 0]
    return np.array(sorted(front), dtype=np.intp)
