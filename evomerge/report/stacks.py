"""What a search over stacks found, beside scores: paths, where it began, and how much was alive."""

from collections.abc import Mapping
from typing import Any

from evomerge.config import STACKS
from evomerge.report.alive import alive, sentence
from evomerge.report.honesty import scores_of
from evomerge.report.names import label_of
from evomerge.runs.folder import RunFolder
from evomerge.search.goals import Goals
from evomerge.two_stages import FIRST_PHASE

BEST_START = "best_start"
"""The best of the starting points, as a baseline and as a fact in run.db."""


def stacks(run: RunFolder, goals: Goals) -> dict[str, Any] | None:
    """The part of a run's summary that only searches over stacks have; None for others.

    Returns:
        `alive` (see `evomerge.report.alive`), `paths` (winner, `best_start`, `random_search`: its
        layers in a line each), `best_start` (the starting point's name; None before the end) and
        `first_stage` (of two: `candidates`, and `chosen`, its winner's id; None if there is one).
    """
    if run.config.space.kind not in STACKS:
        return None
    database = run.database
    start = database.meta(BEST_START)
    first = None
    if database.meta(f"{FIRST_PHASE}_variables") is not None:
        first = {
            "candidates": len(database.candidates(FIRST_PHASE)),
            "chosen": database.meta(f"{FIRST_PHASE}_choice", {}).get("id"),
        }
    return {
        "alive": alive(database, scores_of(run, goals, averaged=False)),
        "paths": database.meta("paths", {}),
        "best_start": start["name"] if start else None,
        "first_stage": first,
    }


def sentences_of(found: Mapping[str, Any] | None) -> list[str]:
    """The same in words, a line each."""
    if found is None:
        return []
    said: list[str] = []
    if first := found["first_stage"]:
        chosen = "" if first["chosen"] is None else f", winner {first['chosen']}: `merged` below"
        said.append(f"first stage: {first['candidates']} merges{chosen}")
    for name, path in found["paths"].items():
        start = f" ({found['best_start']})" if name == BEST_START else ""
        said.append(f"layers of {label_of(name)}{start}: {path}")
    return [*said, sentence(found["alive"])] if found["alive"] else said
