"""Paired comparisons against SciPy's tests, by hand, and by how often the intervals hold the truth."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from fitness.comparison import flips, holm, paired, sign_flip_p
from fitness.errors import FitnessError


def right_or_wrong(rng, items, wins, losses):
    """Two models' answers; a alone is right with probability `wins`, b alone with `losses`."""
    u = rng.random(items)
    both = rng.random(items) < 0.5
    a = np.where(u < wins, 1.0, np.where(u < wins + losses, 0.0, both))
    b = np.where(u < wins, 0.0, np.where(u < wins + losses, 1.0, both))
    return a, b


def test_by_hand():
    a, b = [1, 1, 1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0, 0, 1]
    found = paired([a], [b])
    assert found.difference == pytest.approx(2 / 8)  # 3 won, 1 lost
    assert found.p == pytest.approx(10 / 16)  # 2 * (1 + 4) / 2^4
    # Bonett and Price: (b - c) / (n + 2), with (4 + 2) / 10 - 0.2^2 over 10 as the variance
    se = np.sqrt((0.6 - 0.2**2) / 10)
    assert found.se == pytest.approx(se)
    assert (found.low, found.high) == pytest.approx((0.2 - 1.959964 * se, 0.2 + 1.959964 * se))
    changed = flips([b], [a])
    assert (changed.lost, changed.gained, changed.same) == (1, 3, 4)


@pytest.mark.parametrize(
    ("items", "wins", "losses"), [(30, 0.2, 0.1), (400, 0.3, 0.25), (1319, 0.1, 0.08)]
)
def test_right_or_wrong_is_mcnemar(items, wins, losses):
    a, b = right_or_wrong(np.random.default_rng(items), items, wins, losses)
    changed = flips([b], [a])
    exact = binomtest(changed.gained, changed.gained + changed.lost).pvalue
    assert paired([a], [b]).p == pytest.approx(exact, rel=1e-9)


