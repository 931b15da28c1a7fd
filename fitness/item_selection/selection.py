"""What a selection is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitness.banks import ItemBank
from fitness.irt import Ability, ItemModel, fit_items

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Request:
    """What to choose from, and how much.

    Attributes:
        bank: the pool and who answered it.
        core: positions that are chosen already.
        added: how many more, at least 1 and at most as many as are left.
        ability: where the search lives: points [k, dims], or one posterior; None is where the
            calibration models are.
        model: the bank's item model; None is fitted when needed.
        rng: the only source of chance.
    """

    bank: ItemBank
    core: Positions
    added: int
    ability: Array | Ability | None
    model: ItemModel | None
    rng: np.random.Generator

    @property
    def left(self) -> Positions:
        """Positions outside the core, ascending."""
        return np.setdiff1d(np.arange(len(self.bank)), self.core)

    def fitted(self) -> ItemModel:
        """The item model: with as many dimensions as `ability` has, or 1."""
        if self.model is not None:
            return self.model
        points = self.ability.mean if isinstance(self.ability, Ability) else self.ability
        return fit_items(self.bank.responses, 1 if points is None else points.shape[-1])


@dataclass(frozen=True)
class Selection:
    """A way to choose items.

    Attributes:
        pick: positions to add [`added`], distinct and outside the core.
        needs: what it learns from: "nothing", "responses", or "item parameters".
        summary: one sentence.
        paper: where it is from.
        nested: with the same seed and core, fewer items are the first of more.
    """

    pick: Callable[[Request], Positions]
    needs: str
    summary: str
    paper: str
    nested: bool


def completed(responses: Array) -> Array:
    """Responses [models, items] without gaps: model mean plus item mean minus overall mean.

    Clipped to [0, 1]. Each model and each item has at least one response.
    """
    guess = (
        np.nanmean(responses, axis=1)[:, None]
        + np.nanmean(responses, axis=0)
        - np.nanmean(responses)
    )
    return np.where(np.isnan(responses), np.clip(guess, 0, 1), responses)
