"""Progress: hypervolume and best-so-far against evaluations and hours, beside a random search."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.report.html.drawing import axis, layout
from evomerge.report.html.section import (
    Section,
    figure,
    folded,
    lettering,
    paragraph,
    switch,
    table,
)
from evomerge.report.html.story import Story
from evomerge.search.candidate import Candidate
from evomerge.search.standing import Standing

POINTS = 40
"""At which the hypervolume is worked out anew."""

LABELS = {"search": "the search", "random": "random search"}
STYLES = {"search": ("var(--front)", "solid"), "random": ("var(--chance)", "dash")}


@dataclass(frozen=True)
class Trace:
    """A phase from its first candidate on, at some of them.

    Attributes:
        done: candidates by then.
        hours: of work since the phase began.
        volume: hypervolume.
        best: by objective, the best feasible value by then (nan: none yet).
    """

    done: list[int]
    hours: list[float]
    volume: list[float]
    best: dict[str, list[float]]


def progress(story: Story) -> Section:
    """The search's way, beside that of a random search of the same budget."""
    found = {name: _trace(story, name) for name in story.phases}
    traces = {name: trace for name, trace in found.items() if trace is not None}
    if "search" not in traces:
        return Section("progress", "Progress", paragraph(_nothing(story)))
    html = paragraph(_words(story, traces))
    many = len(story.goals.names) > 1
    if many:
        says = "Hypervolume of the front against candidates or hours."
        html += _drawn("volume-plot", "hypervolume", says, traces, None)
    for number, name in enumerate(story.goals.names):
        says = f"Best {name} so far, by the search items, against candidates or hours."
        html += _drawn(f"best-plot-{number}", name, says, traces, name)
    return Section("progress", "Progress", html + _table(story, traces))


def _nothing(story: Story) -> str:
    """Why there is no way to draw."""
    if not any(c.evaluation.scored for c in story.phases["search"].candidates):
        return "Nothing has been scored yet."
    yet = "" if story.summary["status"] == "done" else " yet"
    return f"No candidate has kept every constraint{yet}: there is no front to measure."


def _words(story: Story, traces: dict[str, Trace]) -> str:
    ours = traces["search"]
    text = f"After {ours.done[-1]} candidates"
    if len(story.goals.names) > 1:
        se = story.summary["hypervolume_se"]
        text += f" the search's front has a hypervolume of {ours.volume[-1]:.4f} ± {se:.4f}"
        if "random" in traces:
            other = traces["random"]
            text += f"; {other.done[-1]} random candidates come to {other.volume[-1]:.4f}"
            level = next((n for n, v in zip(ours.done, ours.volume, strict=True)
                          if v >= other.volume[-1]), None)  # fmt: skip
            text += "" if level is None else f", which the search had by candidate {level}"
    else:
        [name] = traces["search"].best
        text += f" the best {name} is {ours.best[name][-1]:.4f}"
        if "random" in traces:
            other = traces["random"]
            text += f"; {other.done[-1]} random candidates come to {other.best[name][-1]:.4f}"
    return (
        f"{text}. All of it by the search items, where the best of many is lucky: the comparison to"
        " believe is the one on test items above."
    )


def _trace(story: Story, phase: str) -> Trace | None:
    """A phase's way; None before it has a scored candidate."""
    ordered = _in_order(story, phase)
    if not any(c.evaluation.scored for c, _ in ordered):
        return None
    reference = _standing(story, story.phases["search"].candidates).reference()
    count, objectives = len(ordered), len(story.goals.names)
    points = POINTS if objectives < 3 else POINTS // 2
    checks = sorted({round(x) for x in np.linspace(1, count, min(points, count))})
    standing, begun = Standing(story.goals, racing=story.racing), 0
    found = Trace([], [], [], {name: [] for name in story.goals.names})
    bests = dict.fromkeys(story.goals.names, float("nan"))
    for check in checks:
        new = [c for c, _ in ordered[begun:check]]
        standing.add(new)
        begun = check
        bests = _better(story, bests, new)
        if not standing.archive.front() or reference is None:
            continue
        found.done.append(check)
        found.hours.append(ordered[check - 1][1] / 3600)
        found.volume.append(standing.archive.hypervolume(reference) if objectives > 1 else 0.0)
        for name, values in found.best.items():
            values.append(bests[name])
    return found if found.done else None


