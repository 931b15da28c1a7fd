"""Baselines: what a search has to beat. The sources, their uniform merge, a greedy soup.

The random search of the same budget is a phase of the driver; `choose` in `choice.py` treats it and
the search alike.
"""

import math
from collections.abc import Sequence

from evomerge.evaluation import Evaluation
from evomerge.runs.ledger import Ledger, Wanted
from evomerge.search.goals import Goals
from search_spaces.recipe import Input, Recipe, Setting, Slice, parameters


def average(sources: Sequence[str], dtype: str | None) -> Recipe:
    """The plain average of `sources` (Wortsman et al. 2022); of one source: that source.

    Args:
        sources: their names.
        dtype: storage type; None: the sources'.
    """
    weight = parameters({"weight": Setting.constant(1.0)})
    inputs = tuple(Input(source, None, weight) for source in sources)
    return Recipe("linear", (Slice(inputs),), dtype=dtype)


def reference_recipes(
    base: str | None, experts: Sequence[str], dtype: str | None
) -> dict[str, Recipe]:
    """Every source alone, and `uniform`: the average of the experts (of one: with the base)."""
    alone = {name: average([name], dtype) for name in [*([base] if base else []), *experts]}
    merged = list(experts) if len(experts) > 1 else list(alone)
    return alone | {"uniform": average(merged, dtype)}


def greedy_soup(sources: Sequence[str], dtype: str | None, goals: Goals, ledger: Ledger) -> Recipe:
    """The greedy soup of `sources` on the selection items (Wortsman et al. 2022, recipe 1).

    Sources in order of their score; each stays in the average if the score does not fall.
    Score is the weighted mean of the objectives in units of their spread over the sources.
    """
    alone = [average([name], dtype) for name in sources]
    evaluations = ledger.evaluate([Wanted(r) for r in alone], "selection")
    spread = goals.spread(evaluations)
    scores = [_score(goals, e, spread) for e in evaluations]
    order = sorted(range(len(sources)), key=lambda i: -scores[i])
    soup, best = [sources[order[0]]], scores[order[0]]
    for i in order[1:]:
        trial = average([*soup, sources[i]], dtype)
        score = _score(goals, ledger.evaluate([Wanted(trial)], "selection")[0], spread)
        if score >= best:
            soup, best = [*soup, sources[i]], score
    return average(soup, dtype)


def _score(goals: Goals, evaluation: Evaluation, spread: Sequence[float]) -> float:
    """The merit; what failed is worse than anything."""
    return goals.merit(evaluation, spread) if evaluation.scored else -math.inf
