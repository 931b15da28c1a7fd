"""The battery every declared merge rule passes, and the limit cases in which rules coincide."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merge import deltas, stages
from evomerge.merge.deltas import MagnitudeTables
from evomerge.merge.pipeline import merge_tensor
from evomerge.merge.random_masks import keep_mask, mask_key
from search_spaces.errors import InputError
from search_spaces.recipe import TensorPlan
from search_spaces.rules import RULES, STAGES
from tests.merge.plans import plan_of

DELTA_RULES = [name for name, rule in RULES.items() if rule.reference == "base"]
SPARSE_RULES = [name for name in DELTA_RULES if RULES[name].sparsify != "none"]
EXEMPT_FROM_ORDER = [name for name, rule in RULES.items() if rule.sparsify == "random"]
"""Their masks are keyed by the input's position, which changes with the order."""

SHAPES = [(7,), (1,), (5, 9), (3, 4, 5)]


def inputs_of(method: str, shape: tuple[int, ...], seed: int = 0, experts: int = 3):
    """A base and as many experts as the rule takes, base plus noise."""
    count = 1 if RULES[method].combine == "slerp" else experts
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]


def merged(plan: TensorPlan, base: torch.Tensor, experts: list[torch.Tensor], **options):
    return merge_tensor(plan, base if plan.base else None, experts, **options)


def weights_of(experts: list[torch.Tensor]) -> list[float]:
    return [0.5, 0.3, 0.9, 0.2][: len(experts)]


def test_every_declared_stage_is_implemented_and_no_other():
    declared = {stage: set(choices) for stage, choices in STAGES.items()}
    assert {stage: set(done) for stage, done in stages.IMPLEMENTED.items()} == declared


@pytest.mark.parametrize("method", RULES)
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 1.0), t=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_equal_sources_give_the_source(method: str, seed: int, density: float, t: float):
    base, experts = inputs_of(method, (6, 5), seed)
    same = [base.clone() for _ in experts]
    shared = {"t": t} if "t" in RULES[method].parameters else {}
    plan = plan_of(method, weights_of(same), [density] * len(same), **shared)
    result = merged(plan, base, same)
    if method in DELTA_RULES:
        assert torch.equal(result, base), "a delta of zero changes no bit"
    else:
        torch.testing.assert_close(result, base, rtol=3e-7, atol=0)
    low = base.bfloat16()
    assert torch.equal(merged(plan, low, [low] * len(same), dtype=torch.bfloat16), low)


@pytest.mark.parametrize("method", RULES)
def test_one_hot_weights_give_that_source(method: str):
    base, experts = inputs_of(method, (6, 5))
    if RULES[method].combine == "slerp":
        assert torch.equal(merged(plan_of(method, [1.0], t=0.0), base, experts), base)
        result, expected = merged(plan_of(method, [1.0], t=1.0), base, experts), experts[0]
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-7)
        return
    for hot in range(len(experts)):
        weights = [float(i == hot) for i in range(len(experts))]
        result = merged(plan_of(method, weights), base, experts)
        if method in DELTA_RULES:
            assert torch.equal(result, base + (experts[hot] - base))
        else:
            assert torch.equal(result, experts[hot])


@pytest.mark.parametrize("method", SPARSE_RULES)
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("norm", ["l1", "inverse"])
def test_density_one_is_no_sparsification(method: str, rescale: bool, norm: str):
    base, experts = inputs_of(method, (6, 5))
    weights = weights_of(experts)
    sparse = merged(plan_of(method, weights, rescale=rescale, rescale_norm=norm), base, experts)
    if RULES[method].consensus == "none":
        dense = merged(plan_of("task_arithmetic", weights), base, experts)
    else:
        dense = merged(plan_of(method, weights, rescale=False), base, experts)
    assert torch.equal(sparse, dense)


@pytest.mark.parametrize("method", SPARSE_RULES)
def test_density_zero_gives_the_base(method: str):
    base, experts = inputs_of(method, (6, 5))
    for rescale in (True, False):
        for norm in ("l1", "inverse"):
            plan = plan_of(method, [1.0] * 3, [0.0] * 3, rescale=rescale, rescale_norm=norm)
            assert torch.equal(merged(plan, base, experts), base)


