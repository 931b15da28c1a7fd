"""The blocks of docs/adding_an_estimator.md, carried out."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from fitness.banks import ItemBank
from fitness.estimators import ESTIMATORS, build_estimator, table
from fitness.estimators.predictor import Array, Positions, Prediction, unanswered
from tests.conftest import ROOT
from tests.fitness.estimators import test_accuracy, test_battery

PAGE = (ROOT / "docs" / "adding_an_estimator.md").read_text()
BLOCKS = dict(re.findall(r"^```python (\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def neighbours(monkeypatch):
    """The page's estimator, in the table for this test."""
    names = {
        "dataclass": dataclass, "np": np, "cdist": cdist, "Array": Array, "Positions": Positions,
        "Prediction": Prediction, "unanswered": unanswered, "EstimatorSpec": table.EstimatorSpec,
        "_calibrated": table._calibrated,
    }  # fmt: skip
    exec(BLOCKS["predictor"], names)
    (line,) = eval(BLOCKS["line"], names).items()
    assert line[0] not in ESTIMATORS
    monkeypatch.setitem(ESTIMATORS, *line)
    return line[0]


def battery():
    """The tests that every estimator meets by name, and by name alone."""
    for name, test in vars(test_battery).items():
        marks = getattr(test, "pytestmark", [])
        if name.startswith("test_") and marks == [test_battery.every.mark]:
            yield test


def test_the_page_s_estimator_passes_the_battery(neighbours):
    tests = list(battery())
    assert len(tests) >= 6
    for test in tests:
        test(neighbours)


def test_its_intervals_hold_and_it_is_used_by_name(neighbours):
    assert 0.83 <= test_accuracy.covered(neighbours, 40, "random") <= 0.97
    test_accuracy.built.cache_clear()
    bank = ItemBank.of(test_battery.MATRIX[: test_battery.MODELS])
    chosen = table.choose_estimator(neighbours, bank)
    assert (chosen.name, chosen.reason) == (neighbours, "as asked for")


def test_it_is_what_the_formula_says_on_a_hand_worked_bank(neighbours):
    """Ten models that answer all items right, ten that answer none: the first item tells which."""
    bank = ItemBank.of(np.vstack([np.ones((10, 8)), np.zeros((10, 8))]))
    estimator = build_estimator(neighbours, bank)
    assert estimator.estimate([0, 1], [1, 1]).value == pytest.approx(1, abs=0.02)
    assert estimator.estimate([0, 1], [0, 0]).value == pytest.approx(0, abs=0.02)
    assert estimator.estimate([0, 1], [1, 0]).value == pytest.approx(0.5, abs=1e-6)
