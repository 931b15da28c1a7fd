"""The battery that every declared merge rule passes. A rule added by one line meets all of it.

What a rule can promise is read off its declaration. Exemptions go by choices of stages, each with
its reason, never by the rule's name.
"""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.pipeline import IMPLEMENTED, merge_tensor
from search_spaces.composition import from_base_to_source
from search_spaces.recipe import TensorPlan
from search_spaces.rules import PARAMETERS, RULES, Rule
from search_spaces.stages import INPUTS, STAGES
from tests.merge.plans import Value, plan_of

RANDOM = frozenset(("random", "della"))
"""Choices of sparsify whose masks are drawn, keyed by the source's position."""

ORDERED = RANDOM | {"n_of_m"}
"""Where the order of the sources matters: their masks differ, or the first choose first."""

NO_FIXED_POINT: Mapping[str, str] = {
    "importance": "keeps outliers only, and has no parameter that keeps all",
    "iso_c": "makes the singular values equal",
    "pcb": "drops the element of lowest score in any case",
}
"""Choice -> why sources that are equal to each other do not come out as they are."""

NEUTRAL: Mapping[str, Value] = {
    "density": 1.0,
    "eta": 1.0,
    "rank": 1.0,
    "select_topk": 1.0,
    "k": 1.0,
    "t": 1.0,
    "lambda": 1.0,
    "alpha": 1.0,
    "beta": 0.0,
}
"""Values at which a stage lets everything through."""

SHAPES = [(7,), (1,), (1, 1), (9, 1), (1, 9), (6, 5), (3, 4, 5)]
EMPTY = [(0,), (0, 4), (4, 0)]
BASED = [name for name, rule in RULES.items() if rule.reference == "base"]

rules = pytest.mark.parametrize("method", RULES)


def count_of(method: str, wanted: int = 3) -> int:
    """As many sources as `method` takes, `wanted` at best."""
    least, most = RULES[method].sources
    return max(least, min(wanted, wanted if most is None else most))


