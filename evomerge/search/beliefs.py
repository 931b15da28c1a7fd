"""Beliefs: what a search's candidates are really worth, given how few items they answered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.asking import Bar, Beliefs, Prior, chances
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals

RECENT = 64
"""So many of the last candidates say what their like are worth: a search moves on."""

_FAR = 2.0
"""Errors: who would be beaten even if it were worth this much more is not looked at."""

_LEAST = 0.25
"""Candidates differ by at least this share of their errors: chance alone may hide all of it."""


@dataclass(frozen=True)
class Believed:
    """The scored candidates of a search, luck discounted.

    Attributes:
        candidates: in the order in which they were added.
        beliefs: their worth, row by row.
        prior: of the last of them.
        bounds: constraints, as `chances` wants them.
        front: rows of `candidates` that no other beats by its mean.
    """

    candidates: tuple[Candidate, ...]
    beliefs: Beliefs
    prior: Prior
    bounds: tuple[tuple[int, int, float], ...]
    front: np.ndarray

    def bar(self, goals: Goals, chance: float) -> Bar:
        """What the next candidate has to pass: such a chance to be on the front."""
        return Bar(goals.signs, self.prior, self.beliefs.of(self.front), self.bounds, chance)

    def chances(self) -> np.ndarray:
        """[candidates], the probability of each to be on the front; 0 where it is far from that."""
        place = np.full(len(self.candidates), -1)
        place[self.front] = np.arange(len(self.front))
        front = self.beliefs.of(self.front)
        hopeful = self.beliefs.means + _FAR * self.beliefs.errors
        behind = np.prod(front.means[None] >= hopeful[:, None], axis=2)  # of each member
        near = np.flatnonzero(behind.sum(axis=1) == 0)
        found = np.zeros(len(self.candidates))
        found[near] = chances(self.beliefs.of(near), front, self.bounds, place[near])
        return found


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
    bounds = tuple(
        (goals.names.index(c.objective), 1 if c.sign == ">=" else -1, c.bound)
        for c in goals.constraints
    )
    keeps = np.array([goals.feasible(c.evaluation) for c in candidates], dtype=bool)
    front = _front(beliefs.means, keeps)
    return Believed(tuple(candidates), beliefs, prior, bounds, front)


def prior_of(values: np.ndarray, errors: np.ndarray) -> Prior:
    """The prior of which values [n, objectives] with these errors were drawn, by their moments.

    What they vary by beyond their errors is what candidates differ by (DerSimonian and Laird 1986,
    Meta-analysis in clinical trials, with equal weights).
    """
    noise = (errors**2).mean(axis=0)
    spread = np.maximum(values.var(axis=0) - noise, _LEAST**2 * noise)
    return Prior(values.mean(axis=0), np.sqrt(np.maximum(spread, 1e-12)))


def _front(means: np.ndarray, keeps: np.ndarray) -> np.ndarray:
    """Rows that keep the constraints and that no other such row beats; the first of equals."""
    front: list[int] = []
    for row in np.flatnonzero(keeps):
        if any((means[other] >= means[row]).all() for other in front):
            continue
        front = [other for other in front if not (means[row] >= means[other]).all()]
        front.append(int(row))
    return np.array(front, dtype=np.intp)
