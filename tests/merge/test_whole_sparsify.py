"""Sparsification by rank, block and importance: hand-worked cases, slow versions, limits."""

from itertools import pairwise
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.random_masks import MaskKey, random_bits
from evomerge.merge.whole.sparsify import (
    WHOLE_SPARSIFY,
    della,
    importance,
    n_of_m,
)

KEYS: list[MaskKey] = [(1, 2), (3, 4), (5, 6)]


def _uniform(key: MaskKey, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    return (random_bits(key, 0, count).double() * 2.0**-24).view(shape)


def _della(tau: Tensor, density: float, epsilon: float, key: MaskKey = (1, 2)) -> Tensor:
    return della([tau], [{"density": density, "epsilon": epsilon}], {}, [key], None)[0]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("row", "shares"),
    [
        ([1.0, -2.0, 3.0, -4.0, 5.0], [0, 0.25, 0.5, 0.75, 1]),
        ([9.0, -0.5, 3.0], [1, 0, 0.5]),
        ([2.0, -2.0, 1.0, 5.0], [0.5, 0.5, 0, 1]),  # equal ones share ranks 1 and 2
        ([7.0, 7.0, -7.0], [0.5, 0.5, 0.5]),
        ([4.0], [0.5]),
    ],
)
def test_della_probabilities_by_hand(row: list[float], shares: list[float]):
    """Over many rows: kept exactly where u < (d - e) + 2 e share."""
    tau = torch.tensor(row).repeat(500, 1)
    expected = _uniform((1, 2), tuple(tau.shape)) < 0.3 + 0.4 * torch.tensor(shares).double()
    kept = _della(tau, 0.5, 0.2)
    assert torch.equal(kept != 0, expected)
    assert torch.equal(kept[kept != 0], tau[kept != 0])


@pytest.mark.parametrize("shape", [(50, 21), (1050,), (2, 25, 21)])
def test_della_ranks_within_the_last_dimension(shape: tuple[int, ...]):
    tau = _normal(*shape).mul_(4).round_()  # many ties
    magnitudes = tau.abs().numpy().reshape(-1, shape[-1])
    below = (magnitudes[:, None, :] < magnitudes[:, :, None]).sum(2)
    upto = (magnitudes[:, None, :] <= magnitudes[:, :, None]).sum(2)
    shares = torch.from_numpy((below + upto - 1) / (2 * (shape[-1] - 1))).view(shape)
    expected = (_uniform((1, 2), shape) < 0.3 + 0.2 * shares) & (tau != 0)
    assert torch.equal(_della(tau, 0.4, 0.1) != 0, expected)


def test_della_in_many_chunks_is_della_at_once():
    tau = _normal(1100, 1009)  # more than one chunk, and rows do not divide it
    kept = _della(tau, 0.5, 0.2)
    order = tau.abs().argsort(dim=1).argsort(dim=1).double() / 1008
    u = _uniform((1, 2), (1100, 1009))
    clear = (u - 0.3 - 0.4 * order).abs() > 1e-6
    assert clear.double().mean() > 0.999
    assert torch.equal((kept != 0)[clear], (u < 0.3 + 0.4 * order)[clear])


@pytest.mark.parametrize(("density", "epsilon"), [(0.3, 0.1), (0.6, 0.39), (0.5, 0.0)])
def test_della_keeps_its_density(density: float, epsilon: float):
    tau = _normal(512, 256)
    share = (_della(tau, density, epsilon) != 0).double().mean().item()
    assert abs(share - density) < 5 * (0.25 / tau.numel()) ** 0.5


def test_della_masks_nest_in_the_density():
    tau, densities = _normal(64, 65), [0.2, 0.3, 0.55, 0.8, 0.85]
    masks = [_della(tau, density, 0.1) != 0 for density in densities]
    for lower, higher in pairwise(masks):
        assert torch.equal(lower & higher, lower)


