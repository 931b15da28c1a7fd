"""What the winner gained on the test items, item by item: comparisons, and unfinished answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.report.names import WINNER
from fitness.comparison import flips, holm, paired
from fitness.items import Response

ByModel = Mapping[str, Sequence[Response]]
"""Name of a model -> its responses to a split's items; all models answered the same."""


@dataclass(frozen=True)
class Score:
    """An objective that is a weighted mean of tasks' scores, or the mean of several such.

    Attributes:
        name: the objective's; `mean` for the mean of all.
        tasks: weight by task; they sum to 1.
        sign: 1 where higher is better, -1 where lower is.
        parts: the objectives that it is the mean of; its own name if it is one.
    """

    name: str
    tasks: Mapping[str, float]
    sign: int
    parts: tuple[str, ...]


def comparisons(scores: Sequence[Score], models: ByModel, same: set[str]) -> list[dict[str, Any]]:
    """The winner against each other model, by each score, in the models' order.

    Args:
        scores: what is compared.
        models: their responses to the test items, those of `WINNER` among them.
        same: models whose recipe is the winner's: there is nothing to compare.

    Returns:
        By pair: `gain` (positive where the winner is better, whichever way the score points) with
        `se`, 95 % interval `low` and `high`, `p` (two-sided, exact) and `p_holm` (corrected for the
        score's being compared with several models); `gained` and `lost` items of `items`; and how
        much of the gain comes from items that one of the two did not finish (`of_gain`).
    """
    found: list[dict[str, Any]] = []
    for score in scores:
        pairs: list[dict[str, Any]] = [
            {"objective": score.name, "baseline": name}
            | _compared(score, models[name], models[WINNER])
            | of_gain(score, models[name], models[WINNER])
            for name in models
            if name != WINNER and name not in same
        ]
        corrected = holm([pair["p"] for pair in pairs])
        found += [pair | {"p_holm": p} for pair, p in zip(pairs, corrected, strict=True)]
    return found


def _compared(
    score: Score, before: Sequence[Response], after: Sequence[Response]
) -> dict[str, Any]:
    pairs = list(paired_by_task(score, before, after).values())
    a = [[new.score for _, new in task] for task in pairs]
    b = [[old.score for old, _ in task] for task in pairs]
    better, worse = (a, b) if score.sign > 0 else (b, a)
    found = paired(better, worse, list(score.tasks.values()))
    changed = flips(worse, better)
    return {
        "gain": found.difference,
        "se": found.se,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "gained": changed.gained,
        "lost": changed.lost,
        "items": sum(map(len, pairs)),
    }


def of_gain(score: Score, before: Sequence[Response], after: Sequence[Response]) -> dict[str, Any]:
    """How much of a gain comes from answers that were cut or could not be read.

    Returns:
        `unfinished`: items on which at least one of the two answers was truncated or unparsed;
        `gain_unfinished`: what they add to the gain; `gain_finished`: what the others add. The two
        sum to the gain.
    """
    unfinished, parts = 0, [0.0, 0.0]
    for task, pairs in paired_by_task(score, before, after).items():
        for old, new in pairs:
            cut = is_unfinished(old) or is_unfinished(new)
            unfinished += cut
            parts[cut] += score.sign * score.tasks[task] * (new.score - old.score) / len(pairs)
    return {"unfinished": unfinished, "gain_unfinished": parts[1], "gain_finished": parts[0]}


def paired_by_task(
    score: Score, before: Sequence[Response], after: Sequence[Response]
) -> dict[str, list[tuple[Response, Response]]]:
    """By task of a score: both models' responses to each item."""
    known = {(r.task, r.index): r for r in before}
    found: dict[str, list[tuple[Response, Response]]] = {task: [] for task in score.tasks}
    for response in after:
        if response.task in found:
            found[response.task].append((known[response.task, response.index], response))
    return found


def is_unfinished(response: Response) -> bool:
    """Whether an answer was cut at the token limit, or no answer was found in it."""
    return response.truncated or response.parse_failure


def answers(models: ByModel) -> dict[str, dict[str, int]]:
    """By model, of its answers: how many were generated, truncated, unparsed, or either."""
    return {
        name: {
            "items": len(responses),
            "generated": sum(r.tokens > 0 for r in responses),
            "truncated": sum(r.truncated for r in responses),
            "parse_failures": sum(r.parse_failure for r in responses),
            "unfinished": sum(map(is_unfinished, responses)),
        }
        for name, responses in models.items()
    }


def score_matrix(task: str, models: Sequence[Sequence[Response]]) -> np.ndarray:
    """Scores [models, items] of a task, items in order of their index; nan where not answered."""
    items = sorted({r.index for responses in models for r in responses if r.task == task})
    place = {index: column for column, index in enumerate(items)}
    found = np.full((len(models), len(items)), np.nan)
    for row, responses in zip(found, models, strict=True):
        for r in responses:
            if r.task == task:
                row[place[r.index]] = r.score
    return found
