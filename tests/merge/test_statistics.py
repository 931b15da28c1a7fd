"""`Exact` against sorting and summing whole tensors."""

from math import inf, isinf

import numpy as np
import pytest
import torch

from evomerge.merge.deltas import Delta
from evomerge.merge.random_masks import random_bits
from evomerge.merge.statistics import Exact, variance
from tests.merge.taus import KINDS, LARGE, ranks, tau

EXACT = Exact()


@pytest.fixture(params=KINDS)
def delta(request: pytest.FixtureRequest) -> Delta:
    return KINDS[request.param]()


def _sum(values: torch.Tensor) -> float:
    return values.double().sum().item()


def _family(dtype: torch.dtype, sources: int, count: int = LARGE) -> list[Delta]:
    made = torch.Generator().manual_seed(9)
    base = (torch.randn(count, generator=made) * 0.02).to(dtype)
    steps = [torch.randn(count, generator=made) * 3e-4 for _ in range(sources)]
    return [Delta((base.float() + step).to(dtype), [base]) for step in steps]


FAMILIES = {
    "two bfloat16": lambda: _family(torch.bfloat16, 2),
    "three float16": lambda: _family(torch.float16, 3),
    "three float32": lambda: _family(torch.float32, 3),
    "three float64": lambda: _family(torch.float64, 3),
    "subnormal variances": lambda: _scaled(_family(torch.float32, 2), 1e-19),
    "small": lambda: _family(torch.bfloat16, 3, 900),
    "one source": lambda: _family(torch.bfloat16, 1),
    "equal sources": lambda: _family(torch.float32, 1) * 3,
    "one element": lambda: _family(torch.float32, 3, 1),
    "mean reference": lambda: _centred(_family(torch.bfloat16, 3)),
}


def _centred(deltas: list[Delta]) -> list[Delta]:
    thetas = [delta.theta for delta in deltas]
    return [Delta(theta, thetas) for theta in thetas]


def _scaled(deltas: list[Delta], factor: float) -> list[Delta]:
    return [Delta(delta.chunk(0, delta.count) * factor) for delta in deltas]


@pytest.fixture(params=FAMILIES)
def deltas(request: pytest.FixtureRequest) -> list[Delta]:
    return FAMILIES[request.param]()


def test_a_chunk_is_the_difference(delta):
    assert torch.equal(delta.chunk(0, delta.count), tau(delta))
    stop = min(delta.count, 100)
    assert torch.equal(delta.chunk(stop // 2, stop), tau(delta)[stop // 2 : stop])


def test_threshold(delta):
    ordered = tau(delta).abs().sort(descending=True).values
    for kept in ranks(delta.count):
        assert EXACT.threshold(delta, kept) == ordered[kept - 1].item()


def test_threshold_over_several_tensors():
    deltas = [make() for make in KINDS.values()]
    ordered = torch.cat([tau(delta).abs() for delta in deltas]).sort(descending=True).values
    for kept in ranks(len(ordered)):
        assert EXACT.threshold_over(deltas, kept) == ordered[kept - 1].item()


def test_norms(delta):
    magnitudes = tau(delta).abs()
    assert EXACT.l1(delta) == pytest.approx(_sum(magnitudes), rel=1e-12)
    low, high = (magnitudes.quantile(q).item() for q in (0.3, 0.9))
    for bounds in ((low, high), (-1.0, low), (high, inf), (-1.0, inf), (inf, inf), (high, low)):
        inside = magnitudes[(magnitudes > bounds[0]) & (magnitudes <= bounds[1])]
        assert EXACT.l1_above(delta, *bounds) == pytest.approx(_sum(inside), rel=1e-12)


@pytest.mark.parametrize("limit", [0, 1, 2**23 + 17, 2**24 - 1, 2**24])
def test_norm_under_a_random_mask(delta, limit):
    key = (0xDEADBEEF, 0x80000001)
    kept = tau(delta).abs()[random_bits(key, 0, delta.count) < limit]
    assert EXACT.l1_random(delta, key, limit) == pytest.approx(_sum(kept), rel=1e-12)


def test_random_masks_go_on_where_a_tensor_is_read_in_pieces():
    """A float64 tensor comes in pieces of 2**20 elements; each must know where it starts."""
    values = torch.rand(2**20 + 5000, generator=torch.Generator().manual_seed(0))
    whole = EXACT.l1_random(Delta(values), (1, 2), 2**22)
    assert EXACT.l1_random(Delta(values.double()), (1, 2), 2**22) == pytest.approx(whole, rel=1e-12)


def test_inner_products(deltas):
    taus = [tau(delta).double() for delta in deltas]
    expected = np.array([[(a @ b).item() for b in taus] for a in taus])
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.all(abs(EXACT.gram(deltas) - expected) <= 1e-12 * scale)


def test_variance_is_the_population_variance(deltas):
    taus = [tau(delta) for delta in deltas]
    expected = torch.stack(taus).double().var(dim=0, correction=0)
    torch.testing.assert_close(variance(taus).double(), expected, rtol=1e-4, atol=1e-13)


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.05, 0.5, 0.999, 1.0])
def test_variance_thresholds_and_energies(deltas, share):
    taus = [tau(delta) for delta in deltas]
    spread = variance(taus)
    threshold = EXACT.variance_threshold(deltas, share)
    kept = int(share * int((spread > 0).sum()))
    if share >= 1:
        assert threshold == 0
    elif kept == 0:
        assert isinf(threshold)
    else:
        assert threshold == spread.sort(descending=True).values[kept - 1].item()
    expected = [_sum(t[spread >= threshold].double().square()) / deltas[0].count for t in taus]
    assert EXACT.energies(deltas, threshold) == pytest.approx(expected, rel=1e-12)


def test_tensors_of_no_elements():
    empty = Delta(torch.zeros(0))
    assert EXACT.l1(empty) == EXACT.l1_above(empty, -1, inf) == 0
    assert EXACT.l1_random(empty, (1, 2), 2**24) == 0
    assert EXACT.gram([empty, empty]).tolist() == [[0, 0], [0, 0]]


def test_threads_change_no_bit():
    """Stretches are the same for any number of threads; sums over them are taken in order."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(5_000_001, generator=generator).bfloat16()
    deltas = [
        Delta(
            (base.float() + 0.01 * torch.randn(base.shape, generator=generator)).bfloat16(), [base]
        )
        for _ in range(2)
    ]

    def answers() -> list[float]:
        exact = Exact()
        return [
            exact.threshold(deltas[0], 1_234_567),
            exact.l1(deltas[0]),
            exact.l1_above(deltas[0], 0.005, 0.02),
            exact.l1_random(deltas[1], (3, 4), 2**22),
            *exact.gram(deltas).reshape(-1).tolist(),
            least := exact.variance_threshold(deltas, 0.25),
            *exact.energies(deltas, least),
        ]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = answers()
        torch.set_num_threads(3)
        assert answers() == alone
    finally:
        torch.set_num_threads(before)
