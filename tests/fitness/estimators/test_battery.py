"""What every estimator of the table keeps to."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from benchmarks.irt import simulated
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.estimators import ESTIMATORS, Estimator, build_estimator

POOL = 90
MODELS = 30
MATRIX = simulated(7, MODELS + 20, POOL)
BANK = ItemBank.of(MATRIX[:MODELS])
JUDGED = MATRIX[MODELS:]


def parents_of(name: str) -> tuple[str, ...]:
    return ("model 1", "model 2") if ESTIMATORS[name].parents else ()


@cache
def built(name: str) -> Estimator:
    return build_estimator(name, BANK, parents=parents_of(name))


def some(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(POOL)[:count]


every = pytest.mark.parametrize("name", ESTIMATORS)


@every
def test_all_items_give_the_exact_score(name: str):
    graded = np.random.default_rng(1).random(POOL)
    order = some(POOL)
    for row in (JUDGED[0], graded, np.ones(POOL), np.zeros(POOL)):
        estimate = built(name).estimate(order, row[order])
        assert estimate.value == pytest.approx(row.mean(), abs=1e-12)
        assert estimate.se == 0


@every
def test_value_is_a_score_and_graded_answers_are_welcome(name: str):
    rng = np.random.default_rng(2)
    for count in (1, 2, 7, POOL // 2, POOL - 1):
        items = some(count, seed=count)
        for scores in (np.zeros(count), np.ones(count), rng.random(count)):
            estimate = built(name).estimate(items, scores)
            assert 0 <= estimate.value <= 1
            assert 0 <= estimate.se < np.inf


@every
def test_more_answers_shrink_the_error_bar_on_the_average(name: str):
    ses = [
        np.mean([built(name).estimate(some(n, s), JUDGED[s, some(n, s)]).se for s in range(6)])
        for n in (5, 20, 60, 85)
    ]
    assert ses[0] > ses[1] > ses[3]
    assert ses[2] > ses[3] > 0


@every
def test_better_answers_are_not_rated_lower(name: str):
    items = some(20)
    values = [built(name).estimate(items, np.full(20, score)).value for score in (0, 0.5, 1)]
    assert values == sorted(values)


@every
def test_the_order_of_items_and_earlier_questions_do_not_matter(name: str):
    items, row = some(12), JUDGED[3]
    first = built(name).estimate(items, row[items])
    assert built(name).estimate(items[::-1], row[items[::-1]]) == first
    for seed in range(20):
        other = some(3 + seed, seed)
        built(name).estimate(other, row[other])
    assert built(name).estimate(items, row[items]) == first
    assert (
        build_estimator(name, BANK, parents=parents_of(name)).estimate(items, row[items]) == first
    )


@every
def test_gaps_and_items_that_all_score_alike(name: str):
    matrix = np.array(MATRIX[:MODELS])
    matrix[:, 5], matrix[:, 6] = 1, 0
    matrix[np.random.default_rng(3).random(matrix.shape) < 0.1] = np.nan
    matrix[0, :], matrix[1, :] = MATRIX[0], MATRIX[1]
    estimator = build_estimator(name, ItemBank.of(matrix), parents=parents_of(name))
    items = np.array([5, 6, 10, 20, 30, 40, 50, 60, 70, 80])
    for row in JUDGED[:4]:
        estimate = estimator.estimate(items, row[items])
        assert 0 <= estimate.value <= 1
        assert 0 < estimate.se < 1


@every
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_task_whose_items_all_score_alike(name: str, value: float):
    bank = ItemBank.of(np.full((ESTIMATORS[name].least, 12), value))
    estimator = build_estimator(
        name, bank, parents=parents_of(name) if len(bank.models) > 2 else ()
    )
    estimate = estimator.estimate([0, 4, 7], [value] * 3)
    assert estimate.value == pytest.approx(value, abs=0.1)
    assert np.isfinite(estimate.se)


@every
def test_the_smallest_bank(name: str):
    least = ESTIMATORS[name].least
    bank = ItemBank.of(simulated(4, max(least, 3), 3)[:least])
    estimator = build_estimator(name, bank, parents=parents_of(name))
    assert 0 <= estimator.estimate([1], [1.0]).value <= 1
    assert estimator.estimate([0, 1, 2], [1.0, 0.0, 1.0]).value == pytest.approx(2 / 3)


@every
@pytest.mark.parametrize(
    ("items", "scores", "message"),
    [
        ([], [], "at least one"),
        ([1, 2], [1.0], "one score per item"),
        ([1, 1], [1.0, 0.0], "item 1: it is there twice"),
        ([0, POOL], [1.0, 0.0], f"positions in the bank, 0 to {POOL - 1}"),
        ([-1], [1.0], "positions in the bank"),
        ([3], [1.5], r"score 1.5 of item 3: a score lies in \[0, 1\]"),
        ([3], [float("nan")], r"a score lies in \[0, 1\]"),
    ],
)
def test_refusals(name: str, items: list[int], scores: list[float], message: str):
    with pytest.raises(FitnessError, match=message):
        built(name).estimate(np.array(items, dtype=int), np.array(scores))


SCRIPT = """
import json
from tests.fitness.estimators.test_battery import ESTIMATORS, JUDGED, built, some
items = some(12)
found = {name: built(name).estimate(items, JUDGED[3, items]) for name in ESTIMATORS}
print(json.dumps({name: [e.value, e.se] for name, e in found.items()}))
"""


def test_another_process_finds_the_same():
    command = [sys.executable, "-c", SCRIPT]
    environment = {"PYTHONHASHSEED": "77", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    there = json.loads(done.stdout)
    items = some(12)
    for name in ESTIMATORS:
        here = built(name).estimate(items, JUDGED[3, items])
        assert there[name] == pytest.approx([here.value, here.se], rel=1e-6), name
