"""How many stacks were alive: at random almost none is, and a search of nothing but the dead finds
nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.report.honest_gain import Score
from evomerge.runs.database import Database
from evomerge.runs.rows import CandidateRow
from fitness.items import Response

HALF = 0.5
"""Of the best source's score on the same items: who reaches it is alive."""

SOURCES_SEARCHED = "sources_searched"
"""The fact in run.db: source -> recipe hash of the model whose search items were answered."""

Scores = Mapping[tuple[str, int], float]
"""Score by task and index."""


def alive(database: Database, scores: Sequence[Score]) -> dict[str, Any] | None:
    """The share of candidates that are alive: by the mean of their scores they reach half of what the
    best source reaches on the same items, and more than nothing.

    Args:
        database: of the run.
        scores: the objectives that are means of tasks' scores.

    Returns:
        `first_generation`, `run` and (where there was one) `random`, each with `alive`, `of` (both
        numbers of candidates; a failed one is not alive) and `share`. None before the sources were
        asked, or where no objective is a score of which more is better.
    """
    better = [score for score in scores if score.sign > 0]
    hashes: Mapping[str, str] = database.meta(SOURCES_SEARCHED, {})
    if not better or not hashes:
        return None
    found = {digest: _scores(r) for digest, r in database.responses("search").items()}
    bar = _Bar([found[digest] for digest in hashes.values() if digest in found], better)
    lively = {digest for digest, mine in found.items() if bar.passed(mine)}
    searched = list(database.candidates("search").values())
    return {
        "first_generation": _share([row for row in searched if row.generation == 0], lively),
        "run": _share(searched, lively),
        "random": _share(database.candidates("random").values(), lively),
    }


class _Bar:
    """Half the best source's mean score, on whichever items."""

    def __init__(self, sources: Sequence[Scores], scores: Sequence[Score]) -> None:
        self._sources, self._scores = sources, scores
        self._levels: dict[frozenset[tuple[str, int]], float] = {}

    def passed(self, mine: Scores) -> bool:
        items = frozenset(mine)
        if items not in self._levels:
            theirs = [{item: found[item] for item in items} for found in self._sources]
            self._levels[items] = max(map(self._mean, theirs), default=0.0)
        return self._mean(mine) > 0 and self._mean(mine) >= HALF * self._levels[items]

    def _mean(self, found: Scores) -> float:
        by_task: dict[str, list[float]] = {}
        for (task, _), score in found.items():
            by_task.setdefault(task, []).append(score)
        means = {task: sum(values) / len(values) for task, values in by_task.items()}
        total = sum(w * means[task] for score in self._scores for task, w in score.tasks.items())
        return total / len(self._scores)


def _scores(responses: Sequence[Response]) -> Scores:
    return {(r.task, r.index): r.score for r in responses}


def _share(rows: Iterable[CandidateRow], lively: set[str]) -> dict[str, Any]:
    hashes = [row.recipe_hash for row in rows]
    count = sum(digest in lively for digest in hashes)
    return {"alive": count, "of": len(hashes), "share": count / len(hashes) if hashes else None}


def sentence(found: Mapping[str, Any]) -> str:
    """The shares in words."""
    named = {
        "first_generation": "the first generation",
        "run": "all candidates",
        "random": "the random search",
    }
    said = [
        f"{100 * found[key]['share']:.0f} % of {name} ({found[key]['alive']} of {found[key]['of']})"
        for key, name in named.items()
        if found[key]["of"]
    ]
    return "alive (half the best source's score or more, on the same items): " + ", ".join(said)
