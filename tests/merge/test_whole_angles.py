"""Coefficients from inner products: hand-worked angles, slow versions on the vectors, limits."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merge.whole.angles import COEFFICIENTS

SHARED: dict[str, Any] = {
    "t": 0.3,
    "normalize_weights": True,
    "eps": 1e-8,
    "max_iter": 10,
    "tol": 1e-5,
}
ORTHOGONAL = np.array([[3.0, 0.0], [0.0, 4.0]])


def _vectors(count: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, length))


def _merge(choice: str, vectors: np.ndarray, weights: Sequence[float], **shared: Any) -> np.ndarray:
    gram = vectors @ vectors.T
    before = gram.copy()
    coefficients = COEFFICIENTS[choice](gram, weights, SHARED | shared)
    assert np.array_equal(gram, before)
    assert all(type(c) is float for c in coefficients)
    return np.asarray(coefficients) @ vectors


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("slerp", [np.sin(0.7 * np.pi / 2), np.sin(0.3 * np.pi / 2)]),
        ("nuslerp", [np.sin(0.75 * np.pi / 2), np.sin(0.25 * np.pi / 2)]),
        # Both lengths 3 and 4 go to 3 * 0.75 + 4 * 0.25, the direction is (0.75, 0.25).
        ("multislerp", [3.25 / sqrt(0.625) * 0.75 / 3, 3.25 / sqrt(0.625) * 0.25 / 4]),
        ("karcher", [3.25 / 3 * np.cos(np.pi / 8), 3.25 / 4 * np.sin(np.pi / 8)]),
        ("model_stock", [0.0, 0.0]),  # cos 0: nothing the two agree on
    ],
)
def test_a_right_angle_by_hand(choice: str, expected: list[float]):
    gram = ORTHOGONAL**2
    coefficients = COEFFICIENTS[choice](gram, [0.9, 0.3], SHARED | {"max_iter": 100, "tol": 1e-9})
    assert coefficients == pytest.approx(expected, abs=1e-7)


def test_model_stock_by_hand():
    """Two at 60 degrees: t = 2 * 0.5 / 1.5; three likewise: t = 3 * 0.5 / 2."""
    gram = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    assert COEFFICIENTS["model_stock"](gram[:2, :2], [1, 1], {}) == pytest.approx([1 / 3] * 2)
    assert COEFFICIENTS["model_stock"](gram, [1, 1, 1], {}) == pytest.approx([0.25] * 3)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock_without_an_estimate_stays_at_the_base(count: int):
    gram = np.full((count, count), -1 / (count - 1))
    np.fill_diagonal(gram, 1.0)
    assert COEFFICIENTS["model_stock"](gram, [1.0] * count, {}) == [0.0] * count


def _sources(choice: str) -> int:
    return 2 if choice in ("slerp", "nuslerp") else 4


@pytest.mark.parametrize("choice", COEFFICIENTS)
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e4])
def test_equal_sources_give_the_source(choice: str, scale: float):
    vector = scale * _vectors(1, 30)[0]
    vectors = np.stack([vector] * _sources(choice))
    weights = [0.2, 0.5, 0.9, -0.1][: _sources(choice)]
    assert _merge(choice, vectors, weights) == pytest.approx(vector, rel=1e-6, abs=1e-9 * scale)


@pytest.mark.parametrize("choice", ["nuslerp", "multislerp", "karcher"])
@pytest.mark.parametrize("at", [0, 1])
def test_all_weight_on_one_gives_that_one(choice: str, at: int):
    vectors = _vectors(_sources(choice), 30)
    weights = [0.0] * len(vectors)
    weights[at] = 0.7
    assert _merge(choice, vectors, weights) == pytest.approx(vectors[at], rel=1e-6)


def test_slerp_goes_from_the_base_to_the_other_at_even_speed():
    vectors = np.stack([3 * _unit(v) for v in _vectors(2, 30)])
    points = [_merge("slerp", vectors, [1, 1], t=t) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert points[0] == pytest.approx(vectors[0])
    assert points[-1] == pytest.approx(vectors[1])
    assert [np.linalg.norm(point) for point in points] == pytest.approx([3] * 5)
    steps = [np.linalg.norm(b - a) for a, b in pairwise(points)]
    assert steps == pytest.approx([steps[0]] * 4)


@pytest.mark.parametrize("choice", ["slerp", "nuslerp"])
@pytest.mark.parametrize("second", [1.0, -1.0, 2.5])
def test_collinear_sources_are_interpolated_linearly(choice: str, second: float):
    vector = _vectors(1, 30)[0]
    merged = _merge(choice, np.stack([vector, second * vector]), [0.7, 0.3])
    assert merged == pytest.approx((0.7 + 0.3 * second) * vector)


def test_nuslerp_without_a_sum_of_weights_is_halfway():
    vectors = _vectors(2, 30)
    assert _merge("nuslerp", vectors, [1, -1]) == pytest.approx(_merge("nuslerp", vectors, [1, 1]))


@pytest.mark.parametrize("choice", COEFFICIENTS)
def test_zero_sources_stay_finite(choice: str):
    vectors = _vectors(_sources(choice), 30)
    for zeros in (slice(0, 1), slice(1, 2), slice(None)):
        some = vectors.copy()
        some[zeros] = 0
        merged = _merge(choice, some, [1.0] * len(vectors))
        assert np.isfinite(merged).all()
    assert not merged.any()


@pytest.mark.parametrize("choice", ["multislerp", "karcher", "model_stock"])
@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.lists(st.floats(0.1, 2), min_size=4, max_size=4))
def test_the_order_of_sources_does_not_matter(choice: str, order: list[int], weights: list[float]):
    vectors = _vectors(4, 30)
    merged = _merge(choice, vectors, weights)
    permuted = _merge(choice, vectors[order], [weights[i] for i in order])
    assert permuted == pytest.approx(merged, rel=1e-9, abs=1e-9)


# --- slow versions: on the vectors themselves, every step as the rule says ------------------------


def _slow_multislerp(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weights = weights / weights.sum()
    units = np.stack([_unit(v) for v in vectors])
    mean = _unit(weights @ units)
    tangent = sum(w * (u - (u @ mean) * mean) for w, u in zip(weights, units, strict=True))
    length = np.linalg.norm(tangent)
    point = np.cos(length) * mean + np.sinc(length / np.pi) * tangent
    return point * (weights @ np.linalg.norm(vectors, axis=1))


def _slow_karcher(vectors: np.ndarray, weights: np.ndarray, most: int, tol: float) -> np.ndarray:
    weights = weights / weights.sum()
    units = np.stack([_unit(v) for v in vectors])
    mean = _unit(weights @ units)
    for _ in range(most):
        step = np.zeros_like(mean)
        for weight, unit in zip(weights, units, strict=True):
            angle = np.arccos(np.clip(mean @ unit, -1, 1))
            if angle >= tol:
                step += weight * angle / np.sin(angle) * (unit - (mean @ unit) * mean)
        length = np.linalg.norm(step)
        if length < tol:
            break
        mean = _unit(np.cos(length) * mean + np.sin(length) / length * step)
    return mean * (weights @ np.linalg.norm(vectors, axis=1))


many = settings(max_examples=60, deadline=None)
pools = given(
    st.integers(2, 6), st.integers(2, 12), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 3.0])
)


def _pool(count: int, length: int, seed: int, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors that have `shared` of one direction in common, and positive weights."""
    draw = np.random.default_rng(seed)
    common = shared * draw.standard_normal(length)
    return common + draw.standard_normal((count, length)), draw.uniform(0.2, 1.5, count)