@pytest.mark.parametrize("method", [name for name in RULES if name not in EXEMPT_FROM_ORDER])
@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)))
@settings(max_examples=20, deadline=None)
def test_order_of_sources_does_not_matter(method: str, seed: int, order: list[int]):
    base, experts = inputs_of(method, (6, 5), seed)
    order = [i for i in order if i < len(experts)]
    weights = weights_of(experts)
    densities = [0.9, 0.4, 0.6][: len(experts)]
    straight = merged(plan_of(method, weights, densities), base, experts)
    turned = plan_of(method, [weights[i] for i in order], [densities[i] for i in order])
    shuffled = merged(turned, base, [experts[i] for i in order])
    torch.testing.assert_close(straight, shuffled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", RULES)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 1e-30, 1e-8, 1.0, 1e8]),
    weight=st.floats(0.01, 1.2),
    density=st.floats(0, 1),
    shape=st.sampled_from(SHAPES),
)
@settings(max_examples=40, deadline=None)
def test_finite_in_finite_out(
    method: str, seed: int, scale: float, weight: float, density: float, shape: tuple[int, ...]
):
    base, experts = inputs_of(method, shape, seed)
    scaled = [scale * expert for expert in experts]
    plan = plan_of(method, [weight] * len(experts), [density] * len(experts))
    result = merged(plan, scale * base, scaled)
    assert bool(result.isfinite().all())
    assert result.shape == shape


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_storage_dtype_is_rounded_to_once(method: str, dtype: torch.dtype):
    """float32 arithmetic over 16-bit storage, then one rounding: not 16-bit arithmetic."""
    base, experts = inputs_of(method, (40, 33))
    base, experts = base.to(dtype), [expert.to(dtype) for expert in experts]
    plan = plan_of(method, weights_of(experts), [0.7] * len(experts))
    exact = merged(plan, base.float(), [expert.float() for expert in experts])
    result = merged(plan, base, experts, dtype=dtype)
    assert result.dtype == dtype
    assert torch.equal(result, exact.to(dtype))


@pytest.mark.parametrize("method", RULES)
def test_same_seed_same_bytes_and_sources_untouched(method: str):
    base, experts = inputs_of(method, (40, 33))
    before = [tensor.clone() for tensor in (base, *experts)]
    plan = plan_of(method, weights_of(experts), [0.5] * len(experts), seed=3)
    first, second = merged(plan, base, experts), merged(plan, base, experts)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, (base, *experts), strict=True))
    other = plan_of(method, weights_of(experts), [0.5] * len(experts), seed=4)
    uses_seed = RULES[method].sparsify == "random"
    assert torch.equal(first, merged(other, base, experts)) is not uses_seed


@pytest.mark.parametrize("method", RULES)
def test_chunks_do_not_matter(method: str, monkeypatch: pytest.MonkeyPatch):
    """What is merged element by element, and what is found over the whole tensor, agree."""
    base, experts = inputs_of(method, (50, 41))
    plan = plan_of(method, weights_of(experts), [0.4] * len(experts), rescale=True)
    whole = merged(plan, base, experts)
    monkeypatch.setattr(deltas, "CHUNK", 128)
    assert torch.equal(merged(plan, base, experts), whole)


@pytest.mark.parametrize("method", RULES)
def test_single_element_and_empty_tensors(method: str):
    for shape in ((1,), (1, 1), (0,), (0, 4)):
        base, experts = inputs_of(method, shape)
        plan = plan_of(method, weights_of(experts), [0.5] * len(experts))
        assert merged(plan, base, experts).shape == shape


def test_weights_that_cancel_are_refused():
    base, experts = inputs_of("linear", (3,), experts=2)
    with pytest.raises(InputError, match=r"weights that sum to zero.*normalize: false"):
        merged(plan_of("linear", [0.5, -0.5]), base, experts)
    plain = merged(plan_of("linear", [0.5, -0.5], normalize=False), base, experts)
    assert torch.equal(plain, 0.5 * experts[0] + -0.5 * experts[1])


# --- hand-worked 2 x 2 ------------------------------------------------------------------------

BASE = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
FIRST = BASE + torch.tensor([[4.0, -1.0], [2.0, 0.5]])
SECOND = BASE + torch.tensor([[-1.0, -3.0], [4.0, 0.25]])


def test_ties_by_hand():
    """Density 1/2 keeps (4, 2) and (-3, 4); the signs are +, -, +, none; means over who agrees."""
    plan = plan_of("ties", [1.0, 1.0], [0.5, 0.5])
    expected = BASE + torch.tensor([[4.0, -3.0], [3.0, 0.0]])
    assert torch.equal(merge_tensor(plan, BASE, [FIRST, SECOND]), expected)


def test_ties_with_weights_and_lambda_by_hand():
    """Weights 1 and 3: sums 4, -9, 14; means 4/1, -9/3, 14/4; lambda 2 doubles the merged delta."""
    plan = plan_of("ties", [1.0, 3.0], [0.5, 0.5], **{"lambda": 2.0})
    expected = BASE + torch.tensor([[8.0, -6.0], [7.0, 0.0]])
    assert torch.equal(merge_tensor(plan, BASE, [FIRST, SECOND]), expected)
    plan = plan_of("ties", [1.0, 3.0], [0.5, 0.5], normalize=False)
    expected = BASE + torch.tensor([[4.0, -9.0], [14.0, 0.0]])
    assert torch.equal(merge_tensor(plan, BASE, [FIRST, SECOND]), expected)


