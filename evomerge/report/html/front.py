"""The front: what was found, with error bars, between the models it was made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.live.words import estimate
from evomerge.report.html.drawing import (
    Z95,
    axis,
    candidate_hover,
    layout,
    mark_of,
    model_hover,
)
from evomerge.report.html.section import (
    Section,
    bullets,
    figure,
    folded,
    lettering,
    paragraph,
    switch,
    table,
)
from evomerge.report.html.story import Story
from evomerge.report.names import WINNER, label_of

BARS = 5
"""Candidates of a ranking that get a row each."""
ROWS = 200
"""Rows of the front's table, at most."""

Entry = Mapping[str, Any]


def front(story: Story) -> Section:
    """The front, drawn and as a table."""
    names = list(story.goals.names)
    scored = [c for c in story.summary["candidates"] if c["outcome"] == "scored"]
    if not scored:
        empty = "No candidate has been scored yet: there is nothing to draw."
        return Section("front", "The front", paragraph(empty))
    members = [c for c in scored if c["on_front"]]
    if len(names) == 1:
        members = ranked(story, scored)
        title, drawn = "The best candidates", _ranking(story, members)
    else:
        title, drawn = "The Pareto front", _scatter(story, scored, members)
        if len(names) > 2 and members:
            drawn += _parallel(story, members)
    return Section("front", title, _words(story, members) + drawn + _table(story, members))


def _words(story: Story, members: Sequence[Entry]) -> str:
    goals = story.goals
    ways = ", ".join(f"{n} ({d}d)" for n, d in zip(goals.names, goals.directions, strict=True))
    text = (
        f"{len(members)} candidates are on the front by {ways}: no other is at least as good in every"
        " objective and better in one."
        if len(goals.names) > 1
        else f"Candidates ordered by {ways}."
    )
    if not story.feasible:
        nobody = "no candidate has kept every constraint."
        text = (
            f"Nobody is on the front by {ways}: {nobody}"
            if len(goals.names) > 1
            else f"{text} But {nobody}"
        )
    text += (
        " Bars are 95 % intervals. Candidates are placed by the search items, on which they were also"
        " chosen, so the best of them were lucky too; models marked “test items” were scored on items"
        " that the search never saw."
    )
    notes = [
        f"constraint {c['text']}: {c['broken']} candidates break it"
        for c in story.summary["constraints"]
    ]
    if story.racing:
        notes.append(
            "races: candidates answered unlike numbers of items, and the front is drawn by what they"
            " are believed to be worth; a point's own score may lie before it"
        )
    return paragraph(text) + bullets(notes)


def _scatter(story: Story, scored: Sequence[Entry], members: Sequence[Entry]) -> str:
    names = list(story.goals.names)
    chosen = {c["recipe_hash"] for c in members}
    rest = [c for c in scored if c["recipe_hash"] not in chosen]
    traces = [
        _points(story, rest, "candidates", "var(--dot)", {"size": 5, "opacity": 0.6}, bars=False),
        _points(story, members, "front", "var(--front)", {"size": 8}, bars=True),
    ]
    traces += _grouped(_marked(story))
    spec = {
        "data": [trace for trace in traces if trace["x"]],
        "layout": layout(xaxis=axis(names[0]), yaxis=axis(names[1])),
    }
    switches = ""
    if len(names) > 2:
        switches = switch("front-plot", "x", "across", names, 0)
        switches += switch("front-plot", "y", "up", names, 1)
    says = f"Candidates by {' and '.join(names[:2])}, with the front, the sources and baselines."
    return figure("front-plot", spec, says, height=520, switches=switches)


def _points(
    story: Story, entries: Sequence[Entry], name: str, colour: str, marker: Entry, *, bars: bool
) -> dict[str, Any]:
    estimates = [c["objectives"] for c in entries]
    hovers = [_hover(story, c) for c in entries]
    return _trace(story, estimates, name, hovers, {"color": colour, **marker}, bars=bars)


def _hover(story: Story, entry: Entry) -> str:
    """What a candidate is; the winner's point lies on others', so it says so whoever is on top."""
    title = ""
    if story.best is not None and entry["id"] == story.best["id"]:
        title = f"{story.called}: candidate {entry['id']}"
    return candidate_hover(entry, list(story.config.models.sources), story.kept, title)


