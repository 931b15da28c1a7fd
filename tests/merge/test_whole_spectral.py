"""Edits of singular values: hand-worked spectra, torch's own decomposition, limits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.whole.spectral import SPECTRAL, edit_singular_values, star, truncate

STEPS = torch.diag(torch.tensor([4.0, -3.0, 2.0, 1.0]))
SHAPES = [(7, 12), (12, 7), (9, 9), (1, 5), (5, 1), (1, 1), (40, 3000)]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("eta", "expected"),
    [
        (0.0, [10, 0, 0, 0]),
        (0.39, [10, 0, 0, 0]),
        (0.41, [40 / 7, -30 / 7, 0, 0]),
        (0.71, [40 / 9, -30 / 9, 20 / 9, 0]),
        (0.95, [4, -3, 2, 1]),
        (1.0, [4, -3, 2, 1]),
    ],
)
def test_star_by_hand(eta: float, expected: list[float]):
    """Singular values 4, 3, 2, 1: their sum 10 is kept, their signs too."""
    merged = star(STEPS, {"eta": eta})
    torch.testing.assert_close(merged, torch.diag(torch.tensor(expected, dtype=torch.float32)))


@pytest.mark.parametrize(("rank", "kept"), [(0.0, 1), (0.3, 1), (0.5, 2), (0.74, 2), (0.75, 3)])
def test_truncate_by_hand(rank: float, kept: int):
    expected = STEPS * (torch.arange(4) < kept)
    torch.testing.assert_close(truncate(STEPS, {"rank": rank}), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_equals_a_singular_value_decomposition(shape: tuple[int, int], share: float):
    tau = _normal(*shape) * 1e-3
    u, s, v = torch.linalg.svd(tau.double(), full_matrices=False)
    kept = max(1, int(share * len(s)))
    expected = (u[:, :kept] * s[:kept]) @ v[:kept]
    torch.testing.assert_close(
        truncate(tau, {"rank": share}), expected.float(), rtol=1e-4, atol=1e-8
    )
    kept = int((s.cumsum(0) < share * s.sum()).sum()) + 1
    expected = (u[:, :kept] * (s[:kept] * s.sum() / s[:kept].sum())) @ v[:kept]
    torch.testing.assert_close(star(tau, {"eta": share}), expected.float(), rtol=1e-4, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_star_keeps_the_nuclear_norm_and_truncate_the_rank(m: int, n: int, share: float, seed: int):
    tau = _normal(m, n, seed=seed)
    before, after = (torch.linalg.svdvals(x).sum().item() for x in (tau, star(tau, {"eta": share})))
    assert after == pytest.approx(before, rel=1e-5)
    low = truncate(tau, {"rank": share})
    assert torch.linalg.matrix_rank(low, rtol=1e-4) <= max(1, int(share * min(m, n)))
    torch.testing.assert_close(truncate(low, {"rank": share}), low, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "parameter"), [("star", "eta"), ("truncate", "rank")])
def test_limits_and_shapes(name: str, parameter: str):
    edit = SPECTRAL[name]
    some, all_of_it = {parameter: 0.4}, {parameter: 1.0}
    tau, stack, vector = _normal(6, 8), _normal(3, 6, 8), _normal(8)
    assert edit(tau, all_of_it) is tau
    for unchanged in (vector, torch.tensor(1.0), _normal(2, 2, 3, 3), torch.empty(0, 4)):
        assert edit(unchanged, some) is unchanged
    assert not edit(torch.zeros(4, 5), some).any()
    before = stack.clone()
    torch.testing.assert_close(edit(stack, some), torch.stack([edit(x, some) for x in stack]))
    assert torch.equal(stack, before)
    torch.testing.assert_close(edit(tau.T, some), edit(tau, some).T)
    torch.testing.assert_close(edit(2 * tau, some), 2 * edit(tau, some))


def test_low_rank_has_no_other_singular_values():
    """A LoRA's delta: what lies below float32's resolution is 0 to the rule."""
    tau = _normal(300, 4) @ _normal(4, 200, seed=1)
    seen: list[Tensor] = []

    def gains(values: Tensor) -> Tensor:
        seen.append(values)
        return torch.ones_like(values)

    torch.testing.assert_close(edit_singular_values(tau, gains), tau, rtol=1e-4, atol=1e-4)
    values = seen[0]
    assert len(values) == 200
    assert (values[:4] > 1).all()
    assert (values[4:] < 1e-4).all()
    expected = torch.linalg.svdvals(tau.double())[:4]
    torch.testing.assert_close(values[:4], expected, rtol=1e-8, atol=0)
