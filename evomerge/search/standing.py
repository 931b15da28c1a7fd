"""The standing of a search: its candidates so far, their archive, the best, the hypervolume."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evomerge.evaluation import Evaluation
from evomerge.search.archive import Archive, gains, hypervolume
from evomerge.search.goals import Goals
from search_spaces.variables import Genome

REFERENCE_CANDIDATES = 32

_DRAWS = 64
"""Fronts drawn from the errors, for the hypervolume's own."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe being judged: what the driver remembers of it."""

    id: int
    genome: Genome
    recipe_hash: str
    evaluation: Evaluation


class Standing:
    """Grows with each generation; costs O(front) per candidate.

    Args:
        goals: what is optimised.

    Attributes:
        answers: items answered when candidates were first measured, whoever paid for them.
        again: items answered more when some of them were measured again.
    """

    def __init__(self, goals: Goals) -> None:
        self.goals = goals
        self.archive = Archive(goals.directions)
        self.answers = self.again = 0
        self._scored: dict[str, Candidate] = {}
        self._parts: dict[str, int] = {}
        self._first: list[list[float]] = []
        self._asked = 0

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Take in candidates, in the order of ask."""
        for c in candidates:
            if c.evaluation.scored and c.recipe_hash not in self._scored:
                if self._asked < REFERENCE_CANDIDATES:
                    self._first.append(self.goals.values(c.evaluation))
                self._scored[c.recipe_hash] = c
                self.answers += c.evaluation.items
                _add(self.archive, c, self.goals)
            self._asked += 1

    def renew(self, found: Iterable[tuple[str, Evaluation]]) -> None:
        """Take in what measuring some candidates again came to: recipe hash, evaluation.

        One that failed leaves the candidate as it was.
        """
        for recipe_hash, evaluation in found:
            self._parts[recipe_hash] = self.parts(recipe_hash) + 1
            if evaluation.scored:
                known = self._scored[recipe_hash]
                self.again += evaluation.items - known.evaluation.items
                self._scored[recipe_hash] = replace(known, evaluation=evaluation)
        self.archive = archive_of(list(self._scored.values()), self.goals)

    def parts(self, recipe_hash: str) -> int:
        """How often a candidate was measured."""
        return self._parts.get(recipe_hash, 1)

    def scored(self) -> list[Candidate]:
        """Every candidate that has numbers, by all that it answered, each recipe once."""
        return list(self._scored.values())

    @property
    def best(self) -> float:
        """The greatest weighted mean of the objectives among the feasible; -inf if there are none."""
        front = (self._scored[member.key].evaluation for member in self.archive.front())
        return max(map(self.goals.scalar, front), default=-math.inf)

    def reference(self) -> list[float] | None:
        """The point that hypervolume is measured from, in the objectives' units.

        For what is maximised 0 (no task's score is below it), for what is minimised, or can be
        negative, the worst value among the first candidates, so that it stays put as the search goes
        on. None while nothing is scored.
        """
        if not self._first:
            return None
        columns = zip(*self._first, strict=True)
        return [
            min(0.0, *column) if direction == "maximize" else max(column)
            for direction, column in zip(self.goals.directions, columns, strict=True)
        ]

    def hypervolume(self) -> float:
        """Volume between the front and the reference point; 0 while nothing is feasible."""
        reference = self.reference()
        if reference is None or not self.archive.front():
            return 0.0
        return self.archive.hypervolume(reference)

    def hypervolume_error(self) -> float:
        """Its standard deviation if the front's values vary by their standard errors."""
        reference, members = self.reference(), self.archive.front()
        if reference is None or not members:
            return 0.0
        directions = self.goals.directions
        values = np.array([member.values for member in members])
        errors = np.array([member.errors for member in members])
        noise = np.random.default_rng(0).standard_normal((_DRAWS, *values.shape))
        origin = gains(np.asarray([reference]), directions)[0]
        drawn = [hypervolume(gains(values + errors * n, directions), origin) for n in noise]
        return float(np.std(drawn))


def archive_of(candidates: Sequence[Candidate], goals: Goals) -> Archive:
    """The archive of `candidates` by their own evaluations."""
    archive = Archive(goals.directions)
    for c in candidates:
        if c.evaluation.scored:
            _add(archive, c, goals)
    return archive


def _add(archive: Archive, candidate: Candidate, goals: Goals) -> None:
    evaluation = candidate.evaluation
    archive.add(
        candidate.recipe_hash,
        goals.values(evaluation),
        goals.errors(evaluation),
        goals.feasible(evaluation),
        float(goals.violations([evaluation]).sum()),
    )
