"""The multistage test: each batch of items is chosen by what the candidate answered before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_expit

from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.estimate import Estimate
from fitness.estimators.blending import conformal_factor
from fitness.estimators.calibrated import folds
from fitness.estimators.checks import checked
from fitness.estimators.posterior import IrtPosterior, PosteriorReading, fit_model, normal_grid
from fitness.estimators.predictor import Array, Positions
from fitness.irt import Ability
from fitness.item_selection.information import pick_by_information
from fitness.item_selection.selection import Request

BATCH = 5
"""Items per batch in the tests that the error bars are measured on."""
LONGEST = 100
"""Items at which those tests end."""
REHEARSALS = 60
"""Calibration models that take them."""


class Adaptive:
    """p-IRT in two dimensions for items that were chosen by the candidate's own answers.

    Given the answers, the posterior of an ability does not depend on who chose the items (van der
    Linden and Glas, "Elements of adaptive testing", 2010, chapter 1), so the value holds. The
    posterior's own error bar does not: an adaptive test seeks the items on which the item model
    promises most. So calibration models take the test themselves, with a model fitted without
    them, and the error bar is what their errors ask for (see `Calibrated`), by number of items.

    Args:
        responses: [models, items], without nan, at least 2 models.
        seed: which models are held out together.
    """

    def __init__(self, responses: Array, seed: int) -> None:
        self._test = _Test.of(responses)
        self._stages, self._factors = _factors(responses, seed)

    def estimate(self, items: ArrayLike, scores: ArrayLike) -> Estimate:
        """See `Estimator.estimate`."""
        positions, values = checked(items, scores, self._test.pool)
        count = len(positions)
        if count == self._test.pool:
            return Estimate(float(values.mean()), 0.0)
        said = self._test.at(positions).predict(values[None])
        factor = float(np.interp(np.log(count), np.log(self._stages), self._factors))
        return Estimate(float(np.clip(said.values[0], 0, 1)), float(said.spreads[0]) * factor)

    def next_items(self, items: ArrayLike, scores: ArrayLike, count: int) -> Positions:
        """The `count` items to ask next, of a candidate that has answered `items` (may be none).

        Raises:
            FitnessError: as `estimate`, or fewer items left than asked for.
        """
        none = np.zeros(0, dtype=np.intp), np.zeros(0)
        answered = checked(items, scores, self._test.pool) if np.size(items) else none
        left = self._test.pool - len(answered[0])
        if not 1 <= count <= left:
            raise FitnessError(
                f"count = {count}",
                f"{left} items are left",
                "next_items",
                "ask for fewer, at least 1",
            )
        return self._test.chosen(*answered, count)


@dataclass(frozen=True, eq=False)
class _Test:
    """An item model with its tables: what is looked up for every candidate."""

    predictor: IrtPosterior
    bank: ItemBank

    @classmethod
    def of(cls, responses: Array) -> _Test:
        model = fit_model(responses, 2)
        return cls(IrtPosterior(model, *normal_grid(model.dims)), ItemBank.of(responses))

    @property
    def pool(self) -> int:
        return len(self.bank)

    @cached_property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """[items, nodes]: log probability of a wrong answer, and probability of a right one."""
        model, thetas = self.predictor.model, self.predictor.thetas
        wrong = log_expit(-(model.slopes @ thetas.T + model.intercepts[:, None]))
        return wrong.astype(np.float32), -np.expm1(wrong).astype(np.float32)

    def at(self, items: Positions) -> PosteriorReading:
        """As `IrtPosterior.at`, from the tables."""
        wrong, right = self.tables
        sums, variances = self.predictor.totals
        p = right[items]
        expected = p.sum(axis=0)
        return PosteriorReading(
            self.predictor.thetas,
            self.predictor.model.slopes[items],
            self.predictor.log_prior + wrong[items].sum(axis=0),
            sums - expected,
            variances - expected + np.einsum("ng,ng->g", p, p),
            self.pool,
        )

    def chosen(self, items: Positions, scores: Array, count: int) -> Positions:
        """The next `count` items, by information at the posterior."""
        reading = self.at(items)
        weights = reading.posterior(scores[None])[0]
        mean = weights @ reading.thetas
        off = reading.thetas - mean
        where = Ability(mean, (off.T * weights) @ off)
        rng = np.random.default_rng(0)
        request = Request(self.bank, items, count, where, self.predictor.model, rng)
        return pick_by_information(request)

    def rehearsed(self, row: Array, stages: Positions) -> list[float]:
        """|error| / spread at each stage, of a model with the responses `row` [items]."""
        items = np.zeros(0, dtype=np.intp)
        ratios = []
        for stage in stages:
            items = np.concatenate([items, self.chosen(items, row[items], stage - len(items))])
            said = self.at(items).predict(row[None, items])
            error = abs(float(np.clip(said.values[0], 0, 1)) - row.mean())
            ratios.append(error / max(float(said.spreads[0]), 1e-9))
        return ratios


def _factors(responses: Array, seed: int) -> tuple[Positions, Array]:
    """Numbers of items [stages], ascending, and the factor of the spread at each."""
    models, pool = responses.shape
    last = max(1, min(LONGEST, pool // 2))
    stages = np.unique(np.append(np.arange(BATCH, last, BATCH), last))
    found = []
    for held in folds(models, seed):
        test = _Test.of(np.delete(responses, held, axis=0))
        share = max(1, len(held) * REHEARSALS // max(models, REHEARSALS))
        found += [test.rehearsed(responses[row], stages) for row in held[:share]]
    raw = np.array([conformal_factor(ratios) for ratios in np.array(found).T])
    # Neighbouring stages see nearly the same items: their mean has less chance in it.
    padded = np.pad(raw, 1, mode="edge")
    return stages, (padded[:-2] + padded[1:-1] + padded[2:]) / 3
