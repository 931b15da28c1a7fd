"""Gains and losses: the winner against each parent, by objective, by task and item by item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.report.honest_gain import is_unfinished
from evomerge.report.honest_text import answers_table, gains_table
from evomerge.report.html.drawing import COLOURS, SYMBOLS, axis, layout
from evomerge.report.html.section import Section, esc, figure, folded, lettering, paragraph, table
from evomerge.report.html.story import Story
from evomerge.report.names import WINNER, label_of
from evomerge.report.tables import results
from fitness.items import Response

ROWS = 2000
"""Items in the table, at most; the counts above it are of all."""

Key = tuple[str, int]
"""A task and an item's index in it."""


@dataclass(frozen=True)
class Flip:
    """An item on which the winner and a parent differ.

    Attributes:
        task, index: the item.
        scores: by model, the winner among them.
        gained, lost: parents that the winner does better than, or worse.
        unfinished: models whose answer was cut or could not be read.
    """

    task: str
    index: int
    scores: Mapping[str, float]
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    unfinished: tuple[str, ...]


def gains(story: Story) -> Section:
    """Everything the test items say of the winner against the others."""
    title = "Gained and lost, on items the search never saw"
    summary = story.summary
    if WINNER not in summary["baselines"]:
        early = "The winner is scored on the test items when the search is over; it is not yet."
        return Section("gains", title, paragraph(early))
    head, rows = results(summary)
    marked = [i for i, row in enumerate(rows) if row[0] == label_of(WINNER)]
    caption = "Scores on test items (± standard error)"
    html = table(head, rows, caption, marked=marked)
    if summary["honesty"]:
        html += _forest(summary["honesty"])
        grid = gains_table(summary["honesty"])
        html += folded(
            "Gains with intervals as a table",
            table(*grid, "Points gained on the same test items [95 % interval], p corrected"),
        )
    html += _tasks(story) + _answers(story) + _items(story)
    return Section("gains", title, html)


def _forest(honesty: Mapping[str, Any]) -> str:
    """Each comparison with its interval, the last score (the mean, where there is one) first."""
    names = list(honesty["scores"])[::-1]
    others = list(dict.fromkeys(pair["baseline"] for pair in honesty["comparisons"]))
    if not others:
        return paragraph("Every model compared is the winner itself.")
    traces: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        pairs = [p for p in honesty["comparisons"] if p["objective"] == name][::-1]
        points = [100 * p["gain"] for p in pairs]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": lettering(name),
                "y": [lettering(label_of(p["baseline"])) for p in pairs], "x": points,
                "visible": True if number == 0 else "legendonly",
                "text": [_said(p) for p in pairs],
                "hovertemplate": "%{text}<extra></extra>",
                "error_x": {
                    "symmetric": False, "thickness": 2, "width": 4,
                    "array": [100 * p["high"] - x for p, x in zip(pairs, points, strict=True)],
                    "arrayminus": [x - 100 * p["low"] for p, x in zip(pairs, points, strict=True)],
                },
                "marker": {"size": 10, "symbol": SYMBOLS[-number % len(SYMBOLS)],
                           "color": COLOURS[(number + 1) % len(COLOURS)]},
            }
        )  # fmt: skip
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": "var(--text)", "width": 1, "dash": "dot"}}  # fmt: skip
    spec = {
        "data": traces,
        "layout": layout(
            xaxis=axis("points gained by the winner", zeroline=False),
            yaxis=axis(type="category"),
            shapes=[zero],
        ),
    }
    says = "What the winner gains over each model on the same test items, with 95 % intervals"
    return figure("gains-plot", spec, f"{says}; right of the line is better.",
                  height=130 + 44 * len(others))  # fmt: skip


def _said(pair: Mapping[str, Any]) -> str:
    """A comparison's hover text."""
    gain = f"{lettering(pair['objective'])}: {100 * pair['gain']:+.1f} points over"
    return (
        f"{gain} {lettering(label_of(pair['baseline']))}<br>"
        f"95 % {100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}<br>"
        f"{pair['gained']} items gained, {pair['lost']} lost of {pair['items']}"
    )


def flips_of(story: Story) -> list[Flip]:
    """Items on which the winner scores otherwise than some source; in the order of their tasks."""
    ours = _by_item(story.answered[WINNER])
    parents = {
        n: _by_item(r) for n, r in story.answered.items() if n in story.config.models.sources
    }
    signs = _signs(story)
    found: list[Flip] = []
    for key, response in ours.items():
        others = {name: known[key] for name, known in parents.items()}
        sign = signs.get(key[0], 1)
        apart = {n: sign * (response.score - o.score) for n, o in others.items()}
        if any(apart.values()):
            every = {WINNER: response} | others
            found.append(
                Flip(
                    *key,
                    scores={n: r.score for n, r in every.items()},
                    gained=tuple(n for n, d in apart.items() if d > 0),
                    lost=tuple(n for n, d in apart.items() if d < 0),
                    unfinished=tuple(n for n, r in every.items() if is_unfinished(r)),
                )
            )
    return found


