"""The standing of a search: its candidates so far, their archive, the best, the hypervolume."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from evomerge.evaluation import Evaluation
from evomerge.search.archive import Archive, gains, hypervolume
from evomerge.search.beliefs import Believed, believe
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals

REFERENCE_CANDIDATES = 32

_DRAWS = 64
"""Fronts drawn from the errors, for the hypervolume's own."""


class Standing:
    """Grows with each generation; costs O(front) per candidate.

    Args:
        goals: what is optimised.
        racing: candidates answer unlike numbers of items, so the archive compares what they are
            believed to be worth (`beliefs.py`), not the luck of the few.

    Attributes:
        answers: items answered when candidates were first measured, whoever paid for them.
        racing: as passed.
        again: items answered more when some of them were measured again.
        tokens: generated in all of those answers.
    """

    def __init__(self, goals: Goals, *, racing: bool = False) -> None:
        self.goals = goals
        self.racing = racing
        self._archive: Archive | None = Archive(goals.directions)
        self._believed: Believed | None = None
        self.answers = self.again = self.tokens = 0
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
                self._believed = None
                self.answers += c.evaluation.items
                self.tokens += c.evaluation.tokens
                if self.racing:
                    self._archive = None  # what all are believed to be worth has changed
                else:
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
                self.tokens += evaluation.tokens - known.evaluation.tokens
                self._scored[recipe_hash] = replace(known, evaluation=evaluation)
        self._archive = self._believed = None

    def parts(self, recipe_hash: str) -> int:
        """How often a candidate was measured."""
        return self._parts.get(recipe_hash, 1)

    def candidate(self, recipe_hash: str) -> Candidate:
        """A scored candidate by its recipe, the first that had it."""
        return self._scored[recipe_hash]

    def scored(self) -> list[Candidate]:
        """Every candidate that has numbers, by all that it answered, each recipe once."""
        return list(self._scored.values())

    def believed(self) -> Believed:
        """What the scored candidates, of which there has to be one, are believed to be worth."""
        if self._believed is None:
            self._believed = believe(self.scored(), self.goals)
        return self._believed

    @property
    def archive(self) -> Archive:
        """The front of what is known now."""
        if self._archive is None:
            believed = self.racing and bool(self._scored)
            self._archive = (
                believed_archive(self.believed(), self.goals)
                if believed
                else archive_of(self.scored(), self.goals)
            )
        return self._archive

    @property
    def best(self) -> float:
        """The greatest weighted mean of the objectives among the feasible; -inf if there are none."""
        directions, weights = self.goals.directions, np.array(self.goals.weights)
        members = [member.values for member in self.archive.front()]
        if not members:
            return -math.inf
        return float((gains(np.array(members), directions) @ weights).max() / weights.sum())

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


def believed_archive(believed: Believed, goals: Goals) -> Archive:
    """The archive of candidates by what they are believed to be worth."""
    archive = Archive(goals.directions)
    values = gains(believed.beliefs.means, goals.directions)
    # only the front can be in it; where nobody keeps the constraints, all may be nearest to that
    for row in believed.front if len(believed.front) else range(len(values)):
        c = believed.candidates[row]
        violation = float(goals.violations([c.evaluation]).sum())
        feasible = goals.feasible(c.evaluation)
        errors = believed.beliefs.errors[row].tolist()
        archive.add(c.recipe_hash, values[row].tolist(), errors, feasible, violation)
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
