"""`Prepared` against `Exact`: how far a table's answer is from the sources'."""

from concurrent.futures import ThreadPoolExecutor
from math import inf

import numpy as np
import pytest
import torch

from evomerge.merge.deltas import Delta
from evomerge.merge.prepared import Prepared
from evomerge.merge.statistics import Exact, variance
from evomerge.merge.tables import EXACT_UP_TO, STEPS, magnitude_steps
from tests.merge.taus import KINDS, LARGE, named, ranks, tau
from tests.merge.test_statistics import FAMILIES

EXACT = Exact()


@pytest.fixture(params=KINDS)
def delta(request: pytest.FixtureRequest) -> Delta:
    return named(KINDS[request.param](), request.param)


@pytest.fixture(params=FAMILIES)
def deltas(request: pytest.FixtureRequest) -> list[Delta]:
    deltas = FAMILIES[request.param]()
    return [named(d, f"{request.param} {d.theta.data_ptr()}") for d in deltas]


def _all_ranks(count: int) -> list[int]:
    return sorted({*ranks(count), *range(1, count + 1, max(1, count // 1500))})


def test_a_threshold_keeps_at_most_one_in_2048_more(delta):
    prepared, ordered = Prepared(), tau(delta).abs().sort().values
    slack = delta.count // STEPS if delta.count > EXACT_UP_TO else 0
    for kept in _all_ranks(delta.count):
        exact = ordered[delta.count - kept].item()
        threshold = prepared.threshold(delta, kept)
        assert threshold <= exact
        assert torch.searchsorted(ordered, torch.tensor([threshold, exact])).diff() <= slack


@pytest.mark.parametrize("kind", ["constant", "zero", "few odd values", "odd values in one bin"])
def test_ties_are_kept_or_dropped_together(kind):
    delta, prepared = named(KINDS[kind](), kind), Prepared()
    ordered = tau(delta).abs().sort(descending=True).values
    for kept in _all_ranks(delta.count):
        assert prepared.threshold(delta, kept) == ordered[kept - 1].item()


def test_tables_are_small(delta):
    table = magnitude_steps(delta)
    assert len(table.values) <= max(2 * STEPS + 2 + STEPS, EXACT_UP_TO)
    assert (np.diff(table.values) < 0).all()
    assert table.counts[-1] == delta.count


def test_a_table_tells_zeros_from_the_smallest_numbers():
    values = 1 + torch.arange(LARGE) / LARGE
    values[:5], values[5:8] = 0, 1e-44
    assert magnitude_steps(Delta(values)).above_zero == LARGE - 5
    values[5:8] = 0.5
    assert magnitude_steps(Delta(values)).above_zero == LARGE - 5
    assert magnitude_steps(Delta(values[5:])).above_zero == LARGE - 5


@pytest.mark.parametrize("names", [list(KINDS), ["bfloat16", "bfloat16, hardly tuned", "zero"]])
def test_a_threshold_over_several_tensors_is_off_by_at_most_one_in_1024(names):
    deltas = [named(KINDS[name](), name) for name in names]
    prepared = Prepared()
    ordered = torch.cat([tau(delta).abs() for delta in deltas]).sort().values
    for kept in _all_ranks(len(ordered)):
        exact = ordered[len(ordered) - kept].item()
        threshold = prepared.threshold_over(deltas, kept)
        low, high = min(threshold, exact), max(threshold, exact)
        between = torch.searchsorted(ordered, torch.tensor([low, high])).diff().item()
        assert between <= len(ordered) / 1024


def test_a_count_just_above_a_heavy_tie_does_not_take_in_the_tie():
    """Elements between the steps of many tables once hid that the wanted ones lie above the tie."""
    generator = torch.Generator().manual_seed(0)
    above = [1.0 + torch.rand(30_000, generator=generator) for _ in range(8)]
    deltas = [
        named(Delta(torch.cat((part, torch.ones(50_000)))), str(i)) for i, part in enumerate(above)
    ]
    kept = sum(int((part > 1).sum()) for part in above)
    prepared = Prepared()
    for fewer in range(60):
        assert EXACT.threshold_over(deltas, kept - fewer) > 1
        assert prepared.threshold_over(deltas, kept - fewer) > 1
    assert prepared.threshold_over(deltas, kept + 1) == 1


def test_the_few_largest_are_not_lost_behind_a_heavy_tie_of_another_tensor():
    few = torch.rand(LARGE, generator=torch.Generator().manual_seed(0)) * 0.9
    few[:3] = torch.tensor([1.7, 1.6, 1.5])
    deltas = [named(Delta(few), "few"), named(Delta(torch.ones(LARGE)), "tie")]
    found = [Prepared().threshold_over(deltas, kept) for kept in (1, 2, 3, 4)]
    assert found == [EXACT.threshold_over(deltas, kept) for kept in (1, 2, 3, 4)]
    assert found[2:] == [1.5, 1.0]


def test_norms(delta):
    prepared, magnitudes = Prepared(), tau(delta).abs()
    assert prepared.l1(delta) == pytest.approx(EXACT.l1(delta), rel=1e-9)
    assert prepared.l1_above(delta, -1.0, inf) == pytest.approx(EXACT.l1(delta), rel=1e-9)
    for kept in ranks(delta.count):
        threshold = prepared.threshold(delta, kept)
        low = float(np.nextafter(np.float32(threshold), np.float32(-inf)))
        for bounds in ((low, inf), (-1.0, low)):
            expected = EXACT.l1_above(delta, *bounds)
            rounding = 1e-9 * EXACT.l1(delta)
            assert prepared.l1_above(delta, *bounds) == pytest.approx(expected, 1e-9, abs=rounding)
    low, high = (magnitudes.quantile(q).item() for q in (0.31, 0.87))
    # Between steps: up to 1/2048 of the elements, of that size, at either end.
    slack = 1e-9 * EXACT.l1(delta) + (delta.count / STEPS + 1) * (low + high)
    slack = slack if delta.count > EXACT_UP_TO else 1e-9 * EXACT.l1(delta)
    assert abs(prepared.l1_above(delta, low, high) - EXACT.l1_above(delta, low, high)) <= slack


@pytest.mark.parametrize("limit", [0, 2**14, 2**22 + 4321, 2**23, 2**24 - 1, 2**24])
def test_norm_under_a_random_mask(delta, limit):
    expected, whole = EXACT.l1_random(delta, (7, 9), limit), EXACT.l1(delta)
    found = Prepared().l1_random(delta, (7, 9), limit)
    on_a_step = delta.count <= EXACT_UP_TO or limit % 2**14 == 0
    # Within a bin of the random numbers: elements come one by one, sums evenly.
    largest = tau(delta).abs().max().item()
    inside = 6 * largest * (1 + (delta.count / 1024) ** 0.5)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * whole + (not on_a_step) * inside)


def test_norm_under_a_random_mask_of_a_real_tensor_is_close():
    delta = named(KINDS["bfloat16"](), "x")
    for limit in range(2**20, 2**24, 1_234_567):
        expected = EXACT.l1_random(delta, (7, 9), limit)
        assert Prepared().l1_random(delta, (7, 9), limit) == pytest.approx(expected, rel=2e-3)


def test_inner_products(deltas):
    prepared = Prepared()
    assert np.array_equal(prepared.gram(deltas), EXACT.gram(deltas))
    turned = prepared.gram(deltas[::-1])
    assert np.array_equal(turned, EXACT.gram(deltas)[::-1, ::-1])


def test_an_inner_product_is_computed_once():
    first, second, third = (named(d, str(i)) for i, d in enumerate(FAMILIES["three float32"]()))
    prepared = Prepared()
    pair = prepared.gram([first, second])
    first.theta = second.theta = torch.zeros(LARGE)  # would be seen
    assert np.array_equal(prepared.gram([second, first]), pair[::-1, ::-1])
    assert np.array_equal(prepared.gram([first, second, third])[:2, :2], pair)


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.05, 0.31, 0.5, 0.999, 1.0])
def test_variance_thresholds_and_energies(deltas, share):
    prepared, count = Prepared(), deltas[0].count
    spread = variance([tau(delta) for delta in deltas])
    threshold, exact = (s.variance_threshold(deltas, share) for s in (prepared, EXACT))
    slack = count // STEPS if count > EXACT_UP_TO else 0
    surplus = int(((spread >= threshold) & (spread < exact)).sum())
    assert threshold <= exact
    assert surplus <= slack
    expected = EXACT.energies(deltas, threshold)
    assert prepared.energies(deltas, threshold) == pytest.approx(expected, rel=1e-9)


def test_energies_of_everything(deltas):
    expected = [tau(delta).double().square().mean().item() for delta in deltas]
    assert Prepared().energies(deltas, 0.0) == pytest.approx(expected, rel=1e-9)


def test_deltas_without_a_key_are_not_remembered():
    prepared = Prepared()
    for make in (KINDS["float32"], KINDS["bfloat16"]):
        delta = make()
        assert prepared.threshold(delta, 500) == EXACT.threshold(delta, 500)
        assert prepared.threshold_over([delta], 500) == EXACT.threshold(delta, 500)
        assert prepared.l1_random(delta, (1, 2), 999_999) == EXACT.l1_random(delta, (1, 2), 999_999)


def test_any_number_of_threads_may_ask():
    deltas = [named(make(), name) for name, make in KINDS.items()] * 4
    prepared = Prepared()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda d: prepared.threshold(d, 1 + d.count // 3), deltas))
    assert found == [Prepared().threshold(d, 1 + d.count // 3) for d in deltas]
