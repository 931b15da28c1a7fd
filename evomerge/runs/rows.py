"""How candidates, evaluations and responses lie in the rows of `run.db` (`schema.sql` is its text)."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from evomerge.evaluation import Evaluation, Outcome
from fitness.estimate import Estimate
from fitness.items import Response


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """What a searcher asked for: a row of `candidates`.

    `told` and `asked` are those of an asynchronous phase: its place in the order of telling, from 0,
    and how many candidates had been asked when it was told.
    """

    phase: str
    id: int
    generation: int
    genome: tuple[Any, ...]
    recipe_hash: str
    cached: bool
    told: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item's place in a split: a row of `items`."""

    split: str
    position: int
    task: str
    item: int
    digest: str


def insert_evaluation(
    connection: sqlite3.Connection, recipe_hash: str, split: str, part: int, evaluation: Evaluation
) -> None:
    """Write down an evaluation, and its responses if it has any, in the caller's transaction."""
    objectives = {name: [e.value, e.se] for name, e in evaluation.objectives.items()}
    cursor = connection.execute(
        "INSERT INTO evaluations (recipe_hash, split, part, outcome, reason, objectives, items,"
        " answers, merge_seconds, score_seconds, worker, finished)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            recipe_hash,
            split,
            part,
            evaluation.outcome.value,
            evaluation.reason,
            compact(objectives),
            evaluation.items,
            evaluation.answers,
            evaluation.merge_seconds,
            evaluation.score_seconds,
            evaluation.worker,
            now(),
        ),
    )
    if evaluation.responses:
        responses = evaluation.responses
        connection.execute(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                cursor.lastrowid,
                _positions(evaluation),
                compact([_short(r.score) for r in responses]),
                _array([r.tokens for r in responses]),
                _array([int(r.truncated) for r in responses]),
                _array([int(r.parse_failure) for r in responses]),
                _array([r.loss for r in responses], None),
            ),
        )


def as_evaluation(row: Sequence[Any], tokens_before: int) -> Evaluation:
    """Of the columns from `outcome` on; `tokens_before` are those of its earlier parts."""
    objectives: Mapping[str, list[float]] = json.loads(row[2])
    return Evaluation(
        outcome=Outcome(row[0]),
        reason=row[1],
        objectives={name: Estimate(value, se) for name, (value, se) in objectives.items()},
        merge_seconds=row[3],
        score_seconds=row[4],
        worker=row[5],
        items=row[6],
        answers=row[7],
        tokens=tokens_before + sum(_list(row[8])),
    )


def _positions(evaluation: Evaluation) -> str | None:
    """None for a prefix of the split, which is what every item is."""
    positions = evaluation.positions
    return None if positions == tuple(range(len(positions))) else compact(positions)


def as_responses(places: Sequence[ItemRow], columns: Sequence[str | None]) -> dict[int, Response]:
    """By position, the responses of a row of `responses`."""
    positions, scores, tokens, truncated, failures, losses = map(_list, columns)
    zeros = [0] * len(scores)
    return {
        position: Response(
            places[position].task,
            places[position].item,
            float(score),
            count,
            bool(cut),
            bool(lost),
            loss,
        )
        for position, score, count, cut, lost, loss in zip(
            positions or range(len(scores)),
            scores,
            tokens or zeros,
            truncated or zeros,
            failures or zeros,
            losses or [None] * len(scores),
            strict=True,
        )
    }


def columns_of(row: CandidateRow) -> tuple[Any, ...]:
    """A row of `candidates`, in the order of its columns."""
    asked_for = (row.phase, row.id, row.generation, compact(row.genome), row.recipe_hash)
    return (*asked_for, int(row.cached), row.told, row.asked)


def _short(score: float) -> float | int:
    return int(score) if score in (0.0, 1.0) else score


def _list(text: str | None) -> list[Any]:
    return [] if text is None else json.loads(text)


def _array(values: Sequence[float | None], nothing: float | None = 0) -> str | None:
    return None if all(value == nothing for value in values) else compact(values)


def compact(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"))


def now() -> str:
    """The time of writing: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
