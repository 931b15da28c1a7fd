"""How an evaluation ended, and what it found: the record that crosses from evaluator to driver."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from evomerge.asking import EVERYTHING, Asking
from fitness.estimate import Estimate
from fitness.items import Response
from search_spaces.recipe import Recipe

AS_SEARCHED = "as_searched"
"""The test items again, for a winner merged as the search merged it: by thresholds looked up in
tables. What differs from split `test`, where models are merged as they are exported, is what the
tables cost."""


class Outcome(StrEnum):
    """The closed list of ends. Only `SCORED` carries numbers."""

    SCORED = "scored"
    INVALID_RECIPE = "invalid recipe"
    MERGE_FAILED = "merge failed"
    SCORING_FAILED = "scoring failed"
    OUT_OF_MEMORY = "out of memory"
    TIMED_OUT = "timed out"
    WORKER_LOST = "worker lost"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One recipe judged on one split of the items.

    Attributes:
        outcome: how it ended.
        reason: a sentence if it did not end in `SCORED`.
        objectives: estimate by objective name (empty unless scored).
        responses: one per item asked, in the split's order (empty unless scored).
        merge_seconds: merging and swapping weights.
        score_seconds: answering and scoring items.
        worker: which evaluator did it.
        positions: the items' positions in the split, as `responses`; none: every item's.
        items: how many items the estimates rest on.
        answers: how many of them were answered for this evaluation; the rest was known.
        tokens: generated in the answers to those items, whoever paid for them; known once the
            evaluation is recorded.
    """

    outcome: Outcome
    reason: str = ""
    objectives: Mapping[str, Estimate] = field(default_factory=dict)
    responses: tuple[Response, ...] = ()
    merge_seconds: float = 0.0
    score_seconds: float = 0.0
    worker: str = ""
    positions: tuple[int, ...] = ()
    items: int = 0
    answers: int = 0
    tokens: int = 0

    @property
    def scored(self) -> bool:
        """Whether the evaluation carries numbers."""
        return self.outcome is Outcome.SCORED


def latest(parts: Sequence[Evaluation]) -> Evaluation:
    """What is known of a recipe that was measured several times: the last part that was scored."""
    return next((part for part in reversed(parts) if part.scored), parts[0])


class Evaluator(Protocol):
    """Owns one engine and judges recipes, one at a time, in its own process or the driver's."""

    def evaluate(self, recipe: Recipe, split: str, asking: Asking = EVERYTHING) -> Evaluation:
        """Judge `recipe` on items of `split` (`search`, `selection` or `test`).

        Never raises for a bad recipe: the outcome says what happened.
        """
        ...

    def close(self) -> None:
        """Free the engine."""
        ...
