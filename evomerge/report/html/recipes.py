"""Recipes for readers: a genome in a line, a candidate's recipe where the run can tell it."""

import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.report.names import WINNER
from evomerge.two_stages import FIRST_PHASE
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.runs.folder import RunFolder
    from search_spaces.recipe import Recipe

GROUPS = 8
"""Lines of a genome that are shown; the rest is counted."""
LAYER = re.compile(r"slot_\d+\.layer")
"""The variable that names a slot's layer."""


def recipe_for(run: "RunFolder", candidate: Mapping[str, Any] | None) -> "Recipe | None":
    """A candidate's recipe: as recorded, or decoded over the run's sources if they are still there."""
    from search_spaces.dialect import parse_recipe

    if candidate is None:
        return None
    digest, text = run.database.recipes().get(WINNER, ("", ""))
    if digest == candidate["recipe_hash"]:
        return parse_recipe(text, "run.db")
    try:
        found = _decoded(run, tuple(candidate["genome"].values()))
    except (InputError, OSError, sqlite3.Error):  # sources moved away: the rest can still be told
        return None
    return found if found.hash == candidate["recipe_hash"] else None


def _decoded(run: "RunFolder", genome: tuple[Any, ...]) -> "Recipe":
    from evomerge.run_sources import frozen_locations, open_run_sources
    from evomerge.spaces import build_space, first_stage

    sources = open_run_sources(run.config, frozen_locations(run.config))
    merged = None
    chosen = run.database.meta(f"{FIRST_PHASE}_choice")
    before = first_stage(run.config, sources)
    if before is not None and chosen is not None:
        merged = before.decode(run.database.candidates(FIRST_PHASE)[chosen["id"]].genome)
    return build_space(run.config, sources, merged).decode(genome)


def split_name(variable: str, sources: Sequence[str]) -> tuple[str, str, str]:
    """A variable's parameter, source (or empty) and the rest: `weight`, `ja`, `layers_0_3.attn`."""
    parameter, _, rest = variable.partition(".")
    for source in sorted(sources, key=len, reverse=True):
        if rest == source or rest.startswith(f"{source}."):
            return parameter, source, rest[len(source) + 1 :]
    return parameter, "", rest


def genome_lines(genome: Mapping[str, Any], sources: Sequence[str], kept: int = 0) -> list[str]:
    """A genome in few lines: the layers it stacks, and by parameter and source the mean, with the
    range where it varies.

    Args:
        genome: by variable.
        sources: their names.
        kept: layers of every stack that are no slots.
    """
    layers = [name for name in genome if LAYER.fullmatch(name)]
    stacked = [_stack(genome, len(layers), kept)] if layers else []
    if "slot_0.model" in genome:
        return stacked
    groups: dict[tuple[str, str], list[Any]] = {}
    for name, value in genome.items():
        if name in layers:  # their mean is no layer
            continue
        parameter, source, _ = split_name(name, sources)
        groups.setdefault((parameter, source), []).append(value)
    lines = [f"{p} {s}".strip() + f" {_spoken(values)}" for (p, s), values in groups.items()]
    lines = stacked + lines
    left = len(lines) - GROUPS
    return lines if left <= 0 else [*lines[:GROUPS], f"and {left} more"]


def _stack(genome: Mapping[str, Any], slots: int, kept: int) -> str:
    """The stack that a genome's slots spell: `maths 0-5, ja 4-9`; of one model, `layers 0-5, 4-9`."""
    stretches: list[list[Any]] = []
    # `depth` counts the kept layers, too; without it every slot is in use
    for slot in range(min(slots, int(genome["depth"]) - kept) if "depth" in genome else slots):
        model, layer = genome.get(f"slot_{slot}.model", ""), genome[f"slot_{slot}.layer"]
        if stretches and stretches[-1][0] == model and stretches[-1][2] + 1 == layer:
            stretches[-1][2] = layer
        else:
            stretches.append([model, layer, layer])
    spans = [f"{m} {a}" if a == b else f"{m} {a}-{b}" for m, a, b in stretches]
    text = ", ".join(span.strip() for span in spans)
    if "slot_0.model" not in genome:
        text = f"layers {text}"
    return f"{text} (and {kept} kept)" if kept else text


def _spoken(values: Sequence[Any]) -> str:
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        low, high = min(values), max(values)
        if low == high:
            return f"{low:.3g}"
        return f"{math.fsum(values) / len(values):.2g} ({low:.2g} to {high:.2g})"
    counts = {str(v): [str(w) for w in values].count(str(v)) for v in values}
    if len(values) == 1:
        return str(values[0])
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} ({count})" for name, count in ordered[:4])
