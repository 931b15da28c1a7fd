"""The estimate: how long the whole run is going to take, from what two candidates took."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evomerge.config import RunFile
from evomerge.legs import BY_CHANCE, SEARCHING, legs_of
from evomerge.two_stages import FIRST_CHANCE, FIRST_PHASE

if TYPE_CHECKING:
    from evomerge.checks.dry_run import DryRun
    from evomerge.preflight import Prepared

Span = tuple[float, float]
"""From and to: equal, unless candidates race."""

_NAMES = {
    FIRST_PHASE: ("first stage", "selection of the first stage"),
    "search": ("search", "selection"),
    FIRST_CHANCE: ("random first stage", "its selection, first stage"),
    "random": ("random search", "its selection"),
}
"""What a leg that searches is called here, and the one that chooses after it."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run.

    Attributes:
        name: as `show` calls it.
        evaluations: how many, at most.
        answers: items answered per evaluation: the least and the most.
        hours: on all evaluators together.
    """

    name: str
    evaluations: int
    answers: Span
    hours: Span


@dataclass(frozen=True)
class Estimate:
    """What a run will take, at the rate of the dry run.

    Attributes:
        evaluators: that will work; 1 where that is only known on the cluster.
        known: whether that number is.
        start_seconds: until the first evaluator is ready.
        merge_seconds: to merge a candidate and write it into the engine.
        item_seconds: to answer and score an item, by one evaluator.
        measured_items: that the rate rests on.
        items: search items that a candidate answers when all are asked.
        candidate_seconds: of a candidate of the search, on one evaluator.
        per_hour: candidates in an hour, by all evaluators.
        phases: everything that costs time.
        hours: of all of them and the start; what `search.budget.hours` bounds no longer than that.
        limit: `search.budget.hours`; None: there is none.
        sooner: limits beside, which may end the search before that.
    """

    evaluators: int
    known: bool
    start_seconds: float
    merge_seconds: float
    item_seconds: float
    measured_items: int
    items: int
    candidate_seconds: Span
    per_hour: Span
    phases: tuple[Phase, ...]
    hours: Span
    limit: float | None
    sooner: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it."""
        return asdict(self)


def estimate(prepared: "Prepared", dry_run: "DryRun", evaluators: int | None) -> Estimate:
    """What the run will take.

    Args:
        prepared: the run file.
        dry_run: what candidates took.
        evaluators: that will work; None: not known here.
    """
    config = prepared.config
    timed = dry_run.timed
    per_item = timed.score_seconds / max(1, timed.items)
    workers = evaluators or 1

    def seconds(answers: Span, merges: Span = (1.0, 1.0)) -> Span:
        low, high = (
            m * timed.merge_seconds + a * per_item for m, a in zip(merges, answers, strict=True)
        )
        return low, high

    answers, merges = _asked(config, prepared)
    each = seconds(answers, merges)
    begun = dry_run.start_seconds / 3600
    phases: list[Phase] = []
    for name, count, asked, bound in _phases(prepared, answers):
        one = each if asked is answers else seconds(asked)
        low, high = (min(count * part / workers / 3600, bound) for part in one)
        phases.append(Phase(name, count, asked, (low, high)))
    return Estimate(
        evaluators=workers,
        known=evaluators is not None,
        start_seconds=dry_run.start_seconds,
        merge_seconds=timed.merge_seconds,
        item_seconds=per_item,
        measured_items=timed.items,
        items=prepared.judge.size("search"),
        candidate_seconds=each,
        per_hour=(3600 * workers / max(each[1], 1e-9), 3600 * workers / max(each[0], 1e-9)),
        phases=tuple(phases),
        hours=(begun + sum(p.hours[0] for p in phases), begun + sum(p.hours[1] for p in phases)),
        limit=config.search.budget.hours,
        sooner=tuple(
            name
            for name in ("answers", "tokens", "patience")
            if getattr(config.search.budget, name) is not None
        ),
    )


def _asked(config: RunFile, prepared: "Prepared") -> tuple[Span, Span]:
    """Items that a candidate answers and times it is merged: if it drops out first, and if it never
    does and is measured again as often as others are."""
    everything = float(prepared.judge.size("search"))
    rungs = config.fitness.racing.rungs
    if not rungs:
        return (everything, everything), (1.0, 1.0)
    sizes = _sizes(prepared, "search")
    first, last = (
        float(sum(min(rung, n) for n in sizes.values())) for rung in (rungs[0], rungs[-1])
    )
    again = 1 + config.fitness.racing.again
    return (first, last * again), (1.0, again)


def _sizes(prepared: "Prepared", split: str) -> Mapping[str, int]:
    sizes = dict.fromkeys(prepared.judge.tasks.names, 0)
    for item in prepared.judge.items[split]:
        sizes[item.task] += 1
    return sizes


def _phases(prepared: "Prepared", answers: Span) -> Iterator[tuple[str, int, Span, float]]:
    """Name, evaluations, answers and most hours of each leg of the night."""
    config = prepared.config
    searched = ""
    legs = legs_of(prepared, config.search.budget)
    bounds = {leg.phase: leg.hours for leg in legs if leg.hours is not None}
    for leg in legs:
        asked = (float(leg.items), float(leg.items))
        if leg.phase in SEARCHING:
            searched, asked = leg.phase, answers
        name, selection = _NAMES.get(searched, ("", ""))
        if leg.phase == "selection":
            name = selection
            if config.fitness.racing.rungs:
                # Finalists race too: a quarter of the selection items, half, all.
                asked = (asked[0] / 4, asked[1])
        elif leg.phase not in SEARCHING:
            name = leg.phase
        yield (
            name,
            leg.evaluations,
            asked,
            bounds.get(BY_CHANCE.get(leg.phase, leg.phase), math.inf),
        )