@many
@pools
def test_multislerp_equals_the_slow_version(count: int, length: int, seed: int, shared: float):
    vectors, weights = _pool(count, length, seed, shared)
    expected = _slow_multislerp(vectors, weights)
    assert _merge("multislerp", vectors, weights.tolist()) == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


@many
@pools
@pytest.mark.parametrize("most", [1, 10])
def test_karcher_equals_the_slow_version(
    most: int, count: int, length: int, seed: int, shared: float
):
    vectors, weights = _pool(count, length, seed, shared)
    expected = _slow_karcher(vectors, weights, most, 1e-5)
    merged = _merge("karcher", vectors, weights.tolist(), max_iter=most)
    # Close to opposite vectors a step amplifies rounding errors.
    assert merged == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_karcher_of_two_is_the_middle_of_slerp():
    vectors = np.stack([_unit(v) for v in _vectors(2, 30)])
    middle = _merge("slerp", vectors, [1, 1], t=0.5)
    assert _merge("karcher", vectors, [1, 1]) == pytest.approx(middle)


def test_karcher_converges_to_the_least_sum_of_squared_angles():
    vectors = 0.8 + _vectors(5, 20)
    units = np.stack([_unit(v) for v in vectors])
    mean = _unit(_merge("karcher", vectors, [1] * 5, max_iter=100, tol=1e-9))

    def cost(point: np.ndarray) -> float:
        return float((np.arccos(units @ _unit(point)) ** 2).sum())

    for direction in _vectors(20, 20, seed=1):
        assert cost(mean) < cost(mean + 0.01 * direction)


