"""Which variables mattered: Optuna's importance over the candidates that were scored."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.live.variables import counts, distribution
from evomerge.report.html.drawing import axis, layout
from evomerge.report.html.section import Section, figure, folded, lettering, paragraph, table
from evomerge.report.html.story import Story
from evomerge.search.candidate import Candidate

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TRIALS, FEWEST, VALUES = 800, 300, 50_000
"""Candidates looked at, drawn from all: at most, at least, and their variables' values together."""
LEAST = 20
"""Candidates below which nothing can be said."""
FOREST = 60_000
"""Candidates times variables times objectives up to which a random forest (fANOVA) is quick enough."""
SHOWN = 15
"""Variables in a figure."""
RESTING = "(not used)"
"""The option of a choice in a recipe that it is no part of."""

Importance = Mapping[str, Mapping[str, float]]
"""Objective -> variable -> share of the whole, in [0, 1]."""


def importance(story: Story) -> Section:
    """Importance per objective, drawn and as a table."""
    title = "Which variables mattered"
    candidates = scored_candidates(story)
    if len(candidates) < LEAST:
        few = f"{len(candidates)} scored candidates are too few to tell; {LEAST} would do."
        return Section("importance", title, paragraph(few))
    found, method = importances(story, candidates)
    if not any(found.values()):
        return Section("importance", title, paragraph("No variable varied, or no score did."))
    html = paragraph(_words(story, found, method, len(candidates)))
    html += paragraph(
        "To be read with care: it is measured on the candidates that the search happened to try, which"
        " crowd together near the front; variables that moved together share what is theirs; luck of"
        " the items counts as if it mattered; and a variable that matters only in company can look"
        " idle. It says where the scores varied, not what would happen if you turned one knob.",
        "note",
    )
    shown = [(n, v) for n, v in found.items() if v]
    html += "".join(_drawn(i, name, values) for i, (name, values) in enumerate(shown))
    return Section("importance", title, html + _table(found))


