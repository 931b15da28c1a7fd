"""Tables for people: a run's results and its front, printed with rich."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from evomerge.live.state import limits_line, state_line
from evomerge.report.honest_text import answers_table, gains_table, luck_table
from evomerge.report.names import LABELS, WINNER, label_of
from evomerge.report.stacks import sentences_of


def results(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of baselines and winner on the test items.

    Value ± standard error of each objective, and of their mean where it has a meaning.
    """
    names = [o["name"] for o in summary["objectives"]]
    rows: list[list[str]] = []
    for label, objectives in summary["baselines"].items():
        estimates = [objectives[name] for name in names]
        if summary["averaged"]:
            estimates.append(mean_of(estimates))
        rows.append([label_of(label), *map(_cell, estimates)])
    return ["model", *names, *(["mean"] if summary["averaged"] else [])], rows


def results_table(summary: Mapping[str, Any]) -> Table:
    """`results` for a terminal."""
    head, rows = results(summary)
    table = Table(title="on test items, which the search never saw (± standard error)")
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row, style="bold green" if row[0] == label_of(WINNER) else None)
    return table


def honest_tables(honesty: Mapping[str, Any]) -> list[Table]:
    """The winner's gains, its scores without luck, and unfinished answers, for a terminal."""
    made = {
        "points gained on the same test items [95 %], p corrected": gains_table(honesty),
        "the winner's scores without the luck of the pick [95 %]": luck_table(honesty),
        "unfinished answers to test items": answers_table(honesty),
    }
    tables: list[Table] = []
    for title, (head, rows) in made.items():
        table = Table(title=title)
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        tables += [table] if rows else []
    return tables


def mean_of(estimates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of independent estimates, with its standard error."""
    n = len(estimates)
    se = math.sqrt(sum(e["se"] ** 2 for e in estimates)) / n
    return {"value": sum(e["value"] for e in estimates) / n, "se": se}


def verdict(summary: Mapping[str, Any]) -> str:
    """What the winner gained on the test items, in one sentence; empty where no mean has a meaning, or
    no source a score."""
    found = summary["baselines"]
    one = [o["name"] for o in summary["objectives"]]
    plain = len(one) == 1 and summary["objectives"][0]["direction"] == "maximize"
    if "winner" not in found or not (summary["averaged"] or plain):
        return ""
    means = {name: mean_of([values[n] for n in one]) for name, values in found.items()}
    sources = [n for n in means if n not in LABELS]
    if not sources:
        return ""
    best = max(sources, key=lambda n: means[n]["value"])
    rivals = ("uniform", "merged", "best_start", "random_search")
    others = [best, *(n for n in rivals if n in means)]
    gains = [
        f"{100 * (means['winner']['value'] - means[n]['value']):+.1f} over "
        + (f"the best source ({n})" if n == best else label_of(n))
        for n in others
    ]
    doubt = ""
    if means["winner"]["value"] <= means[best]["value"]:
        doubt = "; no candidate chosen is better than that source: keep the source"
    return "winner, in points of the mean: " + ", ".join(gains) + doubt


def lookup_cost(summary: Mapping[str, Any]) -> str:
    """What thresholds from tables cost the winner against exact ones; empty if it has none."""
    winner = summary["baselines"].get("winner", {})
    found = summary["as_searched"]
    gaps = [f"{name} {found[name]['value'] - winner[name]['value']:+.4f}" for name in found]
    if not winner or not gaps:
        return ""
    return "winner by the search's looked-up thresholds, against the exported one: " + ", ".join(
        gaps
    )


def front_table(summary: Mapping[str, Any]) -> Table:
    """The front by the search's estimates, with the selection items' second opinion."""
    names = [o["name"] for o in summary["objectives"]]
    table = Table(title="front (search items → selection items)")
    table.add_column("id", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("recipe")
    for candidate in summary["candidates"]:
        if not candidate["on_front"] and candidate["id"] != summary["chosen"]:
            continue
        again = candidate["selection"] or {}
        cells = [
            _cell(candidate["objectives"][name])
            + (f" → {_value(again[name])}" if name in again else "")
            for name in names
        ]
        chosen = candidate["id"] == summary["chosen"]
        table.add_row(
            f"{candidate['id']}{' *' if chosen else ''}",
            *cells,
            candidate["recipe_hash"][:10],
            style="bold" if chosen else None,
        )
    return table


def status_line(summary: Mapping[str, Any]) -> str:
    """Run, status, budget and hypervolume in one line."""
    b = summary["budget"]
    line = (
        f"{summary['run']}: {summary['status']}, {b['done']} of {b['evaluations']} evaluations"
        f" ({b['failed']} failed, {b['cached']} cached), {summary['answers']} items answered"
    )
    if any(candidate["on_front"] for candidate in summary["candidates"]):
        line += f", hypervolume {summary['hypervolume']:.4f} ± {summary['hypervolume_se']:.4f}"
    return line


def failures(summary: Mapping[str, Any]) -> list[str]:
    """One line per kind of failure: how often, and the last reason."""
    kinds = summary["failures"].items()
    return [f"{found['count']} {kind}, last: {found['reason']}" for kind, found in kinds]


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Everything `evomerge show` prints for people."""
    for line in (status_line(summary), state_line(summary), limits_line(summary)):
        console.print(line, highlight=False, markup=False)
    for line in failures(summary):
        console.print(line, highlight=False, markup=False)
    for bound in summary["constraints"]:
        if bound["broken"]:
            console.print(
                f"constraint {bound['text']}: broken by {bound['broken']} candidates;"
                f" the best value was {bound['nearest']:.4g}",
                highlight=False, markup=False,
            )  # fmt: skip
    for line in sentences_of(summary["stacks"]):
        console.print(line, highlight=False, markup=False)
    parts = _fronts(summary)
    if summary["baselines"]:
        parts.append(results_table(summary))
    if summary["honesty"]:
        parts += honest_tables(summary["honesty"])
    console.print(Group(*parts))
    for name, reason in summary["unscored"].items():
        console.print(
            f"no test score for {label_of(name)}: {reason}", highlight=False, markup=False
        )
    honest = summary["honesty"]["sentences"] if summary["honesty"] else []
    for line in filter(None, (verdict(summary), *honest, lookup_cost(summary))):
        console.print(line, highlight=False, markup=False)


def _fronts(summary: Mapping[str, Any]) -> list[Table]:
    """The search's front; while the first of two stages is all there is, that one's."""
    if summary["candidates"]:
        return [front_table(summary)]
    if not summary["first_stage"]:
        return []
    stage = front_table({**summary, **summary["first_stage"]})
    stage.title = f"first stage: {stage.title}"
    return [stage]


def _cell(estimate: Mapping[str, float]) -> str:
    error = "" if _is_count(estimate) else f" ± {estimate['se']:,.{_decimals(estimate)}f}"
    return _value(estimate) + error


def _value(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:,.{_decimals(estimate)}f}"


def _decimals(estimate: Mapping[str, float]) -> int:
    """Three of a score, none of a count or of what comes in hundreds."""
    return 0 if _is_count(estimate) or abs(estimate["value"]) >= 100 else 3


def _is_count(estimate: Mapping[str, float]) -> bool:
    """Whether it is a number of layers or the like: whole and exact."""
    value = estimate["value"]
    return value > 1 and estimate["se"] == 0 and value == round(value)
