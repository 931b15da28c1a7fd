"""What a report says of a search that began with another run's candidates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.runs.database import Database
from evomerge.runs.ledger import nearly
from evomerge.search.candidate import Candidate

WARM_START = "warm_start"
"""The fact in run.db: what was taken over."""


def warm_start(
    database: Database, candidates: Sequence[Candidate], chosen: int | None
) -> dict[str, Any] | None:
    """Where the search began, and whether its winner was there already.

    Args:
        database: of the run.
        candidates: of the search, or its second stage.
        chosen: the winner's id, if there is one.

    Returns:
        `run` (the other's folder), `candidates` (how many were taken over), `winner` (what the other
        run called the candidate that won; None: another one won) and `sentence`. None: a cold start.
    """
    found = database.meta(WARM_START, {})
    if not found:
        return None
    taken = found["search"]
    count = len(taken["genomes"])
    genomes = {c.id: c.genome for c in candidates}
    winner = next(
        (
            number
            for number, genome in zip(taken["ids"], taken["genomes"], strict=True)
            if chosen in genomes and nearly(tuple(genome), genomes[chosen])
        ),
        None,
    )
    told = {"run": found["run"], "candidates": count, "winner": winner}
    chance = bool(database.candidates("random"))
    return told | {"sentence": _sentence(told, chance)}


def _sentence(told: Mapping[str, Any], chance: bool) -> str:
    """What it means for the other figures, which know nothing of that run.

    Args:
        told: as `warm_start` returns it.
        chance: whether there is a random search to compare with.
    """
    begun = f"the search began with {told['candidates']} candidates of {Path(told['run']).name}"
    if told["winner"] is not None:
        without = "random search had no such start, and " if chance else ""
        return (
            f"{begun}, and the winner is one of them (its candidate {told['winner']}): it was found there; "
            f"{without}the luck of that run's pick is not taken out of the scores"
        )
    if not chance:
        return begun
    return f"{begun}; random search had no such start, so its budget was smaller by that run's"