def _trace(
    story: Story,
    estimates: Sequence[Mapping[str, Mapping[str, float]]],
    name: str,
    hovers: Sequence[str],
    marker: Mapping[str, Any],
    *,
    bars: bool,
) -> dict[str, Any]:
    """A set of models by their objectives; `meta` has all of them, for the selects."""
    names = list(story.goals.names)
    columns = {n: [e[n]["value"] for e in estimates] for n in names}
    errors = {n: [Z95 * e[n]["se"] for e in estimates] for n in names}
    found: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": lettering(name),
        "x": columns[names[0]],
        "y": columns[names[1 if len(names) > 1 else 0]],
        "text": list(hovers),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": dict(marker),
    }
    if len(names) > 2:
        found["meta"] = {"values": columns}
    if bars:
        for key, place in (("error_x", 0), ("error_y", 1 if len(names) > 1 else 0)):
            found[key] = {"array": errors[names[place]], "thickness": 1, "width": 0}
        if len(names) > 2:
            found["meta"]["errors"] = errors
    return found


def _marked(story: Story) -> list[dict[str, Any]]:
    """Sources, baselines and the winner, each with its own mark."""
    traces: list[dict[str, Any]] = []
    for name, found in story.summary["baselines"].items():
        if name == WINNER:
            continue
        seen = story.sources_seen.get(name)
        where = "search items" if seen else "test items"
        trace = _one(story, name, seen or found, where)
        if name in story.config.models.sources:
            trace["legendgroup"] = where
        traces.append(trace)
    if story.best is not None:
        traces.append(_one(story, story.called, story.best["objectives"], "search items"))
    if WINNER in story.summary["baselines"]:
        traces.append(_one(story, WINNER, story.summary["baselines"][WINNER], "test items"))
    return traces