def test_della_prefers_large_elements_and_has_limits():
    tau = _normal(300, 100)
    assert torch.equal(_della(tau, 1.0, 0.1), tau)
    assert not _della(tau, 0.0, 0.1).any()
    kept = _della(tau, 0.5, 0.3)
    assert kept.abs().sum() > 1.2 * _della(tau, 0.5, 0.0).abs().sum()
    assert _della(torch.empty(0, 4), 0.5, 0.1).shape == (0, 4)
    assert _della(torch.tensor(3.0), 0.5, 0.1).shape == ()


# --- n_of_m ---------------------------------------------------------------------------------------


def _cabs(rows: list[list[float]], densities: list[float], m: int = 4) -> list[list[float]]:
    own = [{"density": density} for density in densities]
    taus = [torch.tensor(row, dtype=torch.float32) for row in rows]
    return [out.tolist() for out in n_of_m(taus, own, {"m": str(m)}, KEYS[: len(rows)], None)]


def test_n_of_m_by_hand():
    first, second, third = _cabs(
        [[4, -3, 2, 1], [1, 2, 3, -9], [-9, 8, 1, 1]],
        [0.5, 0.5, 0.5],
    )
    assert first == [4, -3, 0, 0]
    assert second == [0, 0, 3, -9]  # what the first left
    assert third == [-9, 8, 0, 0]  # nothing is free: the largest of all


def test_n_of_m_overlaps_only_for_what_is_missing():
    assert _cabs([[4, 3, 2, 1], [1, 2, 3, 9]], [0.5, 0.75])[1] == [0, 2, 3, 9]


def test_n_of_m_last_block_ties_and_zeros():
    assert _cabs([[1, 1, 1, 1, 5, 6]], [0.5])[0] == [1, 1, 0, 0, 0, 6]
    assert _cabs([[1, 2, 3, 4, 5, 6, 7]], [0.25])[0] == [0, 0, 0, 4, 0, 0, 7]
    # A source that did not change a block takes nothing from the next.
    assert _cabs([[0, 0, 0, 0], [9, 1, 8, 1]], [0.5, 0.5])[1] == [9, 0, 8, 0]


def test_n_of_m_limits():
    assert _cabs([[1, 2, 3], [4, 5, 6]], [1.0, 0.0]) == [[1, 2, 3], [0, 0, 0]]
    assert _cabs([[1, 2, 3], [4, 5, 6]], [1.0, 1.0]) == [[1, 2, 3], [4, 5, 6]]
    assert n_of_m([torch.empty(0)], [{"density": 0.5}], {"m": "4"}, KEYS[:1], None)[0].numel() == 0


def _slow_cabs(rows: list[list[float]], densities: list[float], m: int) -> list[list[float]]:
    taken: set[int] = set()
    kept: list[list[float]] = []
    for row, density in zip(rows, densities[: len(rows)], strict=True):
        chosen: list[int] = []
        for start in range(0, len(row), m):
            block = range(start, min(start + m, len(row)))
            ranked = sorted(block, key=lambda i: (i in taken, -abs(row[i]), i))
            chosen += ranked[: ceil(density * len(block))]
        taken |= {i for i in chosen if row[i]}
        kept.append([row[i] if i in chosen else 0 for i in range(len(row))])
    return kept


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 20).flatmap(
        lambda count: st.lists(
            st.lists(st.integers(-3, 3), min_size=count, max_size=count), min_size=1, max_size=3
        )
    ),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.integers(1, 8),
)
def test_n_of_m_equals_the_slow_version(rows: list[list[int]], densities: list[float], m: int):
    floats = [[float(x) for x in row] for row in rows]
    assert _cabs(floats, densities[: len(rows)], m) == _slow_cabs(floats, densities, m)


