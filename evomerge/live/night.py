"""The night: what is left of its legs after the one that is under way, and how long it may take."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.evaluation import AS_SEARCHED
from evomerge.legs import BY_CHANCE, SEARCHING
from evomerge.runs.database import Database
from evomerge.search.view import Leg

_BEFORE = ("incumbent", "sources")
"""Legs before anything is searched."""


class Itinerary:
    """Where in its night a run is: told of each phase that begins.

    Args:
        legs: of the night.
    """

    def __init__(self, legs: Sequence[Leg]) -> None:
        self._legs = list(legs)
        self._now = -1

    def begin(self, phase: str, total: int) -> None:
        """A phase of at most `total` evaluations begins; what comes before it is over."""
        for place in range(self._now + 1, len(self._legs)):
            if self._legs[place].phase == phase:
                self._now = place
                self._legs[place] = replace(self._legs[place], evaluations=total)
                return

    def later(self, asked: int | None = None) -> list[Leg]:
        """The legs after the one that is under way.

        Args:
            asked: with how many candidates that one is going to end; None: with all of them.
        """
        legs = self._legs
        if asked is not None and self._now >= 0:
            legs = _by_chance(legs, legs[self._now].phase, asked)
        return legs[self._now + 1 :]

    def ended_early(self, phase: str, asked: int) -> None:
        """A searching phase comes to only `asked` candidates, and so does the one by chance."""
        self._legs = _by_chance(self._legs, phase, asked)


def _by_chance(legs: Sequence[Leg], phase: str, asked: int) -> list[Leg]:
    """The legs, the one by chance no longer than `phase`, which it is held against, has become."""
    return [
        replace(leg, evaluations=min(leg.evaluations, asked))
        if BY_CHANCE.get(leg.phase) == phase
        else leg
        for leg in legs
    ]


def seconds_of(
    found: Sequence[Leg], per_answer: float, answers: Mapping[str, float] | None = None
) -> float:
    """How long legs are going to take; what hours bound no longer than these, nor what is by chance
    and held against it.

    Args:
        found: the legs.
        per_answer: seconds, of all evaluators together.
        answers: by kind of leg (`search`: those that search) how many an evaluation comes to, where
            that is known better than by its items.
    """
    known = answers or {}
    bounds = {leg.phase: 3600 * leg.hours for leg in found if leg.hours is not None}
    total = 0.0
    for leg in found:
        each = known.get("search", leg.items) if leg.phase in SEARCHING else leg.items
        bound = bounds.get(BY_CHANCE.get(leg.phase, leg.phase))
        seconds = per_answer * each * leg.evaluations
        total += seconds if bound is None else min(seconds, max(0.0, bound - 3600 * leg.spent))
    return total


def legs_left(database: Database, found: Sequence[Leg], ended: Mapping[str, int]) -> list[Leg]:
    """What a record does not hold yet of a night's legs.

    Args:
        database: of the run.
        found: its legs.
        ended: with how many candidates a phase ended, or is going to, as far as that is known.
    """
    done: Counter[str] = Counter({phase: len(database.candidates(phase)) for phase in SEARCHING})
    done["selection"] = len(database.evaluations("selection"))
    done["test"] = len(database.evaluations("test")) + len(database.evaluations(AS_SEARCHED))
    begun = any(done[phase] for phase in SEARCHING)
    if any(leg.phase == "incumbent" for leg in found):  # counted there, whatever asks for it again
        done -= Counter(selection=1, test=1)
    left: list[Leg] = []
    for leg in found:
        kind = leg.phase if leg.phase in (*SEARCHING, "test") else "selection"
        if leg.phase in _BEFORE:
            left += [] if begun else [leg]
            continue
        whole = min(leg.evaluations, ended.get(BY_CHANCE.get(leg.phase, leg.phase), 10**12))
        had = min(whole, done[kind])
        done[kind] -= had
        left.append(replace(leg, evaluations=whole - had))
    return left
