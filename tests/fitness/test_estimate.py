import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import FitnessError
from fitness.estimate import Estimate, mean_estimate, weighted

Z90 = statistics.NormalDist().inv_cdf(0.95)


def coverage(draws: np.ndarray, truth: np.ndarray | float, pool: int | None) -> float:
    """Share of rows [runs, n] whose 90 % interval holds the truth."""
    estimates = [mean_estimate(row, pool) for row in draws.tolist()]
    values, errors = np.array([(e.value, e.se) for e in estimates]).T
    return float(np.mean(np.abs(values - truth) <= Z90 * errors + 1e-12))


@pytest.mark.parametrize("p", [0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9])
def test_90_percent_intervals_hold_the_truth_that_often(p):
    draws = np.random.default_rng(1).random((4000, 30)) < p
    assert 0.85 <= coverage(draws, p, None) <= 0.955


@pytest.mark.parametrize("p", [0.02, 0.05, 0.95, 0.98])
def test_intervals_near_the_ends_are_too_wide_rather_than_too_narrow(p):
    draws = np.random.default_rng(2).random((4000, 30)) < p
    assert coverage(draws, p, None) >= 0.93


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_intervals_of_a_finite_pool_hold_its_full_score(p):
    generator = np.random.default_rng(3)
    pools = generator.random((3000, 60)) < p
    samples = generator.permuted(pools, axis=1)[:, :30]
    assert 0.85 <= coverage(samples, pools.mean(1), 60) <= 0.955


def test_graded_scores_are_covered_too():
    draws = np.random.default_rng(4).beta(2, 5, (3000, 30))
    assert coverage(draws, 2 / 7, None) >= 0.88


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_whole_pool_is_known_exactly(scores):
    estimate = mean_estimate(scores, len(scores))
    assert estimate.se == 0.0
    assert estimate.value == pytest.approx(statistics.fmean(scores), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 1000))
def test_part_of_the_pool_never_is(scores, spare):
    estimate = mean_estimate(scores, len(scores) + spare)
    assert 0 < estimate.se < 0.6
    assert estimate.se < mean_estimate(scores, None).se


def test_worked_example():
    """3 right of 4: with two right and two wrong more, p = 5/8."""
    estimate = mean_estimate([1, 1, 1, 0], 16)
    assert estimate.value == 0.75
    assert estimate.se == pytest.approx(math.sqrt(5 / 8 * 3 / 8 / 4 * 12 / 16))


def test_more_answers_narrow_the_interval():
    errors = [mean_estimate([1, 0] * n, 1000).se for n in (5, 20, 100, 400)]
    assert errors == sorted(errors, reverse=True)


def test_a_weighted_mean_of_independent_estimates():
    mean = weighted([Estimate(0.2, 0.03), Estimate(0.6, 0.04)], [1, 3])
    assert mean.value == pytest.approx(0.5)
    assert mean.se == pytest.approx(math.hypot(0.03, 0.12) / 4)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, math.inf], [1, math.nan]])
def test_weights_that_do_not_weigh_are_refused(weights):
    with pytest.raises(FitnessError, match="one weight per estimate"):
        weighted([Estimate(0.2, 0.1), Estimate(0.3, 0.1)], weights)


@pytest.mark.parametrize(("scores", "pool"), [([], 5), ([1.0, 0.0], 1)])
def test_impossible_samples_are_refused(scores, pool):
    with pytest.raises(FitnessError, match=f"{len(scores)} scores for a pool of {pool} items"):
        mean_estimate(scores, pool)
