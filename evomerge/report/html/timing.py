"""Where the time went: merging, scoring, waiting, by worker and over the hours."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.live.words import duration
from evomerge.report.html.drawing import axis, layout
from evomerge.report.html.section import Section, figure, lettering, paragraph, table
from evomerge.report.html.story import Story

BINS = 120
"""Stretches of time of the timeline."""


@dataclass(frozen=True)
class Worker:
    """An evaluator's time, in seconds.

    Attributes:
        name: host included.
        evaluations: how many it did.
        merge, score: seconds.
        wait: seconds of the run's work in which it did neither.
    """

    name: str
    evaluations: int
    merge: float
    score: float
    wait: float

    @property
    def busy(self) -> float:
        """Share of the time, in [0, 1]."""
        total = self.merge + self.score + self.wait
        return (self.merge + self.score) / total if total else 0.0


def timing(story: Story) -> Section:
    """Seconds by worker, and when each was busy."""
    title = "Where the time went"
    found = workers(story)
    if not found:
        return Section("time", title, paragraph("Nothing has been evaluated yet."))
    merge, score = sum(w.merge for w in found), sum(w.score for w in found)
    wait = sum(w.wait for w in found)
    whole = merge + score + wait or 1.0
    text = (
        f"{duration(story.clock.total)} of work in {len(story.clock.sessions)} session(s), on"
        f" {len(found)} worker(s): {_share(merge, whole)} of their time went into merging,"
        f" {_share(score, whole)} into answering and scoring, {_share(wait, whole)} into waiting."
    )
    notes = (
        "Swapping weights into the engine is part of merging: it is not recorded apart. Waiting is all"
        " the rest of the sessions: starting the engines, and having nothing to do. Answers that other"
        " runs had paid for cost no time."
    )
    html = paragraph(text) + paragraph(notes, "note") + _bars(found) + _timeline(story, found)
    rows = [
        [w.name, str(w.evaluations), *(duration(s) for s in (w.merge, w.score, w.wait)),
         f"{100 * w.busy:.0f} %"]
        for w in found
    ]  # fmt: skip
    head = ["worker", "evaluations", "merge (with swap)", "score", "wait", "busy"]
    return Section("time", title, html + table(head, rows, "Time by worker") + _splits(story))


def workers(story: Story) -> list[Worker]:
    """The time of each worker, by name."""
    found: list[Worker] = []
    for name in sorted({t.worker for t in story.timed if t.worker}):
        mine = [t for t in story.timed if t.worker == name]
        merge, score = sum(t.merge for t in mine), sum(t.score for t in mine)
        wait = max(0.0, story.clock.total - merge - score)
        found.append(Worker(name, len(mine), merge, score, wait))
    return found


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def _bars(found: list[Worker]) -> str:
    kinds = (("merge", "var(--c0)", ""), ("score", "var(--c2)", "/"), ("wait", "var(--faint)", ""))
    bars = [
        {
            "type": "bar", "orientation": "h", "name": kind, "y": [lettering(w.name) for w in found],
            "x": [getattr(w, kind) / 60 for w in found],
            "marker": {"color": colour, "pattern": {"shape": shape}},
            "hovertemplate": f"%{{y}}: {kind} %{{x:.2f}} min<extra></extra>",
        }
        for kind, colour, shape in kinds
    ]  # fmt: skip
    spec = {
        "data": bars,
        "layout": layout(barmode="stack", xaxis=axis("minutes"), yaxis=axis(type="category")),
    }
    says = "Minutes by worker: merging (with the swap), scoring, waiting."
    return figure("time-plot", spec, says, height=130 + 34 * len(found))


def busy_shares(story: Story, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """[bins] middles in hours of work, and [workers, bins] shares of each bin that they were busy."""
    total = max(story.clock.total, 1e-9)
    edges = np.linspace(0, total, BINS + 1)
    busy = np.zeros((len(names), BINS))
    for timed in story.timed:
        if timed.worker not in names:
            continue
        end = story.clock.at_work(timed.finished)
        overlap = np.minimum(edges[1:], end) - np.maximum(edges[:-1], end - timed.seconds)
        busy[names.index(timed.worker)] += np.clip(overlap, 0, None)
    return (edges[:-1] + edges[1:]) / 2 / 3600, np.clip(busy / (total / BINS), 0, 1)


def _timeline(story: Story, found: list[Worker]) -> str:
    names = [w.name for w in found]
    hours, busy = busy_shares(story, names)
    minutes = story.clock.total < 2 * 3600
    heat: dict[str, Any] = {
        "type": "heatmap", "x": (hours * 60 if minutes else hours).tolist(),
        "y": [lettering(n) for n in names], "z": busy.round(3).tolist(),
        "zmin": 0, "zmax": 1, "ygap": 3, "colorscale": "sequential",
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickformat": ".0%"},
        "hovertemplate": "%{y} at %{x:.2f}: %{z:.0%} busy<extra></extra>",
    }  # fmt: skip
    unit = "minutes" if minutes else "hours"
    spec = {
        "data": [heat],
        "layout": layout(xaxis=axis(f"{unit} of work"), yaxis=axis(type="category")),
    }
    says = "When each worker was busy; pauses between sessions are left out."
    return figure("busy-plot", spec, says, height=120 + 34 * len(found))


def _splits(story: Story) -> str:
    """What was evaluated for what."""
    named = {
        "search": "candidates, on search items",
        "selection": "finalists and sources, on selection items",
        "test": "winner and baselines, on test items",
        "as_searched": "the winner as it was searched, on test items",
    }
    rows: list[list[str]] = []
    for split, what in named.items():
        mine = [t for t in story.timed if t.split == split]
        if mine:
            merge, score = sum(t.merge for t in mine), sum(t.score for t in mine)
            answers = sum(t.answers for t in mine)
            rows.append([what, str(len(mine)), f"{answers:,}", duration(merge), duration(score)])
    head = ["for", "evaluations", "items answered", "merge", "score"]
    return table(head, rows, "Time by purpose")
