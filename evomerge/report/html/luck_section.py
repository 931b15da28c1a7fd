"""How much was luck: the winner's scores on the items it was picked by, and on those it was not."""

from collections.abc import Mapping
from typing import Any

from evomerge.report.honest_text import luck_table
from evomerge.report.html.drawing import Z95, axis, layout
from evomerge.report.html.section import (
    Section,
    bullets,
    figure,
    folded,
    lettering,
    paragraph,
    table,
)
from evomerge.report.html.story import Story


def luck(story: Story) -> Section:
    """Search against selection against unseen items."""
    title = "How much was luck"
    honesty = story.summary["honesty"]
    if honesty is None:
        early = "This is known once the winner was scored on the test items, and for scores of tasks only."
        return Section("luck", title, paragraph(early))
    text = (
        "The best of many candidates is also the luckiest of them, on the items by which it became the"
        " best. Here is each score as it was found (filled), what is left once the luck of the pick is"
        " taken out (hollow), and what the test items say, which nothing was picked by."
    )
    html = paragraph(text) + _drawn(honesty["scores"]) + bullets(_left(honesty))
    html += folded(
        "The same as a table",
        table(*luck_table(honesty), "The winner's scores, plain and without luck [95 % interval]"),
    )
    return Section("luck", title, html)


def _left(honesty: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    for found in honesty["survived"]:
        share = found.get("share")
        if found["source"] is not None and share is not None:
            said.append(
                f"{found['objective']}: {'all' if share >= 1 else f'{100 * max(0, share):.0f} %'} of the"
                f" gain over {found['source']} that was promised is left on test items"
            )
    return said


def _drawn(scores: Mapping[str, Mapping[str, Any]]) -> str:
    series: dict[str, tuple[str, str, list[Any]]] = {
        "found": ("circle", "var(--front)", []),
        "without the luck of the pick": ("circle-open", "var(--front)", []),
        "test items": ("star", "var(--winner)", []),
    }
    for name, found in scores.items():
        for split in ("search", "selection"):
            place, plain = f"{name}, {split}", found[split]
            # no interval: one around a score that was picked for being high would mislead
            series["found"][2].append((place, plain["value"], 0.0, 0.0))
            if corrected := plain["corrected"]:
                value = corrected["value"]
                low, high = value - corrected["low"], corrected["high"] - value
                series["without the luck of the pick"][2].append((place, value, high, low))
        half = Z95 * found["test"]["se"]
        series["test items"][2].append((f"{name}, test", found["test"]["value"], half, half))
    traces = [_points(label, *entry) for label, entry in series.items()]
    order = [lettering(f"{n}, {s}") for n in scores for s in ("search", "selection", "test")][::-1]
    spec = {
        "data": traces,
        "layout": layout(
            xaxis=axis("score"),
            yaxis=axis(type="category", categoryorder="array", categoryarray=order),
        ),
    }
    says = "The winner's scores by the items they come from, with 95 % intervals."
    return figure("luck-plot", spec, says, height=130 + 30 * len(order))


def _points(label: str, symbol: str, colour: str, points: list[Any]) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": label,
        "y": [lettering(place) for place, *_ in points], "x": [value for _, value, *_ in points],
        "error_x": {"symmetric": False, "array": [up for *_, up, _ in points],
                    "arrayminus": [down for *_, down in points], "thickness": 1.5, "width": 3},
        "marker": {"symbol": symbol, "size": 11, "color": colour},
        "hovertemplate": f"%{{y}}: %{{x:.3f}} ({label})<extra></extra>",
    }  # fmt: skip