def test_n_of_m_does_not_overlap_and_is_balanced():
    taus = [_normal(1500, 800, seed=i) for i in range(3)]  # more than one chunk
    own = [{"density": 0.25}, {"density": 0.5}, {"density": 0.25}]
    masks = [out != 0 for out in n_of_m(taus, own, {"m": "64"}, KEYS, None)]
    assert torch.equal(sum(mask.int() for mask in masks), torch.ones(1500, 800).int())
    for mask, kept in zip(masks, (16, 32, 16), strict=True):
        assert (mask.view(-1, 64).sum(1) == kept).all()


# --- importance -----------------------------------------------------------------------------------


def _slow_importance(tau: np.ndarray, base: np.ndarray) -> np.ndarray:
    theta = base + tau
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) + 1e-8 for x in (theta, base))
    scores = np.abs(tau) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ranked = np.sort(scores.ravel())
    low, median, high = (ranked[(ranked.size - 1) * i // 4] for i in (1, 2, 3))
    return np.where(scores >= median + 1.5 * (high - low), tau, 0)


@pytest.mark.parametrize("shape", [(40, 30), (333,), (3, 20, 10), (1,), (1200, 1001)])
def test_importance_equals_the_slow_version(shape: tuple[int, ...]):
    tau, base = 0.5 * _normal(*shape), _normal(*shape, seed=1)
    (kept,) = importance([tau], [{}], {}, [(0, 0)], base)
    expected = _slow_importance(tau.double().numpy(), base.double().numpy())
    assert (kept.numpy() != expected.astype(np.float32)).mean() <= 1e-5
    assert kept.numel() == 1 or 0 < (kept != 0).double().mean() < 0.25


def test_importance_of_small_deltas_is_not_noise():
    """Divergences of 1e-9: float32 would give rounding errors; twice the delta, the same mask."""
    tau, base = 1e-4 * _normal(64, 64), _normal(64, 64, seed=1)
    (kept,) = importance([tau], [{}], {}, [(0, 0)], base)
    (doubled,) = importance([2 * tau], [{}], {}, [(0, 0)], base)
    assert ((kept != 0) == (doubled != 0)).double().mean() > 0.999


def test_importance_of_a_vanishing_divergence_keeps_the_largest():
    """A divergence of 1e-18 may come out as -1e-17; the smallest must not win by that."""
    for seed in range(20):
        tau, base = 1e-9 * _normal(50, seed=seed), _normal(50, seed=100 + seed)
        (kept,) = importance([tau], [{}], {}, [(0, 0)], base)
        dropped = tau[kept == 0].abs()
        assert dropped.numel() == 0 or tau[kept != 0].abs().min() >= dropped.max()


def test_importance_without_reference_is_that_of_zeros():
    tau = _normal(20, 30)
    with_zeros = importance([tau], [{}], {}, [(0, 0)], torch.zeros(20, 30))
    assert torch.equal(importance([tau], [{}], {}, [(0, 0)], None)[0], with_zeros[0])


def test_importance_of_an_unchanged_tensor():
    base = _normal(5, 5)
    (kept,) = importance([torch.zeros(5, 5)], [{}], {}, [(0, 0)], base)
    assert torch.equal(kept, torch.zeros(5, 5))


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", WHOLE_SPARSIFY)
def test_keeps_or_drops_and_leaves_its_inputs(choice: str):
    taus = [_normal(24, 33, seed=i).T for i in range(3)]  # not contiguous
    base, before = _normal(33, 24, seed=9), [tau.clone() for tau in taus]
    own = [{"density": 0.4, "epsilon": 0.2}] * 3
    results = WHOLE_SPARSIFY[choice](taus, own, {"m": "32"}, KEYS, base)
    for tau, copy, result in zip(taus, before, results, strict=True):
        assert torch.equal(tau, copy)
        assert result.shape == tau.shape
        assert result.dtype == torch.float32
        assert ((result == tau) | (result == 0)).all()
        assert result.data_ptr() != tau.data_ptr()
    again = WHOLE_SPARSIFY[choice](taus, own, {"m": "32"}, KEYS, base)
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
