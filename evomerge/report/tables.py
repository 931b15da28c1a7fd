"""Tables for people: a run's results and its front, printed with rich."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table

LABELS = {
    "uniform": "uniform merge",
    "greedy_soup": "greedy soup",
    "random_search": "random search",
    "winner": "winner",
}


def label_of(name: str) -> str:
    """What people call the baseline `name`."""
    return LABELS.get(name, name)


def results_table(summary: Mapping[str, Any]) -> Table:
    """Baselines and winner on the test items: value ± standard error of each objective, and the mean."""
    names = [o["name"] for o in summary["objectives"]]
    table = Table(title="on test items, which the search never saw (± standard error)")
    table.add_column("model")
    for name in names:
        table.add_column(name, justify="right")
    mean = len(names) > 1 and one_direction(summary["objectives"])
    if mean:
        table.add_column("mean", justify="right")
    for label, objectives in summary["baselines"].items():
        cells = [_cell(objectives[name]) for name in names]
        if mean:
            cells.append(_cell(mean_of([objectives[name] for name in names])))
        style = "bold green" if label == "winner" else None
        table.add_row(label_of(label), *cells, style=style)
    return table


def one_direction(objectives: Sequence[Mapping[str, str]]) -> bool:
    """Whether a mean over the objectives makes sense: all are maximised."""
    return all(o["direction"] == "maximize" for o in objectives)


def mean_of(estimates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of independent estimates, with its standard error."""
    n = len(estimates)
    se = math.sqrt(sum(e["se"] ** 2 for e in estimates)) / n
    return {"value": sum(e["value"] for e in estimates) / n, "se": se}


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
            + (f" → {again[name]['value']:.3f}" if name in again else "")
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
    return (
        f"{summary['run']}: {summary['status']}, {b['done']} of {b['evaluations']} evaluations"
        f" ({b['failed']} failed, {b['cached']} cached), hypervolume {summary['hypervolume']:.4f}"
    )


def failures(summary: Mapping[str, Any]) -> list[str]:
    """One line per kind of failure: how often, and the first reason."""
    kinds: dict[str, list[str]] = {}
    for candidate in summary["candidates"]:
        if candidate["outcome"] != "scored":
            kinds.setdefault(candidate["outcome"], []).append(candidate["reason"])
    return [f"{len(reasons)} {kind}, first: {reasons[0]}" for kind, reasons in kinds.items()]


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Everything `evomerge show` prints for people."""
    console.print(status_line(summary), highlight=False, markup=False)
    for line in failures(summary):
        console.print(line, highlight=False, markup=False)
    parts = [front_table(summary)] if summary["candidates"] else []
    if summary["baselines"]:
        parts.append(results_table(summary))
    console.print(Group(*parts))


def _cell(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} ± {estimate['se']:.3f}"
