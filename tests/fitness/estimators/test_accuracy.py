"""How good the estimators are, on simulated models."""

from functools import cache

import numpy as np
import pytest

from benchmarks.irt import simulated
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.estimators import ESTIMATORS, Estimator, build_estimator
from fitness.estimators.adaptive import Adaptive
from fitness.estimators.blending import blending_weights, conformal_factor
from fitness.item_selection import select_items

POOL = 150
JUDGED = 60
SETS = 4


@cache
def case(seed: int, models: int) -> tuple[ItemBank, np.ndarray]:
    matrix = simulated(seed, models + JUDGED, POOL, parents=6 if seed % 2 else 0)
    return ItemBank.of(matrix[:models]), matrix[models:]


@cache
def built(name: str, seed: int, models: int) -> Estimator:
    parents = ("model 1", "model 2") if ESTIMATORS[name].parents else ()
    return build_estimator(name, case(seed, models)[0], parents=parents)


def asked(estimator: Estimator, row: np.ndarray, count: int, chosen: np.ndarray) -> np.ndarray:
    """The items that a candidate gets: an adaptive test's own, or the chosen ones."""
    if not isinstance(estimator, Adaptive):
        return chosen
    items = np.zeros(0, dtype=np.intp)
    while len(items) < count:
        items = np.append(items, estimator.next_items(items, row[items], 5))
    return items


def errors(
    name: str, models: int, count: int, how: str = "random"
) -> tuple[np.ndarray, np.ndarray]:
    """Error and standard error [SETS * JUDGED]."""
    found = []
    for seed in range(SETS):
        bank, judged = case(seed, models)
        chosen = select_items(how, bank, count, seed=seed)
        estimator = built(name, seed, models)
        for row in judged:
            items = asked(estimator, row, count, chosen)
            estimate = estimator.estimate(items, row[items])
            found.append((estimate.value - row.mean(), estimate.se))
    off, ses = np.array(found).T
    return off, ses


def covered(name: str, models: int, how: str) -> float:
    return float(
        np.mean(
            [
                np.abs(off) <= 1.645 * se
                for off, se in (errors(name, models, n, how) for n in (10, 40))
            ]
        )
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nine_intervals_of_ten_hold(name: str):
    """40 calibration models, 4 pools, 60 held-out models each.

    All models of a pool answer the same items and share one measured factor, so that 0.03 is the
    standard deviation of this share; the benchmark looks closer.
    """
    assert 0.83 <= covered(name, 40, "random") <= 0.97


@pytest.mark.parametrize("name", ["p_irt", "kriging", "ensemble"])
def test_they_hold_on_items_that_the_bank_chose(name: str):
    """The same models choose the items and measure the errors: without `Optimism`, 0.6 to 0.8."""
    assert 0.83 <= covered(name, 40, "variance") <= 0.97


@pytest.mark.parametrize("name", ["stratified", "p_irt", "ensemble", "adaptive"])
def test_ten_calibration_models_are_enough_for_an_honest_interval(name: str):
    assert 0.83 <= covered(name, 10, "random") <= 0.985


@pytest.mark.parametrize("name", ["p_irt", "p_irt_1d", "kriging", "ensemble", "adaptive"])
def test_calibration_beats_the_plain_mean(name: str):
    plain = np.abs(errors("mean", 40, 10)[0]).mean()
    assert np.abs(errors(name, 40, 10)[0]).mean() < 0.9 * plain


def test_chosen_items_and_the_ensemble_beat_random_items():
    chosen = np.abs(errors("ensemble", 40, 10, "variance")[0]).mean()
    assert chosen < 0.95 * np.abs(errors("ensemble", 40, 10)[0]).mean()


def test_the_adaptive_test_asks_each_item_once_and_gets_better():
    few, many = (np.abs(errors("adaptive", 40, n)[0]).mean() for n in (10, 40))
    assert many < 0.7 * few
    _bank, judged = case(0, 40)
    estimator = built("adaptive", 0, 40)
    items = asked(estimator, judged[0], 40, np.zeros(0))
    assert len(set(items.tolist())) == 40


def test_an_adaptive_test_ends_with_the_pool():
    estimator = built("adaptive", 0, 40)
    with pytest.raises(FitnessError, match=r"count = 3: 2 items are left"):
        estimator.next_items(np.arange(POOL - 2), np.ones(POOL - 2), 3)
    last = estimator.next_items(np.arange(POOL - 2), np.ones(POOL - 2), 2)
    assert sorted(last) == [POOL - 2, POOL - 1]


def test_the_conformal_factor_by_hand():
    """19 errors: 0.9 * 20 is the 18th; 20: the 19th; 9: the largest, or Student's t."""
    assert conformal_factor(np.arange(1.0, 20.0)) == pytest.approx(18 / 1.645)
    assert conformal_factor(np.arange(1.0, 21.0)) == pytest.approx(19 / 1.645)
    few = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 9])
    assert conformal_factor(few) == pytest.approx(9 / 1.645)
    assert conformal_factor(np.ones(3)) == pytest.approx(2.3534 / 1.645, rel=1e-3)


def test_blending_prefers_what_was_right_and_hedges_when_it_knows_little():
    rng = np.random.default_rng(0)
    truth = rng.random(200)
    good, bad = truth + rng.normal(0, 0.01, 200), truth + rng.normal(0, 0.1, 200)
    values = np.stack([good, bad], axis=1)
    many, few = blending_weights(values, truth), blending_weights(values[:3], truth[:3])
    assert many.sum() == pytest.approx(1)
    assert many[0] > 0.93
    assert 0.5 < few[0] < many[0]
