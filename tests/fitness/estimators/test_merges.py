"""Estimators that know the parents, on models simulated from them."""

import numpy as np
import pytest

from benchmarks.irt import simulated
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.estimators import build_estimator

POOL = 300
BANK = ItemBank.of(simulated(11, 60, POOL))
ORDER = np.argsort(BANK.responses.mean(axis=1))
MIDDLE = [BANK.models[row] for row in ORDER[28:30]]
WEAK = [BANK.models[row] for row in ORDER[:2]]
STRONG = ORDER[-8:]


def error(name: str, parents: list[str], rows: np.ndarray, count: int) -> float:
    """Mean absolute error over candidates `rows` [k, items]."""
    estimator = build_estimator(name, BANK, parents=parents)
    items = np.random.default_rng(5).permutation(POOL)[:count]
    return float(np.mean([abs(estimator.estimate(items, r[items]).value - r.mean()) for r in rows]))


def children(parents: list[str], count: int) -> np.ndarray:
    """Where the parents agree, as they do; else as one of them; one answer in twenty turned."""
    rng = np.random.default_rng(6)
    first, second = (BANK.responses[BANK.models.index(name)] for name in parents)
    share = rng.random((count, 1))
    child = np.where(rng.random((count, POOL)) < share, first, second)
    return np.abs(child - (rng.random(child.shape) < 0.05))


def test_parents_help_when_few_items_are_answered():
    rows = children(MIDDLE, 30)
    assert error("soft_mp_irt", MIDDLE, rows, 10) < 0.8 * error("p_irt", [], rows, 10)
    assert error("mp_irt", MIDDLE, rows, 10) < 0.8 * error("p_irt", [], rows, 10)


def test_a_child_above_both_parents_is_not_capped():
    """The hull of two weak parents caps mp-IRT however many items are answered; not the soft form."""
    strong = BANK.responses[STRONG]
    hard, soft = (error(name, WEAK, strong, 100) for name in ("mp_irt", "soft_mp_irt"))
    assert hard > 0.15
    assert soft < 0.05


def test_wrong_parents_are_recovered_from():
    strong = BANK.responses[STRONG]
    for count in (30, 100):
        without = error("p_irt", [], strong, count)
        assert error("soft_mp_irt", WEAK, strong, count) < without + 0.02


def test_three_parents():
    parents = [*MIDDLE, BANK.models[ORDER[-1]]]
    rows = children(MIDDLE, 5)
    for name in ("mp_irt", "gmp_irt", "soft_mp_irt"):
        assert error(name, parents, rows, 60) < 0.2


def test_parents_have_to_be_named_and_known():
    with pytest.raises(FitnessError, match="needs the names of at least 2 parents"):
        build_estimator("mp_irt", BANK)
    with pytest.raises(FitnessError, match=r"parent 'model 600': the bank has no responses.*model"):
        build_estimator("mp_irt", BANK, parents=["model 1", "model 600"])
