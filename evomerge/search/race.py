"""The race: a candidate answers a few items, and more only while it may still enter the front.

How likely that is follows from its errors and from what candidates like it turned out to be worth. Who
is likely to be on the front answers the next rung at once. After each generation those of whom it is
not clear are measured again, the likeliest first, until their order is clear or the budget for it is
spent: the front's members, which the luck of a few items may have brought there, among them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.asking import EVERYTHING, Asking, Bar, Rungs
from evomerge.runs.ledger import Ledger, Wanted
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals
from evomerge.search.standing import Standing
from search_spaces.recipe import Recipe

Reselect = Callable[[Sequence[tuple[str, int]]], Rungs]
"""Rungs for a search that has come to these candidates (recipe hash, and how often it was measured);
the first rung stays."""

_AT_ONCE = 0.5
"""Who is on the front more likely than not answers the next rung while its weights are in place."""

_CLEAR = 0.05
"""Who is on the front with a probability of all but this need not be measured again."""

_PARTS_BEYOND = 2
"""How often measuring a candidate again may fail before it is left alone."""


@dataclass(frozen=True)
class Rules:
    """What a run's candidates are asked. Plain data, but for `reselect`.

    Attributes:
        rungs: of the search items; none: every candidate answers all of them, and there is no race.
        finals: of the selection items, likewise, for finalists.
        doubt: probability below which a candidate has no chance any more, in (0, 1).
        again: answers that measuring again may cost, as a share of those of the first measures.
        reselect: chooses the items beyond the first rung anew; None: they stay.
        every: generations between that.
    """

    rungs: Rungs = ()
    finals: Rungs = ()
    doubt: float = 0.05
    again: float = 0.5
    reselect: Reselect | None = None
    every: int = 5


class Race:
    """One phase's race.

    The bar is set anew with each generation and whenever a candidate was measured again; between
    that it stays where it is.

    Args:
        rules: what candidates are asked.
        goals: what is optimised.
        decode: a candidate's recipe.
    """

    def __init__(self, rules: Rules, goals: Goals, decode: Callable[[Candidate], Recipe]) -> None:
        self._rules, self._goals, self._decode = rules, goals, decode
        self._rungs = rules.rungs
        self._bar: Bar | None = None

    @property
    def on(self) -> bool:
        """Whether candidates race at all."""
        return bool(self._rungs)

    def asking(self) -> Asking:
        """What a candidate is asked now: the first rung only while there is nothing to beat."""
        if not self._rungs:
            return EVERYTHING
        return Asking(self._rungs if self._bar else self._rungs[:1], self._bar)

    def generation(self, number: int, standing: Standing) -> None:
        """Generation `number` (from 0) is told: set the bar, choose items anew if it is time."""
        rules = self._rules
        if rules.reselect and (number + 1) % rules.every == 0 and standing.scored():
            believed = standing.believed()
            hashes = [believed.candidates[row].recipe_hash for row in believed.front]
            front = [(recipe_hash, standing.parts(recipe_hash)) for recipe_hash in hashes]
            self._rungs = rules.reselect(front) if front else self._rungs
        self.look(standing)

    def look(self, standing: Standing) -> None:
        """Set the bar by what is known now."""
        if self._rungs and standing.scored():
            believed = standing.believed()
            self._bar = believed.bar(self._goals, _AT_ONCE)

    def again(self, standing: Standing, ledger: Ledger, most: int) -> list[Wanted]:
        """Whom to measure again now: candidates of whom it is not clear whether they are on the front.

        Args:
            standing: who is where.
            ledger: knows what they were asked.
            most: of them, those with the best chance first.
        """
        left = self._rules.again * standing.answers - standing.again
        if not self._rungs or left <= 0 or not standing.scored():
            return []
        believed = standing.believed()
        found = believed.chances()
        unclear = np.flatnonzero((found >= self._rules.doubt) & (found < 1 - _CLEAR))
        wanted: list[Wanted] = []
        for row in unclear[np.argsort(-found[unclear], kind="stable")][:most]:
            want = self._next_rung(believed.candidates[row], standing, ledger)
            if want is not None and left > 0:
                wanted.append(want)
                left -= want.asking.most
        return wanted

    def clear_up(self, standing: Standing, ledger: Ledger, most: int) -> None:
        """Measure again, round after round, until the order is clear or the budget is spent."""
        while wanted := self.again(standing, ledger, most):
            found = ledger.evaluate(wanted, "search")
            standing.renew(zip((want.recipe.hash for want in wanted), found, strict=True))

    def _next_rung(self, candidate: Candidate, standing: Standing, ledger: Ledger) -> Wanted | None:
        """The next rung that has something new for a candidate; None: it has answered all."""
        parts = standing.parts(candidate.recipe_hash)
        if parts > len(self._rungs) + _PARTS_BEYOND:
            return None
        answered = ledger.answers(candidate.recipe_hash, "search", parts).keys()
        for rung in self._rungs:
            if fresh := tuple(sorted(set(rung) - answered)):
                return Wanted(self._decode(candidate), None, Asking((fresh,)), parts)
        return None


def rungs_of(chosen: Sequence[Mapping[str, Sequence[int]]], sizes: Mapping[str, int]) -> Rungs:
    """Rungs as positions in the split.

    Args:
        chosen: up to each rung, by task, positions among the task's items; each holds the last.
        sizes: items by task, in the order of the split.
    """
    return tuple(rung for rung in _new(chosen, sizes) if rung)


def _new(
    chosen: Sequence[Mapping[str, Sequence[int]]], sizes: Mapping[str, int]
) -> Iterator[tuple[int, ...]]:
    seen: set[int] = set()
    for by_task in chosen:
        start, rung = 0, []
        for task, size in sizes.items():
            rung += [start + position for position in by_task[task]]
            start += size
        yield tuple(sorted(set(rung) - seen))
        seen |= set(rung)
