"""The choice: finalists are scored again on items the search never saw, and one is picked there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evomerge.asking import Asking
from evomerge.runs.ledger import Wanted
from evomerge.search.archive import Archive, Member, gains
from evomerge.search.beliefs import believe
from evomerge.search.candidate import Candidate
from evomerge.search.driver import Driver, finalists
from evomerge.search.goals import Goals
from evomerge.search.picks import living, parse_pick, preferred
from evomerge.search.standing import archive_of, believed_archive


@dataclass(frozen=True)
class Choice:
    """What the selection items said.

    Attributes:
        winner: the candidate picked, its evaluation on the selection items.
        finalists: every candidate scored again, likewise; in a race, those that answered all.
    """

    winner: Candidate
    finalists: tuple[Candidate, ...]


def choose(driver: Driver, candidates: Sequence[Candidate], count: int, how: str) -> Choice | None:
    """Score the finalists on the selection items and pick one.

    Args:
        driver: evaluates.
        candidates: of a phase, by their search items.
        count: finalists at most.
        how: see `pick`.

    Returns:
        None if no candidate was scored and keeps every constraint.
    """
    finals = driver.rules.finals
    chosen = finalists(candidates, driver.goals, count, racing=bool(finals))
    driver.view.begin("selection", len(chosen))
    for number, rung in enumerate(finals or [()]):
        asking = Asking((rung,) if rung else ())
        wanted = [Wanted(driver.recipe(c), None, asking, number) for c in chosen]
        found = driver.ledger.evaluate(wanted, "selection")
        chosen = [replace(c, evaluation=e) for c, e in zip(chosen, found, strict=True) if e.scored]
        if not chosen:
            return None
        if number + 1 < len(finals):
            chosen = _still_racing(chosen, driver.goals, driver.rules.doubt)
    return Choice(pick(chosen, driver.goals, how), tuple(chosen))


def _still_racing(finalists: Sequence[Candidate], goals: Goals, doubt: float) -> list[Candidate]:
    """Those that may be on the finalists' front; all, if none keeps the constraints."""
    chances = believe(finalists, goals).chances()
    found = [c for c, chance in zip(finalists, chances, strict=True) if chance >= doubt]
    return found or list(finalists)


def pick(
    candidates: Sequence[Candidate], goals: Goals, how: str, *, racing: bool = False
) -> Candidate:
    """One of `candidates`, by their evaluations.

    Args:
        candidates: at least one.
        goals: what is optimised.
        how: `best:OBJECTIVE` of the front; or a compromise of the living among it (see `picks`):
            `knee` (for one objective: the best), or `prefer:NAME=W,NAME=W`. If no candidate keeps
            the constraints, the front is that of all of them.
        racing: they answered unlike numbers of items: by what they are believed to be worth.

    Raises:
        InputError: no such objective.
    """
    wanted = parse_pick(how, goals.names, "pick")
    if wanted.objective is None:
        candidates = living(candidates, goals)
    by_hash = {c.recipe_hash: c for c in candidates}
    archive = _archive(candidates, goals, racing)
    if not archive.front():
        archive = _archive(candidates, replace(goals, constraints=()), racing)
    if wanted.objective is not None:
        return by_hash[archive.best(goals.names.index(wanted.objective)).key]
    if wanted.weights is None:
        return by_hash[archive.knee().key]
    weights = [wanted.weights.get(name, 0.0) for name in goals.names]
    return by_hash[_preferred(archive.front(), goals, weights).key]


def _preferred(front: Sequence[Member], goals: Goals, weights: Sequence[float]) -> Member:
    values = np.array([member.values for member in front])
    return front[preferred(gains(values, goals.directions), weights)]


def _archive(candidates: Sequence[Candidate], goals: Goals, racing: bool) -> Archive:
    if racing:
        return believed_archive(believe(candidates, goals), goals)
    return archive_of(candidates, goals)
