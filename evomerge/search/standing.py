"""The standing of a search: its candidates so far, their archive, the best, the hypervolume."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.evaluation import Evaluation
from evomerge.search.archive import Archive
from evomerge.search.goals import Goals
from search_spaces.variables import Genome

REFERENCE_CANDIDATES = 32


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
    """

    def __init__(self, goals: Goals) -> None:
        self.goals = goals
        self.archive = Archive(goals.directions)
        self.best = -math.inf
        self._first: list[list[float]] = []
        self._asked = 0

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Take in candidates, in the order of ask."""
        for c in candidates:
            if c.evaluation.scored:
                if self._asked < REFERENCE_CANDIDATES:
                    self._first.append(self.goals.values(c.evaluation))
                _add(self.archive, c, self.goals)
                if self.goals.feasible(c.evaluation):
                    self.best = max(self.best, self.goals.scalar(c.evaluation))
            self._asked += 1

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
