"""What an item bank says of its items: wrong keys, duplicates, items that tell no models apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fitness.banks import ItemBank

Array = NDArray[np.float64]

FALSE_SHARE = 0.05
"""Share of the items named for a negative discrimination that would be named by chance."""
CHANCE = 0.05
"""Chance of a bank in which any two different items are named duplicates."""
_WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Widths of the kernel that smooths an item's curve, in ranks of models."""
ENOUGH_MODELS = 10
"""Below, nothing is said of discrimination and duplicates."""


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What the bank's models did on one item.

    Attributes:
        item: its index among the task's documents.
        models: how many answered it.
        mean: their mean score, in [0, 1].
        discrimination: correlation of their scores here with their mean scores on the other items,
            in [-1, 1]; nan where all score alike.
        negative: the correlation is below 0 by more than chance (see `diagnose`).
    """

    item: int
    models: int
    mean: float
    discrimination: float
    negative: bool


@dataclass(frozen=True, slots=True)
class BankDiagnosis:
    """What a bank says of its items.

    Attributes:
        items: one per item, in the bank's order.
        models: how many models the bank has.
        duplicates: groups of items that every model answered alike, by more than chance.
        informative: some item tells two models apart.
    """

    items: tuple[ItemFacts, ...]
    models: int
    duplicates: tuple[tuple[int, ...], ...]
    informative: bool

    @property
    def solved_by_all(self) -> tuple[int, ...]:
        """Items on which every model scores 1."""
        return tuple(sorted(facts.item for facts in self.items if facts.mean == 1))

    @property
    def solved_by_none(self) -> tuple[int, ...]:
        """Items on which every model scores 0."""
        return tuple(sorted(facts.item for facts in self.items if facts.mean == 0))

    @property
    def negative(self) -> tuple[int, ...]:
        """Items that the better models fail, the most striking first: usually wrong keys."""
        found = [facts for facts in self.items if facts.negative]
        return tuple(f.item for f in sorted(found, key=lambda facts: facts.discrimination))

    @property
    def suspicious(self) -> tuple[int, ...]:
        """Items worth a look: wrong keys, and duplicates but for one of each group."""
        spare = {item for group in self.duplicates for item in group[1:]}
        return tuple(sorted(spare.union(self.negative)))

    def sentences(self) -> list[str]:
        """What to tell people; nothing where nothing is wrong."""
        said: list[str] = []
        if not self.informative:
            said.append(
                f"all {self.models} models score alike on every item: the task tells none of them "
                "apart, and no estimate can; use harder or easier items, or other models"
            )
        if self.negative:
            said.append(
                f"{_items(self.negative)}: models that do well on the other items fail here; "
                "usually the answer key is wrong"
            )
        for group in self.duplicates:
            said.append(f"{_items(group)}: every model answers them alike; all but one add nothing")
        return said


def diagnose(bank: ItemBank) -> BankDiagnosis:
    """What a bank says of its items.

    Discrimination is the item-rest correlation (Lord & Novick 1968, ch. 15). That it is negative by
    more than chance is Fisher's z test, one-sided, with the false discovery rate of Benjamini and
    Hochberg (1995) held at `FALSE_SHARE` over the bank.

    Two items are duplicates if every model scores alike on both, and models of such abilities would
    by chance (were the items independent given ability) in fewer than `CHANCE` of such banks. Two
    that nearly all solve are thus none, nor are two that part the models at one ability.
    """
    scores = bank.responses
    asked = ~np.isnan(scores)
    means = np.nanmean(scores, axis=0)
    discriminations = _item_rest(scores, asked)
    negative = _negative(discriminations, asked.sum(axis=0))
    facts = tuple(
        ItemFacts(item, int(asked[:, c].sum()), _exact(means[c], scores[:, c]), float(r), bool(n))
        for c, (item, r, n) in enumerate(zip(bank.items, discriminations, negative, strict=True))
    )
    differing = np.nanmax(scores, axis=0) > np.nanmin(scores, axis=0)
    return BankDiagnosis(facts, len(bank.models), _duplicates(bank), bool(differing.any()))


def _exact(mean: float, column: Array) -> float:
    """A mean that is 0 or 1 only where every score is."""
    least, most = float(np.nanmin(column)), float(np.nanmax(column))
    return least if least == most else float(mean)


def _item_rest(scores: Array, asked: NDArray[np.bool_]) -> Array:
    """[items]: correlation of each column with the mean of the others; nan where undefined."""
    given = np.where(asked, scores, 0.0)
    total, count = given.sum(axis=1), asked.sum(axis=1)
    found = np.full(scores.shape[1], np.nan)
    for column in range(scores.shape[1]):
        here = asked[:, column] & (count > 1)
        if here.sum() < ENOUGH_MODELS:
            continue
        item = given[here, column]
        rest = (total[here] - item) / (count[here] - 1)
        if np.ptp(item) > 0 and np.ptp(rest) > 1e-12:
            found[column] = float(np.corrcoef(item, rest)[0, 1])
    return found


def _negative(correlations: Array, models: NDArray[np.intp]) -> NDArray[np.bool_]:
    """[items]: which correlations are below 0, at a false discovery rate of `FALSE_SHARE`."""
    normal = NormalDist()
    chances = np.ones(len(correlations))
    for column in np.flatnonzero(np.isfinite(correlations)):
        bounded = min(max(float(correlations[column]), -0.999999), 0.999999)
        chances[column] = normal.cdf(math.atanh(bounded) * math.sqrt(int(models[column]) - 3))
    order = np.argsort(chances, kind="stable")
    bounds = FALSE_SHARE * np.arange(1, len(chances) + 1) / len(chances)
    passing = np.flatnonzero(chances[order] <= bounds)
    found = np.zeros(len(chances), dtype=bool)
    if len(passing):
        found[order[: passing[-1] + 1]] = True
    return found


def _duplicates(bank: ItemBank) -> tuple[tuple[int, ...], ...]:
    """Groups of items with equal columns that chance would hardly have made equal."""
    scores = bank.responses
    alike: dict[bytes, list[int]] = {}
    for column in range(len(bank)):
        alike.setdefault(scores[:, column].tobytes(), []).append(column)
    pairs = len(bank) * (len(bank) - 1) / 2
    return tuple(
        tuple(sorted(bank.items[column] for column in group))
        for group in alike.values()
        if len(group) > 1 and _equal_by_chance(scores, group[0]) * pairs < CHANCE
    )


def _equal_by_chance(scores: Array, column: int) -> float:
    """The chance that a second item, as hard for models of each ability, gets this very column.

    The item's curve over ability is smoothed from the other models' answers (Ramsay 1991): a
    Gaussian kernel over the ranks of the models' mean scores, of the width that predicts each
    answer best from the others.
    """
    here = ~np.isnan(scores[:, column])
    if here.sum() < ENOUGH_MODELS:
        return 1.0
    right = scores[here, column] >= 0.5
    ability = np.nanmean(scores[here], axis=1)
    ranks = np.searchsorted(np.sort(ability), ability)
    squares = (ranks[:, None] - ranks[None, :]) ** 2.0
    best, curve = -math.inf, np.full(len(right), 0.5)
    for width in _WIDTHS:
        kernel = np.exp(-0.5 * squares / width**2)
        np.fill_diagonal(kernel, 0.0)
        chance = (kernel @ right + 0.5) / (kernel.sum(axis=1) + 1.0)
        likelihood = float(np.log(np.where(right, chance, 1 - chance)).sum())
        if likelihood > best:
            best, curve = likelihood, chance
    return float(np.exp(np.log(curve**2 + (1 - curve) ** 2).sum()))


def _items(items: Sequence[int]) -> str:
    """`item 3` or `items 3, 5 and 9`, the first ten."""
    if len(items) == 1:
        return f"item {items[0]}"
    if len(items) > 10:
        return f"items {', '.join(map(str, items[:10]))} and {len(items) - 10} more"
    return f"items {', '.join(map(str, items[:-1]))} and {items[-1]}"