def test_karcher_of_opposite_vectors_has_their_direction():
    """No mean is nearest to both: any of the two directions, with the mean length."""
    for seed in range(50):
        vector = _vectors(1, 7, seed)[0]
        for factor in (-1.0, -3.0, -0.1):
            merged = _merge("karcher", np.stack([vector, factor * vector]), [1, 1])
            length = np.linalg.norm(vector) * (1 - factor) / 2
            assert np.linalg.norm(merged) == pytest.approx(length)
            assert abs(_unit(merged) @ _unit(vector)) == pytest.approx(1)


def test_karcher_passes_over_zero_vectors():
    """They count in the mean length alone, at every step."""
    vectors = _vectors(3, 9)
    with_zero = np.stack([*vectors, np.zeros(9)])
    merged = _merge("karcher", with_zero, [1] * 4, max_iter=1)
    assert merged == pytest.approx(0.75 * _merge("karcher", vectors, [1] * 3, max_iter=1))


def test_karcher_without_a_tolerance_ends():
    vectors = 1 + _vectors(3, 20)
    exact = _merge("karcher", vectors, [1] * 3, max_iter=1000, tol=0.0)
    assert exact == pytest.approx(_merge("karcher", vectors, [1] * 3, max_iter=1000), rel=1e-4)


# --- refusals -------------------------------------------------------------------------------------


def _raises(act: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        act()


@pytest.mark.parametrize("choice", ["multislerp", "karcher", "model_stock"])
def test_refuses_weights_without_a_sum(choice: str):
    _raises(lambda: _merge(choice, _vectors(3, 9), [1, -0.5, -0.5]), r"sum to zero; change")


def test_multislerp_of_opposite_vectors():
    vector, other = _vectors(2, 30)
    lerp = _merge("multislerp", np.stack([vector, -3 * vector]), [1, 1])
    assert lerp == pytest.approx(-vector)
    cross = np.stack([vector, -vector, other, -other])
    _raises(lambda: _merge("multislerp", cross, [1, 1, 2, 2]), "no direction")
    plain = _merge("multislerp", np.stack([vector, other]), [2, 1], normalize_weights=False)
    normal = _merge("multislerp", np.stack([vector, other]), [2, 1])
    assert plain == pytest.approx(3 * normal)


def test_refuses_another_number_of_sources():
    for choice in ("slerp", "nuslerp"):
        _raises(lambda choice=choice: _merge(choice, _vectors(3, 9), [1, 1, 1]), "pass two")


@pytest.mark.parametrize("choice", ["multislerp", "karcher", "model_stock"])
def test_one_source_is_itself(choice: str):
    vector = _vectors(1, 9)
    assert _merge(choice, vector, [0.4]) == pytest.approx(vector[0])