def tensors(method: str, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """A base, and sources near it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [
        base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count_of(method))
    ]


def plan_for(method: str, density: float = 0.6, **numbers: Value) -> TensorPlan:
    """A plan with weights and densities that differ."""
    rule, count = RULES[method], count_of(method)
    weights = [1.0] if "scale" in rule.parameters else [0.5, 0.3, 0.9]
    densities = [density, density**2, density**0.5]
    if rule.sparsify == "della":
        densities, room = [density] * 3, 0.9 * min(density, 1 - density)
        numbers = {"epsilon": min(0.15, room)} | numbers
    return plan_of(method, weights[:count], densities[:count], **numbers)


def neutral(method: str, weights: list[float] | None = None, **numbers: Value) -> TensorPlan:
    """A plan whose stages let everything through."""
    rule = RULES[method]
    passing = {name: value for name, value in NEUTRAL.items() if name in rule.parameters}
    if rule.sparsify == "above":
        passing["epsilon"] = 0.0
    return plan_of(method, weights or [1.0] * count_of(method), **(passing | numbers))


def merged(plan: TensorPlan, base: Tensor, sources: list[Tensor], **options) -> Tensor:
    return merge_tensor(plan, base if plan.base else None, sources, **options)


def choices(rule: Rule) -> set[str]:
    return {rule.choice(stage) for stage in STAGES}


def test_every_declared_stage_is_implemented_and_no_other():
    declared = {stage: set(choices) for stage, choices in STAGES.items()}
    assert {stage: set(done) for stage, done in IMPLEMENTED.items()} == declared


@rules
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 1.0), t=st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_nothing_changes_what_is_equal_to_the_base(
    method: str, seed: int, density: float, t: float
):
    base, sources = tensors(method, (6, 5), seed)
    same = [base.clone() for _ in sources]
    plan = plan_for(method, density, **({"t": t} if "t" in RULES[method].parameters else {}))
    result = merged(plan, base, same)
    if method in BASED:
        assert torch.equal(result, base), "a delta of zero changes no bit"
    else:
        torch.testing.assert_close(result, base, rtol=1e-6, atol=2e-7)
    low = base.bfloat16()
    assert torch.equal(merged(plan, low, [low] * len(same), dtype=torch.bfloat16), low)


@rules
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_sources_that_are_equal_give_that_source(method: str, seed: int):
    """Also where it is not the base; weights of a plain sum must then add up to 1."""
    rule = RULES[method]
    if choices(rule) & NO_FIXED_POINT.keys():
        return
    base, sources = tensors(method, (6, 5), seed)
    summed = rule.combine == "sum" and "weight" in rule.parameters
    weights = [1 / len(sources) if summed else 1.0] * len(sources)
    result = merged(neutral(method, weights), base, [sources[0]] * len(sources))
    torch.testing.assert_close(result, sources[0], rtol=2e-6, atol=2e-7)


@rules
def test_one_hot_weights_give_that_source(method: str):
    rule = RULES[method]
    if "weight" not in rule.parameters or choices(rule) & NO_FIXED_POINT.keys():
        return
    base, sources = tensors(method, (6, 5))
    for hot, source in enumerate(sources):
        weights = [float(i == hot) for i in range(len(sources))]
        result = merged(neutral(method, weights), base, sources)
        if rule.combine in ("sum", "mean", "largest") and rule.reference != "mean":
            exact = source if rule.reference == "none" else base + (source - base)
            assert torch.equal(result, exact)
        else:
            torch.testing.assert_close(result, source, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(("t", "end"), [(0.0, 0), (1.0, 1)])
def test_ends_of_an_interpolation(t: float, end: int):
    for method, rule in RULES.items():
        if rule.combine == "slerp":
            base, sources = tensors(method, (6, 5))
            result = merged(plan_of(method, [1.0], t=t), base, sources)
            torch.testing.assert_close(result, [base, sources[0]][end], rtol=1e-6, atol=1e-7)


@rules
@pytest.mark.parametrize("norm", ["l1", "inverse"])
def test_a_stage_that_lets_everything_through_is_no_stage(method: str, norm: str):
    rule = RULES[method]
    if rule.sparsify == "importance":
        return
    base, sources = tensors(method, (6, 5))
    switched = {"rescale": True, "rescale_norm": norm} if "rescale" in rule.parameters else {}
    plan = neutral(method, [0.5, 0.3, 0.9][: len(sources)], **switched)
    plain = plan.rule.with_stages(sparsify="none", rescale="none", spectral="none")
    without = merged(replace(plan, rule=plain), base, sources)
    assert torch.equal(merged(plan, base, sources), without)


@rules
@pytest.mark.parametrize("share", ["density", "select_topk"])
def test_a_share_of_nothing_gives_the_base(method: str, share: str):
    rule = RULES[method]
    if share not in rule.parameters or rule.combine not in ("sum", "mean", "energy"):
        return
    if rule.sparsify == "none":
        return
    base, sources = tensors(method, (6, 5))
    for rescale in (True, False):
        for norm in ("l1", "inverse"):
            switched = {"rescale": rescale, "rescale_norm": norm, share: 0.0}
            numbers = {k: v for k, v in switched.items() if k in rule.parameters}
            plan = plan_of(method, [1.0] * len(sources), **numbers)
            assert torch.equal(merged(plan, base, sources), base)


@rules
def test_lambda_scales_the_merged_delta(method: str):
    if "lambda" not in RULES[method].parameters:
        return
    base, sources = tensors(method, (6, 5))
    zero = torch.zeros_like(base)
    plans = {scale: plan_for(method, **{"lambda": scale}) for scale in (0.0, 1.0, -2.0)}
    moved = [source - base for source in sources]
    if RULES[method].reference == "base":
        assert torch.equal(merged(plans[0.0], base, sources), base)
        once, scaled = (merged(plans[scale], zero, moved) for scale in (1.0, -2.0))
        assert torch.equal(scaled, -2 * once)
    else:
        once, scaled, none = (merged(plans[scale], base, sources) for scale in (1.0, -2.0, 0.0))
        torch.testing.assert_close(scaled - none, -2 * (once - none), rtol=1e-5, atol=1e-6)


@rules
@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_sources_does_not_matter(method: str, seed: int, order: list[int]):
    """Where it does (`ORDERED`), it does not once everything is kept."""
    rule = RULES[method]
    base, sources = tensors(method, (6, 5), seed)
    order = [i for i in order if i < len(sources)]
    weights = [0.5, 0.3, 0.9][: len(sources)]
    plan = neutral(method, weights) if rule.sparsify in ORDERED else plan_for(method)
    turned = replace(plan, inputs=tuple(plan.inputs[i] for i in order))
    straight = merged(plan, base, sources)
    shuffled = merged(turned, base, [sources[i] for i in order])
    torch.testing.assert_close(straight, shuffled, rtol=1e-5, atol=1e-6)


@rules
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 1e-42, 1e-30, 1e-8, 1.0, 1e8, 1e20, 1e30]),
    weight=st.floats(0.01, 1.2),
    density=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.001, 1)),
    shape=st.sampled_from(SHAPES),
)
@settings(max_examples=25, deadline=None)
def test_finite_in_finite_out(
    method: str, seed: int, scale: float, weight: float, density: float, shape: tuple[int, ...]
):
    base, sources = tensors(method, shape, seed)
    plan = plan_for(method, density, **({"weight": weight} if scale != 1 else {}))
    result = merged(plan, scale * base, [scale * source for source in sources])
    assert bool(result.isfinite().all())
    assert result.shape == shape


@rules
@pytest.mark.parametrize("shape", [*SHAPES, *EMPTY])
def test_shapes_are_kept(method: str, shape: tuple[int, ...]):
    base, sources = tensors(method, shape)
    result = merged(plan_for(method), base, sources)
    assert result.shape == shape
    assert bool(result.isfinite().all())


@rules
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_storage_dtype_is_rounded_to_once(method: str, dtype: torch.dtype):
    """float32 arithmetic over 16-bit storage, then one rounding: not 16-bit arithmetic."""
    base, sources = tensors(method, (40, 33))
    base, sources = base.to(dtype), [source.to(dtype) for source in sources]
    exact = merged(plan_for(method), base.float(), [source.float() for source in sources])
    result = merged(plan_for(method), base, sources, dtype=dtype)
    assert result.dtype == dtype
    assert torch.equal(result, exact.to(dtype))


@rules
def test_same_seed_same_bytes_and_sources_untouched(method: str):
    base, sources = tensors(method, (40, 33))
    before = [tensor.clone() for tensor in (base, *sources)]
    first = merged(plan_for(method, seed=3), base, sources)
    assert torch.equal(first, merged(plan_for(method, seed=3), base, sources))
    assert all(torch.equal(a, b) for a, b in zip(before, (base, *sources), strict=True))
    other = merged(plan_for(method, seed=4), base, sources)
    assert torch.equal(first, other) is not (RULES[method].sparsify in RANDOM)


@rules
def test_memory_layout_does_not_matter(method: str):
    """Sources may be views: parts of a mapped file, transposed embeddings."""
    base, sources = tensors(method, (10, 7))
    plan = plan_for(method)
    turned = [tensor.T.contiguous().T for tensor in (base, *sources)]
    assert not turned[0].is_contiguous()
    assert torch.equal(merged(plan, turned[0], turned[1:]), merged(plan, base, sources))


@rules
def test_declared_numbers_are_what_a_plan_holds(method: str):
    """Every parameter of the rule is in its plans, in its place: the pipeline asks for no other."""
    rule, plan = RULES[method], plan_for(method)
    for name in rule.parameters:
        places = [i.parameters for i in plan.inputs]
        if not PARAMETERS[name].per_source:
            places = [] if name in STAGES else [plan.parameters]
        assert all(name in place for place in places), name
    least, most = INPUTS.get(rule.combine, (1, None))
    count = len(plan.inputs) + from_base_to_source(rule, plan.base is not None, len(plan.inputs))
    assert least <= count <= (most or count)
