"""Combinations of whole tensors: hand-worked cases, slow versions, rows against whole vectors."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.whole.angles import COEFFICIENTS
from evomerge.merge.whole.combine import WHOLE_COMBINE, iso_c, model_stock, nuslerp, pcb

ROWS = {"nuslerp_row_wise": False}
COLUMNS = {"nuslerp_row_wise": True}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _own(count: int, density: float = 0.3) -> list[dict[str, Any]]:
    return [{"density": density}] * count


# --- iso_c ----------------------------------------------------------------------------------------


def test_iso_c_by_hand():
    """2 * diag(3, 0) + diag(0, 2) has singular values 6 and 2: both become 4."""
    taus = [torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([0.0, -2.0]))]
    merged = iso_c(taus, [2.0, 1.0], _own(2), {})
    torch.testing.assert_close(merged, torch.diag(torch.tensor([4.0, -4.0])))


@pytest.mark.parametrize("shape", [(8, 13), (13, 8), (6, 6), (1, 5), (30, 4000)])
def test_iso_c_equals_a_singular_value_decomposition(shape: tuple[int, int]):
    taus, weights = [_normal(*shape, seed=i) for i in range(3)], [0.7, -0.2, 1.1]
    total = sum(w * tau.double() for w, tau in zip(weights, taus, strict=True))
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    expected = (s.mean() * (u @ v)).float()
    torch.testing.assert_close(iso_c(taus, weights, _own(3), {}), expected, rtol=1e-4, atol=1e-6)


def test_iso_c_of_small_singular_values_is_not_noise():
    """Condition 10^4: the smallest direction is as exact as the largest."""
    u, _ = torch.linalg.qr(_normal(40, 40).double())
    v, _ = torch.linalg.qr(_normal(60, 40, seed=1).double())
    values = torch.logspace(0, -4, 40, dtype=torch.float64)
    tau = (u * values) @ v.T
    merged = iso_c([tau.float()], [1.0], _own(1), {})
    expected = (values.mean() * (u @ v.T)).float()
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_iso_c_keeps_the_rank_and_what_is_isotropic():
    low = _normal(30, 3) @ _normal(3, 20, seed=1)
    merged = iso_c([low], [1.0], _own(1), {})
    values, before = torch.linalg.svdvals(merged), torch.linalg.svdvals(low)
    torch.testing.assert_close(values[:3], before.sum().expand(3) / 3, rtol=1e-4, atol=0)
    assert (values[3:] < 1e-4 * values[0]).all()
    rotation, _ = torch.linalg.qr(_normal(9, 9))
    torch.testing.assert_close(iso_c([rotation], [0.5], _own(1), {}), 0.5 * rotation)
    assert not iso_c([torch.zeros(3, 4)], [1.0], _own(1), {}).any()


def test_iso_c_of_vectors_and_stacks():
    vectors = [_normal(9, seed=i) for i in range(2)]
    mean = iso_c(vectors, [0.6, 0.2], _own(2), {})
    torch.testing.assert_close(mean, 0.75 * vectors[0] + 0.25 * vectors[1])
    difference = iso_c(vectors, [1.0, -1.0], _own(2), {})
    torch.testing.assert_close(difference, vectors[0] - vectors[1])
    stacks = [_normal(3, 5, 6, seed=i) for i in range(2)]
    each = [
        iso_c([a, b], [1.0, 0.5], _own(2), {}) for a, b in zip(stacks[0], stacks[1], strict=True)
    ]
    torch.testing.assert_close(iso_c(stacks, [1.0, 0.5], _own(2), {}), torch.stack(each))


# --- pcb ------------------------------------------------------------------------------------------


def _slow_pcb(taus: np.ndarray, weights: np.ndarray, density: float) -> np.ndarray:
    """As the formulas read, float64; taus (sources, elements)."""
    count, elements = taus.shape
    cut = elements // 10_000
    ranked = np.sort(np.abs(taus), axis=1)
    low, high = ranked[:, [cut]], ranked[:, [elements - 1 - cut]]
    clamped = np.clip(np.abs(taus), low, high)
    within = (clamped - low) / (high - low)
    scores = np.exp(count * within**2) * np.tanh(taus * taus.sum(axis=0))
    least = np.sort(scores, axis=1)[:, [int((1 - density) * elements)]]
    scores = np.maximum(scores, least)
    scores = (scores - least) / (scores.max(axis=1, keepdims=True) - least)
    total = (weights[:, None] * scores * np.sign(taus) * clamped).sum(axis=0)
    return total / np.maximum(scores.sum(axis=0), 1e-12)


@pytest.mark.parametrize("shape", [(3, 40), (2, 5, 9), (5, 200, 101)])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_pcb_equals_the_slow_version(shape: tuple[int, ...], density: float):
    taus = _normal(*shape)
    weights = np.linspace(0.8, 1.3, shape[0])
    merged = pcb([*taus], weights.tolist(), _own(len(taus), density), {})
    expected = _slow_pcb(taus.reshape(len(taus), -1).double().numpy(), weights, density)
    assert merged.reshape(-1).numpy() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_pcb_keeps_what_agrees():
    """Two sources that agree on element 0 and fight over element 1."""
    taus = [torch.tensor([2.0, 2.0, 0.1, 0.0]), torch.tensor([2.0, -1.0, 0.0, 0.1])]
    merged = pcb(taus, [1.0, 1.0], _own(2, 0.75), {})
    assert merged[0] == 2
    assert merged[1] == 2  # the larger of the two: tanh is positive for it alone
    assert pcb(taus, [0.5, 0.5], _own(2, 0.75), {}).tolist() == (0.5 * merged).tolist()


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_pcb_of_equal_sources_is_the_source_where_kept(density: float):
    tau = _normal(30, 20)
    merged = pcb([tau] * 3, [1.0] * 3, _own(3, density), {})
    kept = merged != 0
    assert kept.double().mean().item() == pytest.approx(density, abs=0.005)
    torch.testing.assert_close(merged[kept], tau[kept])
    assert tau[kept].abs().min() >= tau[~kept].abs().max()


def test_pcb_limits():
    tau = _normal(7, 5)
    assert not pcb([tau, tau], [1.0, 1.0], _own(2, 0.0), {}).any()
    assert not pcb([torch.zeros(4)] * 2, [1.0, 1.0], _own(2), {}).any()
    assert pcb([torch.tensor([3.0])] * 2, [1.0, 0.5], _own(2), {}).tolist() == [2.25]
    equal = torch.full((6,), -0.5)
    torch.testing.assert_close(pcb([equal] * 2, [1.0, 1.0], _own(2), {}), equal)
    many = [_normal(50, seed=i) for i in range(150)]  # e^150 is no float32
    assert torch.isfinite(pcb(many, [1.0] * 150, _own(150), {})).all()


# --- nuslerp and model_stock, row by row ----------------------------------------------------------


def _row_by_row(choice: str, taus: list[Tensor], weights: list[float]) -> Tensor:
    """Each row merged by the coefficients of its own inner products."""
    rows = []
    for row in zip(*(tau.reshape(-1, tau.shape[-1]) for tau in taus), strict=True):
        vectors = torch.stack(row).double()
        coefficients = COEFFICIENTS[choice]((vectors @ vectors.T).numpy(), weights, {})
        rows.append((torch.tensor(coefficients, dtype=torch.float64) @ vectors).float())
    return torch.stack(rows).view_as(taus[0])


def _edged(*shape: int) -> list[Tensor]:
    """Two tensors with rows that are equal, opposite and zero."""
    first, second = _normal(*shape), _normal(*shape, seed=1)
    second[..., 0, :] = first[..., 0, :]
    second[..., 1, :] = -first[..., 1, :]
    second[..., 2, :] = 0
    return [first, second]


@pytest.mark.parametrize("shape", [(6, 9), (2, 5, 7), (4, 1), (1200, 1000)])
def test_one_angle_per_row(shape: tuple[int, ...]):
    taus = _edged(*shape)
    for merge, choice in ((nuslerp, "nuslerp"), (model_stock, "model_stock")):
        merged = merge(taus, [0.7, 0.2], _own(2), ROWS)
        expected = _row_by_row(choice, taus, [0.7, 0.2])
        torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (2, 5, 7), (1, 4), (1500, 800)])
def test_nuslerp_by_columns_is_that_of_the_transposed(shape: tuple[int, ...]):
    taus = [_normal(*shape), _normal(*shape, seed=1)]
    transposed = [tau.transpose(-1, -2) for tau in taus]
    merged = nuslerp(taus, [0.7, 0.2], _own(2), COLUMNS)
    expected = nuslerp(transposed, [0.7, 0.2], _own(2), ROWS).transpose(-1, -2)
    torch.testing.assert_close(merged, expected)


@pytest.mark.parametrize("merge", [nuslerp, model_stock])
def test_a_vector_is_one_row(merge):
    vectors = [_normal(30), _normal(30, seed=1)]
    as_rows = [vector.view(1, 30) for vector in vectors]
    for shared in (ROWS, COLUMNS):
        merged = merge(vectors, [0.7, 0.2], _own(2), shared)
        torch.testing.assert_close(merged, merge(as_rows, [0.7, 0.2], _own(2), ROWS).view(30))


@pytest.mark.parametrize("shape", [(1,), (400, 1), (3,), (300, 3)])
def test_opposite_rows_of_any_length_are_interpolated_linearly(shape: tuple[int, ...]):
    """A cosine that rounds to just above -1 would be divided by nearly 0."""
    for seed in range(50):
        tau = _normal(*shape, seed=seed)
        merged = nuslerp([tau, -3 * tau], [0.5, 0.5], _own(2), ROWS)
        torch.testing.assert_close(merged, -tau)


def test_model_stock_of_three_and_of_one():
    taus = [_normal(5, 8, seed=i) + 1 for i in range(3)]
    merged = model_stock(taus, [1.0] * 3, _own(3), {})
    torch.testing.assert_close(merged, _row_by_row("model_stock", taus, [1.0] * 3))
    assert torch.equal(model_stock(taus[:1], [1.0], _own(1), {}), taus[0])
    with pytest.raises(ValueError, match="sum to zero"):
        model_stock(taus[:2], [1.0, -1.0], _own(2), {})


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["nuslerp", "model_stock"])
def test_equal_sources_give_the_source(choice: str):
    tau = _normal(6, 7)
    merged = WHOLE_COMBINE[choice]([tau, tau], [0.3, 0.9], _own(2), ROWS)
    torch.testing.assert_close(merged, tau)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(3)), st.lists(st.floats(0.1, 2), min_size=3, max_size=3))
@pytest.mark.parametrize("choice", ["iso_c", "pcb", "model_stock"])
def test_the_order_of_sources_does_not_matter(choice: str, order: list[int], weights: list[float]):
    taus = [_normal(6, 7, seed=i) for i in range(3)]
    own = [{"density": density} for density in (0.2, 0.5, 0.9)]
    merged = WHOLE_COMBINE[choice](taus, weights, own, {})
    permuted = WHOLE_COMBINE[choice](
        [taus[i] for i in order], [weights[i] for i in order], [own[i] for i in order], {}
    )
    torch.testing.assert_close(permuted, merged, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", WHOLE_COMBINE)
@pytest.mark.parametrize("shape", [(24, 33), (17,), (1,), (2, 4, 5), ()])
def test_leaves_its_inputs_and_keeps_the_shape(choice: str, shape: tuple[int, ...]):
    taus = [_normal(*shape, seed=i) for i in range(2)]
    if len(shape) == 2:
        taus = [tau.T for tau in taus]  # not contiguous
    before = [tau.clone() for tau in taus]
    merged = WHOLE_COMBINE[choice](taus, [0.8, 0.4], _own(2), COLUMNS)
    assert all(torch.equal(a, b) for a, b in zip(taus, before, strict=True))
    assert merged.shape == taus[0].shape
    assert merged.dtype == torch.float32
    assert torch.isfinite(merged).all()