def _grouped(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sources under one entry of the legend; they are named beside their marks."""
    seen: set[str] = set()
    for trace in traces:
        if where := trace.get("legendgroup"):
            trace |= {"name": f"sources, {where}", "showlegend": where not in seen}
            seen.add(where)
    return traces


def _one(
    story: Story, name: str, objectives: Mapping[str, Mapping[str, float]], where: str
) -> dict[str, Any]:
    ours = name in (WINNER, story.called)
    symbol, colour = mark_of(WINNER if ours else name)
    hollow = where == "test items"
    marker = {
        "symbol": f"{symbol}-open" if hollow else symbol,
        "size": 17 if ours else 12,
        "color": colour,
        "line": {"width": 2, "color": colour},
    }
    text = model_hover(name, objectives, f"on {where}")
    if ours and not hollow and story.best is not None:
        text = _hover(story, story.best)
    trace = _trace(story, [objectives], f"{label_of(name)}, {where}", [text], marker, bars=True)
    if not ours:  # named beside its mark
        named = {"mode": "markers+text", "hovertext": [text], "text": [lettering(label_of(name))]}
        trace |= {
            **named,
            "hovertemplate": "%{hovertext}<extra></extra>",
            "textposition": "bottom right",
        }
        trace |= {"textfont": {"size": 11, "color": colour}}
    return trace


def ranked(story: Story, scored: Sequence[Entry]) -> list[Entry]:
    """Distinct recipes by the first objective, the best first."""
    name = story.goals.names[0]
    distinct = list({c["recipe_hash"]: c for c in reversed(scored)}.values())
    return sorted(distinct, key=lambda c: -story.signs[name] * c["objectives"][name]["value"])


def _ranking(story: Story, members: Sequence[Entry]) -> str:
    """One objective: a row for all candidates, one for each of the best, one for each model."""
    name = story.goals.names[0]
    everyone = _trace(
        story,
        [c["objectives"] for c in members],
        "candidates",
        [_hover(story, c) for c in members],
        {"size": 5, "color": "var(--dot)", "opacity": 0.7},
        bars=False,
    )
    # spread over the row's height, so that equal scores do not hide each other
    everyone["y"] = [0.7 * ((0.618 * i) % 1) - 0.35 for i in range(len(members))]
    rows = [(f"{len(members)} candidates", everyone)]
    rows += [
        (
            f"candidate {c['id']}",
            _points(story, [c], "best", "var(--front)", {"size": 9}, bars=True),
        )
        for c in members[:BARS]
    ]
    rows += [(trace["name"], trace) for trace in _marked(story)]
    for height, (_, trace) in enumerate(rows):
        trace["y"] = [y - height for y in trace["y"]] if height == 0 else [-height]
        trace.pop("error_y", None)
        trace |= {"showlegend": False, "mode": "markers"}
    ticks = {"tickvals": [-i for i in range(len(rows))], "ticktext": [label for label, _ in rows]}
    spec = {
        "data": [trace for _, trace in rows],
        "layout": layout(xaxis=axis(name), yaxis=axis(**ticks, tickfont={"size": 12})),
    }
    says = f"All candidates, the best {BARS}, sources and baselines, by {name}"
    return figure("front-plot", spec, f"{says}.", height=110 + 32 * len(rows))


def _parallel(story: Story, members: Sequence[Entry]) -> str:
    """More than two objectives: a line per member over all of them, each from worst to best."""
    names = list(story.goals.names)
    shown = [*members[:ROWS]]
    lows = {n: min(c["objectives"][n]["value"] for c in shown) for n in names}
    spans = {n: (max(c["objectives"][n]["value"] for c in shown) - lows[n]) or 1.0 for n in names}

    def heights(objectives: Mapping[str, Mapping[str, float]]) -> list[float]:
        shares = [(objectives[n]["value"] - lows[n]) / spans[n] for n in names]
        ups = [s if story.signs[n] > 0 else 1 - s for s, n in zip(shares, names, strict=True)]
        return ups

    best = story.best["recipe_hash"] if story.best else None
    traces: list[dict[str, Any]] = []
    for c in sorted(shown, key=lambda c: c["recipe_hash"] == best):
        ours = c["recipe_hash"] == best
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": [lettering(n) for n in names],
                "y": heights(c["objectives"]), "showlegend": False,
                "text": [_hover(story, c)] * len(names),
                "hovertemplate": "%{text}<extra></extra>",
                "opacity": 1 if ours else 0.35,
                "line": {"width": 4 if ours else 1.2,
                         "color": "var(--winner)" if ours else "var(--front)"},
                "marker": {"size": 9 if ours else 4},
            }
        )  # fmt: skip
    ticks = {"tickvals": [0, 1], "ticktext": ["worst", "best"]}
    spec = {"data": traces, "layout": layout(yaxis=axis("on the front", **ticks), xaxis=axis())}
    says = "The front's members over all objectives, each from the front's worst to its best value"
    return figure("parallel-plot", spec, f"{says}; the winner's line is thick.", height=360)


def _table(story: Story, members: Sequence[Entry]) -> str:
    names = list(story.goals.names)
    shown = list(members[:ROWS])
    if story.best is not None and all(c["id"] != story.best["id"] for c in shown):
        shown.insert(0, story.best)
    rows = [
        [
            f"{c['id']}{' ★' if story.best and c['id'] == story.best['id'] else ''}",
            *(estimate(c["objectives"][n]["value"], c["objectives"][n]["se"]) for n in names),
            *(_again(c["selection"], n) for n in names),
            c["items"],
            c["recipe_hash"][:12],
        ]
        for c in shown
    ]
    head = ["candidate", *(f"{n}, search" for n in names), *(f"{n}, selection" for n in names)]
    marked = [i for i, c in enumerate(shown) if story.best and c["id"] == story.best["id"]]
    left = f", the first {ROWS}" if len(members) > ROWS else ""
    what = "The front" if len(names) > 1 else "The ranking"
    caption = f"{what}: {len(members)} candidates{left} (± standard error; ★ the pick)"
    return folded(
        f"{what} as a table ({len(shown)})",
        table([*head, "search items", "recipe"], rows, caption, marked=marked),
    )


def _again(selection: Mapping[str, Mapping[str, float]] | None, name: str) -> str:
    if not selection or name not in selection:
        return "–"
    return estimate(selection[name]["value"], selection[name]["se"])