def test_graded_scores_against_scipy():
    rng = np.random.default_rng(1)
    a = rng.random(12)
    b = np.clip(a + rng.normal(-0.08, 0.2, 12), 0, 1)

    def mean_difference(x, y, axis):
        return np.mean(x - y, axis=axis)

    exact = permutation_test(
        (a, b), mean_difference, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert paired([a], [b]).p == pytest.approx(exact.pvalue)


def test_tasks_are_strata():
    rng = np.random.default_rng(2)
    tasks = [right_or_wrong(rng, n, 0.5, 0.3) for n in (5, 7, 4)]
    a, b = ([t[i] for t in tasks] for i in (0, 1))
    weights = np.array([3.0, 1.0, 2.0])
    found = paired(a, b, weights.tolist())
    gaps = [np.mean(x - y) for x, y in tasks]
    assert found.difference == pytest.approx(gaps @ weights / 6)
    assert paired(a, b, [1, 1, 0]).p == pytest.approx(paired(a[:2], b[:2]).p)


def test_two_tasks_by_every_flip():
    """The slow obvious version: all 2^9 signs, each flipped set compared in standard errors."""
    rng = np.random.default_rng(8)
    gaps = [rng.choice([-1.0, 0.5, 1.0], n) for n in (4, 5)]
    shares = (0.7, 0.3)

    def away(signs):
        parts = np.split(signs, [4])
        centre = variance = 0.0
        for share, part, gap in zip(shares, parts, gaps, strict=True):
            seen, weights = np.append(part * gap, [1, -1]), np.array([1.0] * len(gap) + [share] * 2)
            mean = np.average(seen, weights=weights)
            centre += share * mean
            variance += share**2 * np.average((seen - mean) ** 2, weights=weights) / weights.sum()
        return abs(centre) / np.sqrt(variance)

    flipped = [away(np.array(signs)) for signs in itertools.product([1, -1], repeat=9)]
    exact = np.mean(np.array(flipped) >= away(np.ones(9)) - 1e-12)
    assert sign_flip_p(gaps, shares) == pytest.approx(exact)
    a, b = ([np.maximum(sign * gap, 0) for gap in gaps] for sign in (1, -1))
    assert paired(a, b, [7, 3]).p == pytest.approx(exact)


def test_opposite_tasks_do_not_hide_the_mean():
    """Far worse on one task, far better on another: the mean differs as clearly as its interval says."""
    a = [np.array([1.0] * 38 + [0.0] * 22), np.array([0.0] * 40 + [1.0] * 20)]
    b = [np.array([0.0] * 60), np.array([1.0] * 40 + [1.0] * 20)]
    b[1][:18] = 0.0
    found = paired(a, b)
    assert found.low > 0.02
    assert found.p < 0.02


def test_drawn_flips_agree_with_counted_ones_and_repeat():
    rng = np.random.default_rng(3)
    values = rng.choice([-1.0, 1.0], 200, p=[0.42, 0.58])
    uneven = values * (1 + 1e-4 * rng.random(200))  # too many sums to count, nearly the same test
    drawn = sign_flip_p([uneven], [1], seed=4)
    assert drawn == pytest.approx(sign_flip_p([values], [1]), abs=0.01)
    assert drawn == sign_flip_p([uneven], [1], seed=4)
    assert sign_flip_p([np.abs(uneven)], [1]) == pytest.approx(1 / 20_001)
    tasks = np.split(values, [50, 100, 150])  # too many together, few in each
    shares = [0.4, 0.3, 0.2, 0.1]
    many = [np.concatenate([t] * 3) for t in tasks]
    assert sign_flip_p(many, shares, seed=1) == pytest.approx(
        sign_flip_p(many, shares, seed=2), abs=0.01
    )


def test_equal_models_have_no_difference_but_an_interval():
    found = paired([np.ones(20)], [np.ones(20)])
    assert (found.difference, found.p) == (0, 1)
    assert found.low < 0 < found.high < 0.15


def test_direction():
    rng = np.random.default_rng(5)
    a, b = right_or_wrong(rng, 60, 0.4, 0.1)
    one, other = paired([a], [b]), paired([b], [a])
    assert (one.difference, one.low, one.high) == pytest.approx(
        (-other.difference, -other.high, -other.low)
    )
    assert one.p == other.p


@pytest.mark.parametrize(("wins", "losses"), [(0.02, 0.02), (0.1, 0.02), (0.2, 0.2), (0.4, 0.1)])
@pytest.mark.parametrize("tasks", [1, 3])
def test_the_interval_holds_the_truth(wins, losses, tasks, monkeypatch):
    monkeypatch.setattr("fitness.comparison.sign_flip_p", lambda *_, **__: 1.0)  # not asked here
    rng = np.random.default_rng(6)
    trials = 500
    held = 0
    for _ in range(trials):
        pairs = [right_or_wrong(rng, 60, wins, losses) for _ in range(tasks)]
        found = paired([a for a, _ in pairs], [b for _, b in pairs], list(range(1, tasks + 1)))
        held += found.low <= wins - losses <= found.high
    assert held / trials >= 0.92  # 95 % less three standard errors


@pytest.mark.parametrize("odds", [[(0.2, 0.2)], [(0.4, 0.1), (0.1, 0.4)]])
def test_the_test_keeps_its_level(odds):
    """Also where the models differ in every task and only their means are equal."""
    rng = np.random.default_rng(7)
    ps = []
    for _ in range(600):
        pairs = [right_or_wrong(rng, 80, *each) for each in odds]
        ps.append(paired([a for a, _ in pairs], [b for _, b in pairs]).p)
    rejected = np.mean(np.array(ps) <= 0.05)
    assert 0.02 <= rejected <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_holm_by_hand():
    # 0.01 * 4, then 0.02 * 3, then 0.03 * 2 = 0.06, and never less than those before
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


def test_graded_flips():
    changed = flips([[0.5, 0.2], [1.0]], [[0.4, 0.2], [1.0]])
    assert (changed.lost, changed.gained, changed.same) == (1, 0, 2)


@pytest.mark.parametrize(
    ("a", "b", "weights", "match"),
    [
        ([[1, 0]], [[1]], None, "same items"),
        ([[1, 0]], [[1, 0], [1]], None, "same items"),
        ([[]], [[]], None, "at least one"),
        ([], [], None, "weights"),
        ([[2]], [[1]], None, "in \\[0, 1\\]"),
        ([[np.nan]], [[1]], None, "in \\[0, 1\\]"),
        ([[1]], [[1]], [0], "not all 0"),
        ([[1]], [[1]], [1, 2], "one weight per task"),
        ([[1]], [[1]], [-1], "negative"),
    ],
)
def test_bad_input(a, b, weights, match):
    with pytest.raises(FitnessError, match=match):
        paired(a, b, weights)