def test_l1_rescaling_by_hand():
    """(4, -1, 2, 0.5) keeps 4 and 2: the sum of magnitudes 7.5 over 6."""
    plan = plan_of("ties", [1.0], [0.5], rescale=True)
    expected = BASE + torch.tensor([[4.0, 0.0], [2.0, 0.0]]) * 1.25
    assert torch.equal(merge_tensor(plan, BASE, [FIRST]), expected)


def test_the_number_kept_is_rounded_down_but_at_least_one():
    base, expert = torch.zeros(5), torch.tensor([5.0, -4.0, 3.0, 2.0, 1.0])
    for density, kept in (
        (0.59, [5, -4, 0, 0, 0]),
        (0.6, [5, -4, 3, 0, 0]),
        (0.01, [5, 0, 0, 0, 0]),
    ):
        result = merge_tensor(plan_of("ties", [1.0], [density]), base, [expert])
        assert result.tolist() == kept


def test_random_masks_by_hand():
    """rescale_norm inverse: each element is tau / density or 0, as `keep_mask` says per input."""
    base = torch.zeros(200)
    ones = [torch.ones(200), torch.ones(200)]
    plan = plan_of(
        "dare_linear", [1.0, 10.0], [0.5, 0.25], seed=5, tensor="x.weight", rescale_norm="inverse"
    )
    first = keep_mask(mask_key(5, 0, "x.weight"), 0, 200, 0.5)
    second = keep_mask(mask_key(5, 1, "x.weight"), 0, 200, 0.25)
    assert torch.equal(merge_tensor(plan, base, ones), 2 * first + 40 * second)


def test_sign_of_most_by_hand():
    """Two small positives outvote one large negative; a draw counts as positive."""
    weighted = [torch.tensor([1.0, 1.0]), torch.tensor([1.0, -5.0]), torch.tensor([-9.0, 0.0])]
    by_count = stages.sign_of_most(weighted)
    by_sum = stages.sign_of_sum(weighted)
    assert by_count is not None
    assert by_sum is not None
    assert [part.tolist() for part in by_count] == [[1, 1], [1, 0], [0, 0]]
    assert [part.tolist() for part in by_sum] == [[0, 0], [0, 1], [1, 0]]


def test_opposite_deltas_of_equal_weight_cancel_to_positive():
    """A product rounded into a fused sum used to leave +-1 ulp here, so order chose the sign."""
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for weights in ([0.3, 0.3], [0.7, 0.7]):
        plan = plan_of("ties", weights)
        base = torch.zeros(1000)
        result = merge_tensor(plan, base, [delta, -delta])
        torch.testing.assert_close(result, delta.abs())


def test_slerp_by_hand():
    """Between (2, 0) and (0, 2), a third of a right angle: cos 30, sin 30."""
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    result = merge_tensor(plan_of("slerp", [1.0], t=1 / 3), first, [second])
    torch.testing.assert_close(result, torch.tensor([[3.0**0.5, 1.0]]))


@pytest.mark.parametrize(
    ("first", "second"),
    [([0.0, 0.0], [2.0, 4.0]), ([1.0, 2.0], [2.0, 4.0]), ([1.0, 2.0], [-2.0, -4.0])],
    ids=["zero", "parallel", "opposite"],
)
def test_slerp_is_linear_where_no_angle_is_defined(first: list[float], second: list[float]):
    a, b = torch.tensor(first), torch.tensor(second)
    result = merge_tensor(plan_of("slerp", [1.0], t=0.25), a, [b])
    torch.testing.assert_close(result, 0.75 * a + 0.25 * b)


# --- thresholds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True], ids=["sorted", "histogram"])
@given(seed=st.integers(0, 10**6), density=st.floats(0.001, 0.999), coarse=st.booleans())
@settings(max_examples=25, deadline=None)
def test_thresholds_are_exact(large: bool, seed: int, density: float, coarse: bool):
    """Both tables give what a sort gives, ties (coarse values) included, again and again."""
    generator = torch.Generator().manual_seed(seed)
    tau = torch.randn(3000, generator=generator)
    tau = (tau * 4).round() if coarse else tau * 10.0 ** torch.randint(-20, 5, (3000,))
    delta = deltas.Delta(tau, None, stages.no_reference, (0, 0, "x"), ("x",))
    tables = MagnitudeTables()
    kept = max(1, int(density * 3000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deltas, "_SORTED_UP_TO", 0 if large else 10**9)
        for k in (kept, 1, 3000, kept):
            assert tables.threshold(delta, k) == tau.abs().sort().values[-k].item()


def test_ties_between_magnitudes_are_all_kept():
    base = torch.zeros(6)
    expert = torch.tensor([3.0, -1.0, 1.0, 1.0, 0.5, 0.0])
    result = merge_tensor(plan_of("ties", [1.0], [0.34]), base, [expert])  # k = 2
    assert result.tolist() == [3.0, -1.0, 1.0, 1.0, 0.0, 0.0]
