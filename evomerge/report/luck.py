"""How much of the winner's score on the items it was picked by is luck, and what is left without it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evomerge.evaluation import Evaluation
from evomerge.report.honest_gain import Score, score_matrix
from evomerge.search.candidate import Candidate
from evomerge.search.choice import pick
from evomerge.search.goals import Goals
from fitness.estimate import Estimate
from fitness.items import Response
from fitness.winners_curse import Corrected, Pick, corrected_best, corrected_value, shared_error

POOL = 300
"""Candidates among which the search's luck is looked for: those behind can hardly be picked."""
LEVEL = 10
"""The best candidates, by which is judged what errors all have in common."""

Answers = Mapping[str, Sequence[Response]]
"""Recipe hash -> responses."""


def estimate_of(score: Score, evaluation: Evaluation) -> Estimate:
    """A score of an evaluated candidate: an objective, or the mean of several."""
    parts = [evaluation.objectives[name] for name in score.parts]
    n = len(parts)
    return Estimate(
        math.fsum(e.value for e in parts) / n, math.sqrt(math.fsum(e.se**2 for e in parts)) / n
    )


def described(
    score: Score, evaluation: Evaluation, of: int, found: Corrected | None
) -> dict[str, Any]:
    """A score on items that it was picked by: plain, the best of how many, and corrected."""
    plain = estimate_of(score, evaluation)
    corrected = asdict(found) if found else None
    return {"value": plain.value, "se": plain.se, "of": of, "corrected": corrected}


def selection_luck(
    scores: Sequence[Score],
    finalists: Sequence[Candidate],
    winner: int,
    answered: Answers,
    chosen: tuple[Goals, str],
) -> list[dict[str, Any]]:
    """The winner's scores on the selection items, as one of the finalists.

    Args:
        scores: which.
        finalists: all of them, their evaluations those on the selection items.
        winner: which one was chosen.
        answered: their responses.
        chosen: what was optimised, and how the choice was made (`choice.pick`).
    """
    tasks = _tasks(scores)
    matrices = [score_matrix(task, [answered[c.recipe_hash] for c in finalists]) for task in tasks]
    rule = _remembered(_choice_again(scores, tasks, finalists, chosen))
    found: list[dict[str, Any]] = []
    for score in scores:
        weights = [score.tasks.get(task, 0.0) for task in tasks]
        corrected = corrected_best(matrices, winner, weights, pick=rule)
        found.append(described(score, finalists[winner].evaluation, len(finalists), corrected))
    return found


def _choice_again(
    scores: Sequence[Score],
    tasks: Sequence[str],
    finalists: Sequence[Candidate],
    chosen: tuple[Goals, str],
) -> Pick:
    """The choice among the finalists, made again from other mean scores of the tasks."""
    goals, how = chosen
    single = [score for score in scores if score.parts == (score.name,)]
    weights = np.array([[score.tasks.get(task, 0.0) for task in tasks] for score in single])
    places = {c.recipe_hash: i for i, c in enumerate(finalists)}
    if len(goals.names) == 1 and not goals.constraints:
        return lambda means: int(np.argmax(single[0].sign * weights[0] @ means))

    def again(means: np.ndarray) -> int:
        values = weights @ means
        there: list[Candidate] = []
        for i, candidate in enumerate(finalists):
            known = dict(candidate.evaluation.objectives)
            for score, row in zip(single, values, strict=True):
                known[score.name] = replace(known[score.name], value=float(row[i]))
            there.append(
                replace(candidate, evaluation=replace(candidate.evaluation, objectives=known))
            )
        return places[pick(there, goals, how).recipe_hash]

    return again


def _remembered(rule: Pick) -> Pick:
    """The same splits are drawn for every score: each is picked from once."""
    known: dict[bytes, int | Sequence[int]] = {}

    def again(means: np.ndarray) -> int | Sequence[int]:
        key = means.tobytes()
        if key not in known:
            known[key] = rule(means)
        return known[key]

    return again


