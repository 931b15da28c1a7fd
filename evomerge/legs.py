"""The legs of a night: every phase that a run goes through, and what each is going to pay for.

The one place that says so beside `evomerge.phases`, which goes through them: the estimate of `check`,
the time left in the view and in `show` all read it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.config import STACKS, RunFile
from evomerge.config.search import Budget
from evomerge.config.space import Merging, merged_of
from evomerge.objectives import incumbents
from evomerge.runs.database import Database
from evomerge.search.plan import hours_key
from evomerge.search.view import Leg
from evomerge.two_stages import FIRST_CHANCE, FIRST_PHASE, first_evaluations
from search_spaces.rules import RULES, Rule

if TYPE_CHECKING:
    from evomerge.preflight import Prepared

SEARCHING = (FIRST_PHASE, "search", FIRST_CHANCE, "random")
"""Phases that ask a searcher for candidates."""

BY_CHANCE = {"random": "search", FIRST_CHANCE: FIRST_PHASE}
"""The random baseline asks as many candidates as the phase it is held against."""


def legs_of(prepared: "Prepared", budget: Budget, database: Database | None = None) -> list[Leg]:
    """The legs of a night that is about to begin.

    Args:
        prepared: the run file.
        budget: as raised since the run began.
        database: what earlier sessions recorded; None: there were none.
    """
    items = {split: len(found) for split, found in prepared.judge.items.items()}
    spent = hours_spent(database) if database is not None else {}
    return legs(prepared.config, budget, items, spent)


def hours_spent(database: Database) -> dict[str, float]:
    """By phase, how many hours it was searched."""
    found = {phase: database.meta(hours_key(phase), 0.0) for phase in SEARCHING}
    return {phase: hours for phase, hours in found.items() if hours}


def legs(
    config: RunFile,
    budget: Budget,
    items: Mapping[str, int],
    spent: Mapping[str, float] | None = None,
) -> list[Leg]:
    """The legs of a run's whole night, in order: what is paid for, at most.

    A recipe that several of them ask for is paid by the first, and counted there only.

    Args:
        config: the run file.
        budget: as raised since the run began.
        items: by split, how many it holds.
        spent: by phase, hours that it was searched already.
    """
    sources = len(config.models.sources)
    stacked, watched = config.space.kind in STACKS, incumbents(config)
    found: list[Leg] = []
    # The incumbent answers everything first. Later it is met again: among the sources of a stack on
    # search items, of a merge in the soup on selection items, and by name among what is tested.
    of_sources = watched in config.models.sources
    if watched is not None:
        every = sum(items[split] for split in ("search", "selection", "test"))
        found.append(Leg("incumbent", 3, every / 3))
    if stacked:
        found.append(Leg("sources", sources - of_sources, items["search"]))
    staged = stages(config, budget, spent or {})
    found += _searched(config, items, staged)
    soup = 2 * sources - 1 - (of_sources and not stacked)
    found.append(Leg("greedy soup", soup, items["selection"]))
    if config.search.random_baseline:
        chance = {of: by for by, of in BY_CHANCE.items()}
        asked = [(chance[phase], count, None, 0.0) for phase, count, _, _ in staged]
        found += _searched(config, items, asked)
    tested = _tested(config) - (watched is not None)
    return [*found, Leg("test", tested, items["test"])]


Stage = tuple[str, int, float | None, float]
"""A phase that searches: its name, evaluations, hours it may take, and hours it took already."""


def stages(config: RunFile, budget: Budget, spent: Mapping[str, float]) -> list[Stage]:
    """One search, or the two stages of it, each with its part of the budget (see `two_stages`)."""
    merged, begun = merged_of(config.space), config.search.budget
    if merged is None:
        return [("search", budget.evaluations, budget.hours, spent.get("search", 0.0))]
    count = first_evaluations(config)
    took = spent.get(FIRST_PHASE, 0.0)
    first = begun.hours * merged.share if begun.hours else None
    second = None
    if budget.hours is not None:
        share = took or merged.share * budget.hours
        second = max(0.0, budget.hours - (share if first is None else first))
    return [
        (FIRST_PHASE, count, first, took),
        ("search", budget.evaluations - count, second, spent.get("search", 0.0)),
    ]


def _searched(config: RunFile, items: Mapping[str, int], asked: Sequence[Stage]) -> list[Leg]:
    """Searching legs, and after each its finalists on the selection items."""
    found: list[Leg] = []
    for phase, count, hours, spent in asked:
        found.append(Leg(phase, count, items["search"], hours, spent))
        found.append(Leg("selection", min(config.search.finalists, count), items["selection"]))
    return found


def _tested(config: RunFile) -> int:
    """Recipes that answer the test items: sources, uniform merge, soup, winner and, where there are
    any, the random search's, the first stage's, the best start; and the winner again as it was
    searched, where an export computes it otherwise."""
    count = len(config.models.sources) + 3
    staged = merged_of(config.space) is not None
    count += config.search.random_baseline + staged
    # The best start of other stacks is a source's own.
    count += config.space.kind == "hybrid" or staged
    merging = config.space.merging
    return count + (merging is not None and may_look_up(merging))


def may_look_up(merging: Merging) -> bool:
    """Whether a search may merge by these rules by numbers from tables (see `phases.looks_up`)."""
    return "sparsify" in merging.parameters or any(
        rule_looks_up(RULES[name]) for name in merging.rules
    )


def rule_looks_up(rule: Rule) -> bool:
    """Whether a rule reads tables while searching, where an export computes its numbers."""
    return rule.sparsify in ("magnitude", "outliers", "variance") or rule.rescale == "l1"