def scored_candidates(story: Story) -> list[Candidate]:
    """Scored candidates of all phases, each recipe once; of many a draw."""
    distinct: dict[str, Candidate] = {}
    for phase in story.phases.values():
        for c in phase.candidates:
            if c.evaluation.scored:
                distinct.setdefault(c.recipe_hash, c)
    found = list(distinct.values())
    most = max(FEWEST, min(TRIALS, VALUES // max(1, len(story.variables))))
    if len(found) <= most:
        return found
    kept = np.random.default_rng(0).choice(len(found), most, replace=False)
    return [found[i] for i in sorted(kept)]


def importances(story: Story, candidates: Sequence[Candidate]) -> tuple[Importance, str]:
    """By objective the shares, and the method: `fANOVA` or `PED-ANOVA`.

    Hutter et al. 2014 (An Efficient Approach for Assessing Hyperparameter Importance); Watanabe et
    al. 2023 (PED-ANOVA), of being among the best tenth, where a forest would take too long.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    named, distributions = _varied(story.space, candidates)
    cost = len(candidates) * len(distributions) * len(story.goals.names)
    method = "fANOVA" if cost <= FOREST else "PED-ANOVA"
    found: dict[str, dict[str, float]] = {}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a part of Optuna is experimental
            study = _study(story, candidates, named, distributions)
            for number, name in enumerate(story.goals.names):
                evaluator: Any = (
                    FanovaImportanceEvaluator(n_trees=16, seed=0)
                    if method == "fANOVA"
                    else PedAnovaImportanceEvaluator()
                )
                sign = -1 if story.signs[name] > 0 else 1  # PED-ANOVA takes less for better
                target = _target(number, sign)
                scores = {target(t) for t in study.get_trials(deepcopy=False)}
                found[name] = {}
                if distributions and len(scores) > 1:
                    found[name] = _shares(evaluator.evaluate(study, target=target))
    finally:
        optuna.logging.set_verbosity(level)
    return found, method


def _target(number: int, sign: int) -> Any:
    return lambda trial: sign * trial.values[number]


def _study(
    story: Story,
    candidates: Sequence[Candidate],
    named: Mapping[str, Sequence[Any]],
    distributions: Mapping[str, Any],
) -> Any:
    import optuna

    study = optuna.create_study(directions=list(story.goals.directions))
    trials = [
        optuna.trial.create_trial(
            params={name: named[name][row] for name in distributions},
            distributions=dict(distributions),
            values=story.goals.values(c.evaluation),
        )
        for row, c in enumerate(candidates)
    ]
    study.add_trials(trials)
    return study


def _varied(
    space: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate]
) -> tuple[dict[str, Sequence[Any]], dict[str, "BaseDistribution"]]:
    """Values and distributions of the variables that took more than one value where they counted.

    A method wants a value of each variable of every candidate. Where a variable is no part of the
    recipe, what the genome says of it is noise; it rests at one value instead: in the middle of its
    range, of options at one of its own.
    """
    values: dict[str, Sequence[Any]] = {}
    distributions: dict[str, BaseDistribution] = {}
    for place, fact in enumerate(space):
        counting = [counts(fact["when"], c.genome) for c in candidates]
        column = [c.genome[place] for c in candidates]
        known = {value for value, counted in zip(column, counting, strict=True) if counted}
        if len(known) < 2:
            continue
        ranged, rest = _ranged(fact, known, resting=not all(counting))
        values[fact["name"]] = [
            _plain(value) if counted else rest
            for value, counted in zip(column, counting, strict=True)
        ]
        distributions[fact["name"]] = distribution(ranged)
    return values, distributions


def _ranged(
    fact: Mapping[str, Any], known: Collection[Any], *, resting: bool
) -> tuple[Mapping[str, Any], Any]:
    """A variable's facts as Optuna takes them, and the value at which it rests."""
    if "options" in fact:
        options = list(dict.fromkeys(str(value) for value in (*fact["options"], *known)))
        return {"options": [*options, RESTING] if resting else options}, RESTING
    low, high = min(fact["low"], *known), max(fact["high"], *known)
    middle = (low + high) // 2 if fact["whole"] else (low + high) / 2
    return {"low": low, "high": high, "whole": fact["whole"]}, middle


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, (bool, str)) else value


def _shares(found: Mapping[str, float]) -> dict[str, float]:
    """Shares of the sum, the greatest first."""
    total = sum(found.values())
    if not total > 0:
        return {}
    ordered = sorted(found.items(), key=lambda pair: -pair[1])
    return {name: float(value) / total for name, value in ordered}


def _words(story: Story, found: Importance, method: str, count: int) -> str:
    said = [
        f"for {name}, {top} ({100 * values[top]:.0f} %)"
        for name, values in found.items()
        if values and (top := next(iter(values)))
    ]
    what = (
        "share of the variance that a random forest explains by it"
        if method == "fANOVA"
        else "how far the best tenth's values of it differ from all candidates'"
    )
    return (
        f"Most important: {'; '.join(said)}. By Optuna's {method} over {count} scored candidates"
        f" ({what})."
    )


def _drawn(number: int, objective: str, values: Mapping[str, float]) -> str:
    top = list(values.items())[:SHOWN][::-1]
    bars = {
        "type": "bar", "orientation": "h",
        "y": [lettering(name) for name, _ in top], "x": [share for _, share in top],
        "marker": {"color": "var(--front)"},
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
    }  # fmt: skip
    spec = {
        "data": [bars],
        "layout": layout(
            xaxis=axis("share", tickformat=".0%"),
            yaxis=axis(tickfont={"size": 11}, type="category"),
        ),
    }
    rest = f", the first {SHOWN} of {len(values)}" if len(values) > SHOWN else ""
    says = f"Importance of variables for {objective}{rest}."
    return figure(f"importance-{number}", spec, says, height=90 + 24 * len(top))


def _table(found: Importance) -> str:
    names = list(found)
    variables = dict.fromkeys(v for values in found.values() for v in values)
    rows = [[v, *(f"{100 * found[n].get(v, 0):.1f} %" for n in names)] for v in variables]
    return folded(
        f"All {len(rows)} variables as a table", table(["variable", *names], rows, "Importance")
    )
