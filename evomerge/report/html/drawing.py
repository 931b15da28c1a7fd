"""What figures have in common: marks, axes, hover texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.live.words import estimate
from evomerge.report.html.recipes import genome_lines
from evomerge.report.html.section import lettering
from evomerge.report.names import WINNER, label_of

Z95 = 1.96
"""Half the width of a 95 % interval, in standard errors."""

MARKS = {
    "uniform": ("square", "var(--blend)"),
    "greedy_soup": ("pentagon", "var(--blend)"),
    "merged": ("hexagon", "var(--blend)"),
    "best_start": ("cross", "var(--blend)"),
    "random_search": ("triangle-up", "var(--chance)"),
    WINNER: ("star", "var(--winner)"),
}
"""Symbol and colour of what is no source: told apart by shape as well."""
SOURCE = ("diamond", "var(--source)")

COLOURS = tuple(f"var(--c{number})" for number in range(8))
"""For series without an order of their own; Okabe and Ito's, which the colour-blind can tell apart."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")


def mark_of(name: str) -> tuple[str, str]:
    """Symbol and colour of a source, a baseline or the winner."""
    return MARKS.get(name, SOURCE)


def layout(**more: Any) -> dict[str, Any]:
    """A figure's layout; the page adds colours, fonts and margins."""
    return {"hovermode": "closest", **more}


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis of a layout."""
    return {"title": {"text": lettering(title)}, **more}


def estimates(objectives: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line per objective."""
    return [f"{name} {estimate(e['value'], e['se'])}" for name, e in objectives.items()]


def hover(title: str, lines: Sequence[str]) -> str:
    """A hover text of plain lines."""
    return "<br>".join([f"<b>{lettering(title)}</b>", *map(lettering, lines)])


def candidate_hover(
    entry: Mapping[str, Any], sources: Sequence[str], kept: int, title: str = ""
) -> str:
    """What a candidate is, in lines: scores, recipe in short, its hash."""
    items = f"on {entry['items']} search items"
    lines = [*estimates(entry["objectives"]), items]
    lines += genome_lines(entry["genome"], sources, kept)
    lines.append(f"recipe {entry['recipe_hash'][:12]}")
    return hover(title or f"candidate {entry['id']}", lines)


def model_hover(name: str, objectives: Mapping[str, Mapping[str, float]], where: str) -> str:
    """What a baseline scored."""
    return hover(label_of(name), [*estimates(objectives), where])


def values(objectives: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> list[float]:
    """The objectives' values in order."""
    return [objectives[name]["value"] for name in names]
