"""Item selection: which few items of a pool a candidate answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fitness.banks import ItemBank
from fitness.errors import FitnessError, nearest
from fitness.irt import Ability, ItemModel
from fitness.item_selection.clusters import pick_by_parameters, pick_by_responses
from fitness.item_selection.information import pick_by_information
from fitness.item_selection.selection import Positions, Request, Selection
from fitness.item_selection.strata import pick_random, pick_stratified
from fitness.item_selection.variance import pick_by_variance

__all__ = ["SELECTIONS", "Selection", "select_items"]

SELECTIONS = {
    "random": Selection(
        pick_random,
        "nothing",
        "A simple random sample.",
        "",
        nested=True,
    ),
    "stratified": Selection(
        pick_stratified,
        "responses",
        "One random item of each stratum of difficulty.",
        "Neyman, On the two different aspects of the representative method, 1934",
        nested=False,
    ),
    "kmeans_responses": Selection(
        pick_by_responses,
        "responses",
        "The middle item of each cluster of items that the same models solve.",
        "Vivek et al., Anchor points: benchmarking models with much fewer examples, 2024",
        nested=False,
    ),
    "kmeans_parameters": Selection(
        pick_by_parameters,
        "item parameters",
        "The middle item of each cluster of items of like slopes and intercept.",
        "Polo et al., tinyBenchmarks: evaluating LLMs with fewer examples, 2024",
        nested=False,
    ),
    "information": Selection(
        pick_by_information,
        "item parameters",
        "The items that tell most about a candidate of the abilities the search has reached.",
        "Lord, Applications of item response theory to practical testing problems, 1980",
        nested=True,
    ),
    "variance": Selection(
        pick_by_variance,
        "responses",
        "The items from which the pool's mean is predicted with the least error.",
        "Krause, Singh and Guestrin, Near-optimal sensor placements in Gaussian processes, 2008",
        nested=True,
    ),
}
"""Every selection, by name."""


def select_items(
    how: str,
    bank: ItemBank,
    count: int,
    *,
    core: Sequence[int] | Positions = (),
    ability: NDArray[np.float64] | Ability | None = None,
    model: ItemModel | None = None,
    seed: int = 0,
) -> Positions:
    """Choose items of a bank.

    Args:
        how: a name in `SELECTIONS`.
        bank: the pool and who answered it.
        count: items in all, the core included; at most `len(bank)`.
        core: positions that are chosen anyway: the anchors that keep candidates comparable when
            the items are chosen anew.
        ability: where the search lives, for "information": points [k, dims] or one posterior;
            the calibration models if None.
        model: the item model of this bank, so that it is not fitted again; of as many dimensions
            as `ability`.
        seed: of the selections that leave something to chance.

    Returns:
        Positions in the bank, [count], distinct: the core in its order, then the added ones.

    Raises:
        FitnessError: an unknown name, a count out of range, a core that is not distinct positions.
    """
    if how not in SELECTIONS:
        raise FitnessError(
            f"selection '{how}'", "unknown", "select_items", nearest(how, SELECTIONS)
        )
    kept = np.array(core, dtype=np.intp)
    _check(bank, count, kept)
    if count == len(kept):
        return kept
    rng = np.random.default_rng(seed)
    request = Request(bank, kept, count - len(kept), ability, model, rng)
    return np.concatenate([kept, SELECTIONS[how].pick(request)])


def _check(bank: ItemBank, count: int, core: Positions) -> None:
    where = f"task '{bank.task}'" if bank.task else "select_items"
    if len(np.unique(core)) != len(core) or np.any((core < 0) | (core >= len(bank))):
        raise FitnessError(
            f"core {core.tolist()}",
            f"it holds distinct positions from 0 to {len(bank) - 1}",
            where,
            "pass positions of an earlier selection from the same bank",
        )
    if not max(1, len(core)) <= count <= len(bank):
        raise FitnessError(
            f"count = {count}",
            f"the bank has {len(bank)} items, {len(core)} of them in the core",
            where,
            f"ask for {max(1, len(core))} to {len(bank)} items",
        )