def search_luck(
    scores: Sequence[Score],
    candidates: Sequence[Candidate],
    winner: str,
    finalists: Sequence[str],
    answered: Answers,
    goals: Goals,
) -> list[dict[str, Any]]:
    """The winner's scores on the search items, as one of the best few of all candidates.

    The search's luck lies in becoming a finalist; which of them wins is decided on other items. The
    finalists are taken to be the best by the weighted mean of the objectives, among those that the
    races let answer as many items as they did.

    Args:
        scores: which.
        candidates: of the search, distinct recipes, all scored.
        winner: its recipe hash.
        finalists: theirs, the winner's among them.
        answered: responses to the search items; with racing, each candidate has its own.
        goals: what was optimised.
    """
    least = min(len(answered[digest]) for digest in finalists)
    far = [c for c in candidates if len(answered[c.recipe_hash]) >= least]
    spread = goals.spread([c.evaluation for c in far])
    merit = {c.recipe_hash: goals.merit(c.evaluation, spread) for c in far}
    order = sorted(far, key=lambda c: (c.recipe_hash != winner, -merit[c.recipe_hash]))
    pool = order[:POOL]  # the winner first
    few = min(len(finalists), len(pool))
    single = [score for score in scores if score.parts == (score.name,)]
    scale = dict(zip(goals.names, zip(goals.weights, spread, strict=True), strict=True))
    strength = np.array([s.sign * scale[s.name][0] / scale[s.name][1] for s in single])
    known = np.array([[c.evaluation.objectives[s.name].value for c in pool] for s in single])
    rest = np.array([merit[c.recipe_hash] for c in pool]) * sum(goals.weights) - strength @ known

    def best(values: np.ndarray) -> list[int]:
        return np.argsort(-(strength @ values + rest), kind="stable")[:few].tolist()

    correct = _by_items(scores, single, pool, answered, best) or _by_errors(
        single, pool, answered, best
    )
    return [
        described(score, pool[0].evaluation, len(candidates), correct(score)) for score in scores
    ]


def _by_items(
    scores: Sequence[Score],
    single: Sequence[Score],
    pool: Sequence[Candidate],
    answered: Answers,
    best: Pick,
) -> Callable[[Score], Corrected] | None:
    """The correction from responses.

    None where candidates answered different items, or scores are read off them in other ways than
    by their mean.
    """
    tasks = _tasks(scores)
    matrices = [score_matrix(task, [answered[c.recipe_hash] for c in pool]) for task in tasks]
    if any(np.isnan(m).any() or m.shape[1] < 2 for m in matrices):
        return None
    weights = np.array([[score.tasks.get(task, 0.0) for task in tasks] for score in single])
    means = weights @ np.array([m[0].mean() for m in matrices])
    values = [estimate_of(score, pool[0].evaluation).value for score in single]
    if not np.allclose(means, values, atol=1e-6):
        return None
    rule = _remembered(lambda means: best(weights @ means))
    return lambda score: corrected_best(
        matrices, 0, [score.tasks.get(task, 0.0) for task in tasks], pick=rule
    )


def _sampling(score: float, items: int) -> float:
    """The standard error of a share of right answers for further items of the kind."""
    share = min(max(score, 0.0), 1.0)
    return math.sqrt(share * (1 - share) / items)


def _by_errors(
    single: Sequence[Score], pool: Sequence[Candidate], answered: Answers, best: Pick
) -> Callable[[Score], Corrected]:
    """The correction from estimates and their errors."""
    estimates = [[c.evaluation.objectives[s.name] for c in pool] for s in single]
    values = [[e.value for e in row] for row in estimates]
    # Errors speak for the pool and are 0 once all of it is answered; luck lies in which items it has.
    ses = [
        [
            max(e.se, _sampling(e.value, len(answered[c.recipe_hash])))
            for e, c in zip(row, pool, strict=True)
        ]
        for row in estimates
    ]
    # What models share depends on their level: that of the contenders counts.
    top = [answered[c.recipe_hash] for c in pool[:LEVEL]]
    shared = min(shared_error(score_matrix(task, top)) for task in _tasks(single))
    rule = _remembered(best)
    return lambda score: corrected_value(
        values, ses, 0, [float(s.name in score.parts) for s in single], shared=shared, pick=rule
    )


def _tasks(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(task for score in scores for task in score.tasks))
