"""What is left of the winner's gain: the part of a run's summary that a reader should believe."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evomerge.evaluation import Evaluation
from evomerge.report.honest_gain import Score, answers, comparisons
from evomerge.report.honest_text import sentences
from evomerge.report.luck import estimate_of, search_luck, selection_luck
from evomerge.report.names import LABELS, WINNER
from evomerge.runs.folder import RunFolder
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals


def honesty(
    run: RunFolder,
    goals: Goals,
    candidates: Sequence[Candidate],
    measured: Mapping[str, str],
    averaged: bool,
) -> dict[str, Any] | None:
    """The winner compared, corrected and looked at closely.

    Args:
        run: whose record is read.
        goals: what it optimises.
        candidates: of the search, with their evaluations on the search items.
        measured: baseline or `winner` -> recipe hash, of those scored on the test items.
        averaged: whether the mean of the objectives has a meaning.

    Returns:
        None before the winner was scored on the test items, or where no objective is a task's score.
        Else `comparisons` (`honest_gain.comparisons`), `answers` (`honest_gain.answers`), `scores`
        (by objective: on `search` and `selection` items plain and corrected, and on `test` items),
        `survived` (by objective: the gain over the best source on each kind of items), `same` (models
        that the winner is equal to), `judged` (the scores that say whether it is better: the mean, or
        each where there is none), `missing` (sources without a test score) and `sentences` that say
        it in words.
    """
    scores = scores_of(run, goals, averaged)
    if WINNER not in measured or not scores:
        return None
    digest = measured[WINNER]
    found = run.database.responses("test")
    models = {name: found[its] for name, its in measured.items()}
    same = {name for name, its in measured.items() if its == digest} - {WINNER}
    splits = {s: run.database.evaluations(s) for s in ("search", "selection", "test")}
    content: dict[str, Any] = {
        "comparisons": comparisons(scores, models, same),
        "answers": answers(models),
        "scores": _scores(run, goals, candidates, scores, splits),
        "survived": [_survived(score, measured, splits) for score in scores],
        "same": sorted(same),
        "judged": [s.name for s in (scores[-1:] if len(scores[-1].parts) > 1 else scores)],
        "missing": [name for name in run.config.models.sources if name not in measured],
    }
    return content | {"sentences": sentences(content)}


def scores_of(run: RunFolder, goals: Goals, averaged: bool) -> list[Score]:
    """The objectives that are means of tasks' scores, and their mean where it has a meaning."""
    signs = dict(zip(goals.names, goals.directions, strict=True))
    found: list[Score] = []
    for objective in run.config.fitness.all_objectives:
        tasks = {objective.task: 1.0} if objective.task else dict(objective.tasks or {})
        if tasks and objective.label in signs:
            total = sum(tasks.values())
            shares = {task: weight / total for task, weight in tasks.items()}
            sign = 1 if signs[objective.label] == "maximize" else -1
            found.append(Score(objective.label, shares, sign, (objective.label,)))
    if averaged and len(found) > 1:
        each = [(task, w / len(found)) for score in found for task, w in score.tasks.items()]
        found.append(Score("mean", dict(each), 1, tuple(score.name for score in found)))
    return found


def _scores(
    run: RunFolder,
    goals: Goals,
    candidates: Sequence[Candidate],
    scores: Sequence[Score],
    splits: Mapping[str, Mapping[str, Evaluation]],
) -> dict[str, dict[str, Any]]:
    """By objective, the winner's score on each kind of items."""
    choice = run.database.meta("choice")
    digest = choice["recipe_hash"]
    by_hash = {c.recipe_hash: c for c in candidates if c.evaluation.scored}
    again = [f["recipe_hash"] for f in choice["finalists"]]
    finalists = [replace(by_hash[h], evaluation=splits["selection"][h]) for h in again]
    on_search = search_luck(
        scores,
        list(by_hash.values()),
        digest,
        again,
        run.database.responses("search"),
        goals,
    )
    on_selection = selection_luck(
        scores,
        finalists,
        again.index(digest),
        run.database.responses("selection"),
        (goals, run.config.export.pick),
    )
    found: dict[str, dict[str, Any]] = {}
    for score, search, selection in zip(scores, on_search, on_selection, strict=True):
        test = estimate_of(score, splits["test"][digest])
        found[score.name] = {
            "search": search,
            "selection": selection,
            "test": {"value": test.value, "se": test.se},
        }
    return found


def _survived(
    score: Score,
    measured: Mapping[str, str],
    splits: Mapping[str, Mapping[str, Evaluation]],
) -> dict[str, Any]:
    """The winner's gain over the best source, by the items of each split that both answered.

    `share` is what the test items left of the gain that the first of search and selection items
    promised; None where they promised none.
    """

    def value(name: str, split: str) -> float | None:
        evaluation = splits[split].get(measured[name])
        if evaluation is None or not evaluation.scored:
            return None
        return score.sign * estimate_of(score, evaluation).value

    def merit(name: str) -> float:
        return value(name, "test") or 0.0

    sources = [name for name in measured if name not in LABELS]
    if not sources:
        return {"objective": score.name, "source": None}
    best = max(sources, key=merit)
    gains: dict[str, float | None] = {}
    for split in splits:
        one, other = value(WINNER, split), value(best, split)
        gains[split] = None if one is None or other is None else one - other
    promised = next((g for g in (gains["search"], gains["selection"]) if g is not None), None)
    share = (
        gains["test"] / promised
        if gains["test"] is not None and promised and promised > 0
        else None
    )
    return {"objective": score.name, "source": best, **gains, "share": share}