def _by_item(responses: Sequence[Response]) -> dict[Key, Response]:
    return {(r.task, r.index): r for r in responses}


def _signs(story: Story) -> dict[str, int]:
    """Task -> whether more is better (1) or less (-1), as the objectives read it."""
    return {
        task: story.signs.get(o.label, 1)
        for o in story.config.fitness.all_objectives
        for task in ([o.task] if o.task else list(o.tasks or {}))
    }


def _tasks(story: Story) -> str:
    """By task and model: items gained and lost, and by how much the mean moved."""
    others = [n for n in story.answered if n != WINNER and story.models[n] != story.models[WINNER]]
    ours = _by_item(story.answered[WINNER])
    known = {n: _by_item(story.answered[n]) for n in others}
    signs = _signs(story)
    tasks = list(dict.fromkeys(task for task, _ in ours))
    rows: list[list[str]] = []
    for task in tasks:
        keys = [key for key in ours if key[0] == task]
        cells = [task, str(len(keys))]
        for name in others:
            apart = [signs.get(task, 1) * (ours[k].score - known[name][k].score) for k in keys]
            up, down = sum(d > 0 for d in apart), sum(d < 0 for d in apart)
            points = f"{100 * sum(apart) / len(keys):+.1f}".replace("-", "−")
            cells.append(f"+{up} −{down} ({points})")
        rows.append(cells)
    caption = (
        "Items gained (+) and lost (−) by the winner against each model (points of the task's mean)"
    )
    return table(["task", "test items", *map(label_of, others)], rows, caption)


def _answers(story: Story) -> str:
    """Answers that were cut, or could not be read."""
    honesty = story.summary["honesty"]
    if honesty is None:
        return ""
    head, rows = answers_table(honesty)
    if not rows:
        return paragraph("No answer was cut at the token limit, and all could be read.")
    return table(
        head, rows, "Unfinished answers to test items: they count as wrong, and may hide skill"
    )


def _items(story: Story) -> str:
    """The item table, with its filters."""
    found = flips_of(story)
    if not found:
        return paragraph("The winner answers every test item as all of its parents do.")
    parents = [n for n in story.answered if n in story.config.models.sources]
    tasks = list(dict.fromkeys(flip.task for flip in found))
    models = [WINNER, *parents]
    head = "".join(f'<th scope="col" class="number">{esc(label_of(m))}</th>' for m in models)
    told = '<th scope="col">end of the question</th>' if story.questions else ""
    rows = "".join(_row(flip, models, story.questions) for flip in found[:ROWS])
    left = f"; the first {ROWS} are listed" if len(found) > ROWS else ""
    inside = (
        '<div class="filters">'
        + _select("parent", "against", ["any parent", *parents])
        + _select("way", "the winner", ["gained or lost", "gained", "lost"])
        + _select("task", "task", ["all tasks", *tasks])
        + '<label class="switch"><input type="checkbox" data-filter="cut"> unfinished answers only</label>'
        + f'<output aria-live="polite">{min(len(found), ROWS)} items</output></div>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Items"><table id="flips">'
        "<caption><span>Scores by item; ▲ gained, ▼ lost against that parent; ✂ the answer was cut or could"
        " not be read</span></caption><thead><tr>"
        f'<th scope="col">task</th><th scope="col" class="number">item</th>{head}{told}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    total = len(story.answered[WINNER])
    note = paragraph(
        f"The winner and its parents differ on {len(found)} of {total} test items{left}. The number is"
        " the item's place among its task's documents."
    )
    return note + folded(f"Item by item ({len(found)})", inside)


def _row(flip: Flip, models: Sequence[str], questions: Mapping[str, Mapping[str, str]]) -> str:
    cells = ""
    for name in models:
        mark = "▲" if name in flip.gained else "▼" if name in flip.lost else ""
        cut = "✂" if name in flip.unfinished else ""
        cells += (
            f'<td class="number">{flip.scores[name]:.3g}{" " * bool(mark or cut)}{mark}{cut}</td>'
        )
    if questions:
        cells += f'<td class="question">{esc(questions[flip.task][str(flip.index)])}</td>'
    return (
        f'<tr data-task="{esc(flip.task)}" data-gained="{esc(" ".join(flip.gained))}"'
        f' data-lost="{esc(" ".join(flip.lost))}" data-cut="{int(bool(flip.unfinished))}">'
        f'<th scope="row">{esc(flip.task)}</th><td class="number">{flip.index}</td>{cells}</tr>'
    )


def _select(name: str, label: str, options: Sequence[str]) -> str:
    """The first option stands for all."""
    rows = "".join(
        f'<option value="{esc(o) if i else ""}">{esc(o)}</option>' for i, o in enumerate(options)
    )
    return f'<label class="switch">{label} <select data-filter="{name}">{rows}</select></label>'
