"""What went wrong: failures by outcome, over time, and what the run's log says."""

from typing import Any

from evomerge.report.html.drawing import COLOURS, axis, layout
from evomerge.report.html.section import Section, bullets, figure, folded, paragraph, table
from evomerge.report.html.story import Story
from evomerge.report.names import label_of

BINS = 30
PATTERNS = ("", "/", "x", ".", "\\", "-", "+")


def failures(story: Story) -> Section:
    """Failed evaluations and the run's log."""
    title = "What went wrong"
    failed = [t for t in story.timed if t.outcome != "scored"]
    html = bullets(troubles(story))
    if failed:
        html += _over_time(story) + _table(story)
    elif story.timed:
        html += paragraph(f"None of {len(story.timed)} evaluations failed.")
    else:
        html += paragraph("Nothing has been evaluated yet.")
    return Section("failures", title, html + _log(story))


def troubles(story: Story) -> list[str]:
    """What a reader should know went wrong, in sentences; empty where nothing did."""
    budget, summary = story.summary["budget"], story.summary
    said: list[str] = []
    if budget["failed"]:
        said.append(f"{budget['failed']} of {budget['done']} candidates failed")
    kinds = [kind for _, kind, _ in story.events]
    if kinds.count("resumed"):
        said.append(f"the run was interrupted and resumed {kinds.count('resumed')} time(s)")
    if summary["status"] == "interrupted":
        session = summary["session"]
        how = f"was stopped ({session['reason']})" if session["reason"] else "ended without a word"
        said.append(
            f"the run is not finished: {budget['done']} of {budget['evaluations']} candidates, and"
            f" nobody is driving it; the last session {how} at {session['since'][:16]} UTC"
        )
    broken = [c for c in summary["constraints"] if c["broken"]]
    said += [f"{c['broken']} candidates break the constraint {c['text']}" for c in broken]
    said += [f"no test score for {label_of(n)}: {why}" for n, why in summary["unscored"].items()]
    answers = (summary["honesty"] or {}).get("answers", {})
    cut = {n: a["unfinished"] for n, a in answers.items() if a["unfinished"]}
    if cut:
        counts = ", ".join(f"{label_of(n)} {count}" for n, count in cut.items())
        said.append(f"answers to test items that were cut or could not be read: {counts}")
    return said


def _over_time(story: Story) -> str:
    outcomes = list(dict.fromkeys(t.outcome for t in story.timed if t.outcome != "scored"))
    total = max(story.clock.total, 1e-9)
    width = total / BINS
    minutes = total < 2 * 3600
    unit = 60 if minutes else 3600
    middles = [(b + 0.5) * width / unit for b in range(BINS)]
    bars: list[dict[str, Any]] = []
    for number, outcome in enumerate(outcomes):
        counts = [0] * BINS
        for t in story.timed:
            if t.outcome == outcome:
                counts[min(BINS - 1, int(story.clock.at_work(t.finished) / width))] += 1
        bars.append(
            {
                "type": "bar", "name": outcome, "x": middles, "y": counts,
                "marker": {"color": COLOURS[number % len(COLOURS)],
                           "pattern": {"shape": PATTERNS[number % len(PATTERNS)]}},
                "hovertemplate": f"%{{y}} {outcome} at %{{x:.2f}}<extra></extra>",
            }
        )  # fmt: skip
    highest = max(map(sum, zip(*(bar["y"] for bar in bars), strict=True)))
    step = {"dtick": 1} if highest <= 5 else {}
    spec = {
        "data": bars,
        "layout": layout(
            barmode="stack",
            xaxis=axis(f"{'minutes' if minutes else 'hours'} of work"),
            yaxis=axis("evaluations", rangemode="tozero", tickformat=",d", **step),
        ),
    }
    return figure("failures-plot", spec, "Failed evaluations by outcome, over time.", height=280)


def _table(story: Story) -> str:
    reasons: dict[str, list[str]] = {}
    for timed in story.timed:
        if timed.outcome != "scored":
            reasons.setdefault(timed.outcome, []).append(timed.reason)
    rows = [[outcome, said[0] or "–", str(len(said))] for outcome, said in reasons.items()]
    head = ["outcome", "the first reason", "evaluations"]
    return table(head, rows, "Failures; a failed candidate has no score and cannot win", words=2)


def _log(story: Story) -> str:
    rows = [[at[:19].replace("T", " "), kind, detail] for at, kind, detail in story.events]
    return folded(
        f"The run's log ({len(rows)} lines)",
        table(["when (UTC)", "what", "detail"], rows, "Events", words=3),
    )
