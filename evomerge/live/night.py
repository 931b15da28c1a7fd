"""The night: what is left to evaluate after the phase that is under way, and how long it may take."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evomerge.config import STACKS, RunFile
from evomerge.config.search import Budget
from evomerge.config.space import merged_of
from evomerge.runs.database import Database
from evomerge.search.view import Leg
from evomerge.two_stages import FIRST_CHANCE, FIRST_PHASE

if TYPE_CHECKING:
    from evomerge.preflight import Prepared

SEARCHING = (FIRST_PHASE, "search", FIRST_CHANCE, "random")
"""Phases that ask a searcher for candidates."""

_BY_CHANCE = {"random": "search", FIRST_CHANCE: FIRST_PHASE}
"""The random baseline asks as many candidates as the phase it is held against."""

_OTHERS = 4
"""Recipes that are tested beside the sources: uniform merge, soup, random search, winner."""


def legs_of(prepared: "Prepared", budget: Budget) -> list[Leg]:
    """The legs of a night that is about to begin."""
    items = {split: len(found) for split, found in prepared.judge.items.items()}
    return legs(prepared.config, budget, items)


def legs(config: RunFile, budget: Budget, items: Mapping[str, int]) -> list[Leg]:
    """The legs of a run's whole night, in order.

    Args:
        config: the run file.
        budget: as raised since the run began.
        items: by split, how many it holds.
    """
    search, sources = config.search, len(config.models.sources)
    merged = merged_of(config.space)
    first = round(merged.share * search.budget.evaluations) if merged else 0
    finalists = Leg("selection", search.finalists, items["selection"])

    def searched(first_phase: str, phase: str, hours: float | None) -> list[Leg]:
        stage = [Leg(first_phase, first, items["search"]), finalists] if merged else []
        whole = Leg(phase, budget.evaluations - first, items["search"], hours)
        return [*stage, whole, finalists]

    found: list[Leg] = []
    if config.space.kind in STACKS:
        found.append(Leg("sources", sources, items["search"]))
    found += searched(FIRST_PHASE, "search", budget.hours)
    found.append(Leg("greedy soup", 2 * sources - 1, items["selection"]))
    if search.random_baseline:
        found += searched(FIRST_CHANCE, "random", None)
    return [*found, Leg("test", sources + _OTHERS, items["test"])]


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

    @property
    def later(self) -> list[Leg]:
        """The legs after the one that is under way."""
        return self._legs[self._now + 1 :]

    def ended_early(self, phase: str, asked: int) -> None:
        """A searching phase comes to only `asked` candidates, and so does the one by chance."""
        self._legs = [
            replace(leg, evaluations=asked) if _BY_CHANCE.get(leg.phase) == phase else leg
            for leg in self._legs
        ]


def seconds_of(
    found: Sequence[Leg], per_answer: float, answers: Mapping[str, float] | None = None
) -> float:
    """How long legs are going to take.

    Args:
        found: the legs.
        per_answer: seconds, of all evaluators together.
        answers: by kind of leg (`search`: those that search) how many an evaluation comes to, where
            that is known better than by its items.
    """
    known = answers or {}
    return per_answer * sum(
        leg.evaluations * (known.get("search", leg.items) if leg.phase in SEARCHING else leg.items)
        for leg in found
    )


def legs_left(database: Database, found: Sequence[Leg], ended: Mapping[str, int]) -> list[Leg]:
    """What a record does not hold yet of a night's legs.

    Args:
        database: of the run.
        found: its legs.
        ended: with how many candidates a phase ended, for those that have.
    """
    done: Counter[str] = Counter({phase: len(database.candidates(phase)) for phase in SEARCHING})
    done["selection"] = len(database.evaluations("selection"))
    done["test"] = len(database.evaluations("test"))
    left: list[Leg] = []
    for leg in found:
        kind = leg.phase if leg.phase in (*SEARCHING, "test") else "selection"
        if leg.phase == "sources":
            continue
        whole = min(leg.evaluations, ended.get(_BY_CHANCE.get(leg.phase, leg.phase), 10**12))
        had = min(whole, done[kind])
        done[kind] -= had
        left.append(replace(leg, evaluations=whole - had))
    return left