def _standing(story: Story, candidates: Any) -> Standing:
    standing = Standing(story.goals, racing=story.racing)
    standing.add(candidates)
    return standing


def _better(story: Story, bests: dict[str, float], new: list[Candidate]) -> dict[str, float]:
    """The best feasible value by objective, once some candidates more are in."""
    feasible = [c.evaluation.objectives for c in new if story.goals.feasible(c.evaluation)]
    found = dict(bests)
    for name, sign in story.signs.items():
        values = [sign * o[name].value for o in feasible]
        if not np.isnan(bests[name]):
            values.append(sign * bests[name])
        found[name] = sign * max(values) if values else bests[name]
    return found


def _in_order(story: Story, phase: str) -> list[tuple[Candidate, float]]:
    """A phase's candidates in the order of telling, with the seconds of work by then."""
    found = story.phases[phase]
    pairs = list(zip(found.candidates, found.rows, strict=True))
    if any(row.told for _, row in pairs):
        pairs.sort(key=lambda pair: pair[1].told)
    paid = [story.finished[c.recipe_hash] for c, row in pairs if not row.cached]
    begun = min((t.finished - t.seconds for t in paid), default=0.0)
    start, latest = story.clock.at_work(begun), 0.0
    ordered: list[tuple[Candidate, float]] = []
    for candidate, row in pairs:
        if not row.cached:
            moment = story.finished[candidate.recipe_hash].finished
            latest = max(latest, story.clock.at_work(moment) - start)
        ordered.append((candidate, latest))
    return ordered


def _drawn(
    name: str, label: str, says: str, traces: dict[str, Trace], objective: str | None
) -> str:
    lines: list[dict[str, Any]] = []
    for phase, trace in traces.items():
        colour, dash = STYLES[phase]
        heights = trace.volume if objective is None else trace.best[objective]
        lines.append(
            {
                "type": "scatter", "mode": "lines", "name": LABELS[phase],
                "x": trace.done, "y": heights,
                "meta": {"values": {"candidates": trace.done, "hours": trace.hours}},
                "line": {"color": colour, "dash": dash, "shape": "hv", "width": 2.5},
                "hovertemplate": f"{lettering(label)} %{{y:.4f}} at %{{x}}<extra>{LABELS[phase]}</extra>",
            }
        )  # fmt: skip
    spec = {"data": lines, "layout": layout(xaxis=axis("candidates"), yaxis=axis(label))}
    chooser = switch(name, "x", "against", ["candidates", "hours"])
    return figure(name, spec, says, height=320, switches=chooser)


def _table(story: Story, traces: dict[str, Trace]) -> str:
    names = list(story.goals.names)
    rows: list[list[str]] = []
    for phase, trace in traces.items():
        step = max(1, len(trace.done) // 10)
        picks = sorted({*range(0, len(trace.done), step), len(trace.done) - 1})
        for i in picks:
            volume = [f"{trace.volume[i]:.4f}"] if len(names) > 1 else []
            best = [f"{trace.best[n][i]:.4f}" for n in names]
            rows.append(
                [LABELS[phase], str(trace.done[i]), f"{trace.hours[i]:.3f}", *volume, *best]
            )
    head = ["", "candidates", "hours", *(["hypervolume"] if len(names) > 1 else [])]
    caption = "Hypervolume and best values so far, by the search items"
    return folded(
        "Progress as a table", table([*head, *(f"best {n}" for n in names)], rows, caption)
    )
