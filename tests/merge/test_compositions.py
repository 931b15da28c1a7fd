"""Random compositions of stages, also such as nobody has published.

Any choice of one stage goes with any choice of the others. What must hold for all of them is tested
for all; what is element-wise is computed again, by whole-tensor torch from the formulas alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.pipeline import merge_tensor
from evomerge.merge.random_masks import keep_mask, mask_key
from search_spaces.composition import check_composed, check_numbers
from search_spaces.errors import InputError
from search_spaces.recipe import TensorPlan
from search_spaces.stages import INPUTS, STAGES
from tests.merge.plans import plan_of

Stages = Mapping[str, str]

SHAPES = [(1,), (31,), (1, 8), (8, 1), (6, 5), (3, 4, 5)]

_RANGES: Mapping[str, st.SearchStrategy[Any]] = {
    "density": st.floats(0.02, 1),
    "gamma": st.floats(0, 0.4),
    "lambda": st.floats(-1, 2),
    "alpha": st.floats(0, 1),
    "beta": st.floats(0, 1.5),
    "t": st.floats(0, 1),
    "select_topk": st.floats(0, 1),
    "eta": st.floats(0, 1),
    "rank": st.floats(0, 1),
    "support": st.floats(0, 2),
    "eps": st.just(1e-8),
    "max_iter": st.sampled_from([1.0, 10.0]),
    "tol": st.just(1e-5),
    "m": st.sampled_from(["32", "64"]),
    "scope": st.sampled_from(["tensor", "model"]),
    "normalize_weights": st.booleans(),
    "nuslerp_flatten": st.booleans(),
    "nuslerp_row_wise": st.booleans(),
    "filter_wise": st.booleans(),
}


@dataclass(frozen=True)
class Composition:
    """A plan with any stages, and what it merges."""

    stages: Stages
    plan: TensorPlan
    base: Tensor
    sources: list[Tensor]

    def merged(self, sources: list[Tensor] | None = None, **options: Any) -> Tensor:
        return merge_tensor(self.plan, self.base, sources or self.sources, **options)


def _stages(draw: Callable[..., Any], fixed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {
        stage: draw(st.sampled_from(sorted(fixed.get(stage, choices))), stage)
        for stage, choices in STAGES.items()
    }


@st.composite
def compositions(draw: Callable[..., Any], **fixed: Sequence[str]) -> Composition:
    """Any composition that a recipe may ask for; `fixed`: the choices of some stages."""
    stages = _stages(lambda strategy, _: draw(strategy), fixed)
    least, most = INPUTS.get(stages["combine"], (1, 4))
    count = draw(st.integers(least, most or 4))
    values = {name: draw(strategy) for name, strategy in _RANGES.items()}
    values["k"] = float(draw(st.integers(1, count)))
    values["epsilon"] = draw(st.floats(0, 0.3))
    densities = [draw(_RANGES["density"]) for _ in range(count)]
    if stages["sparsify"] == "della":
        values["epsilon"] = 0.02
        densities = [0.03 + 0.94 * density for density in densities]
    del values["density"]
    weights = [draw(st.floats(0.05, 1.5)) for _ in range(count)]
    named = {stage: choice for stage, choice in stages.items() if stage != "rescale"}
    rescale = {"rescale": stages["rescale"] != "none"}
    if rescale["rescale"]:
        rescale["rescale_norm"] = stages["rescale"]
    plan = plan_of(
        "task_arithmetic", weights, densities, seed=draw(st.integers(0, 99)),
        depth=draw(st.floats(0, 1)), **values, **rescale, **named,
    )  # fmt: skip
    try:
        check_composed(plan.rule, True, count, "here")
        check_numbers(plan.rule, plan.parameters, [i.parameters for i in plan.inputs], "here")
    except InputError:
        assume(False)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    shape = draw(st.sampled_from(SHAPES))
    base = torch.randn(shape, generator=generator)
    sources = [base + 0.3 * torch.randn(shape, generator=generator) for _ in range(count)]
    return Composition(stages, plan, base, sources)


@given(composition=compositions())
@settings(max_examples=300, deadline=None)
def test_any_composition_runs(composition: Composition):
    """It is finite, deterministic, leaves its sources alone and rounds once."""
    for stage, choice in composition.stages.items():
        event(f"{stage} {choice}")
    assert composition.plan.choices() == composition.stages
    before = [tensor.clone() for tensor in (composition.base, *composition.sources)]
    result = composition.merged()
    assert result.shape == composition.base.shape
    assert bool(result.isfinite().all())
    assert torch.equal(result, composition.merged())
    after = (composition.base, *composition.sources)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(composition.merged(dtype=torch.bfloat16), result.bfloat16())


@given(composition=compositions(reference=["base"]))
@settings(max_examples=150, deadline=None)
def test_sources_equal_to_the_base_change_no_bit(composition: Composition):
    same = [composition.base.clone() for _ in composition.sources]
    assert torch.equal(composition.merged(same), composition.base)


@given(
    composition=compositions(
        reference=["mean"], sparsify=sorted({*STAGES["sparsify"]} - {"importance"})
    )
)
@settings(max_examples=100, deadline=None)
def test_equal_sources_are_their_mean(composition: Composition):
    """Without a base, too: the mean of equal sources is the source, up to its own rounding."""
    exact = composition.sources[0].bfloat16().float()  # so that sums of four are exact
    result = composition.merged([exact.clone() for _ in composition.sources])
    assert torch.equal(result, exact)


@given(composition=compositions(reference=["base", "mean"]))
@settings(max_examples=100, deadline=None)
def test_lambda_zero_gives_the_reference(composition: Composition):
    composition.plan.parameters["lambda"] = 0.0  # pyright: ignore[reportIndexIssue]
    expected = composition.base
    if composition.stages["reference"] == "mean":
        expected = torch.stack(composition.sources).sum(0) / len(composition.sources)
    torch.testing.assert_close(composition.merged(), expected, rtol=1e-6, atol=1e-7)


@given(composition=compositions(combine=["nuslerp", "model_stock"]))
@settings(max_examples=100, deadline=None)
def test_a_vector_is_one_row(composition: Composition):
    """Angles of rows and the angle of the tensor are the same there, whatever the other stages."""
    assume(composition.base.dim() == 1)
    results: list[Tensor] = []
    for by_row in (False, True):
        composition.plan.parameters.update(  # pyright: ignore[reportAttributeAccessIssue]
            {"nuslerp_flatten": not by_row, "nuslerp_row_wise": False, "filter_wise": by_row}
        )
        results.append(composition.merged())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


# --- the same, written again ----------------------------------------------------------------------

ELEMENTWISE: Mapping[str, Sequence[str]] = {
    "sparsify": ("none", "magnitude", "random", "outliers", "variance", "above", "clip"),
    "spectral": ("none",),
    "combine": ("sum", "mean", "survivors", "largest", "energy"),
}


def kept_of(i: int, tau: Tensor, taus: Sequence[Tensor], plan: TensorPlan) -> Tensor:
    """Whether source i keeps each element."""
    own, count = plan.inputs[i].parameters, tau.numel()
    sizes = tau.abs().flatten().sort(descending=True).values
    match plan.rule.sparsify:
        case "magnitude":
            return tau.abs() >= sizes[max(1, int(own["density"] * count)) - 1]
        case "random":
            key = mask_key(plan.seed, i, plan.tensor)
            return keep_mask(key, 0, count, own["density"]).view(tau.shape) > 0
        case "outliers":
            return middle_of(tau.abs(), sizes, own["density"], own["gamma"])
        case "variance":
            return widest(torch.stack([*taus]).double(), float(plan.parameters["select_topk"]))
        case "above":
            return tau.abs() > torch.tensor(own["epsilon"])
    return torch.ones_like(tau, dtype=torch.bool)


def middle_of(magnitudes: Tensor, sizes: Tensor, density: float, gamma: float) -> Tensor:
    count = len(sizes)
    if density == 1:
        return torch.ones_like(magnitudes, dtype=torch.bool)
    kept = int(density * count)
    if kept == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    top = min(int(gamma * count), count - kept)
    inside = magnitudes >= sizes[top + kept - 1]
    return inside & (magnitudes < sizes[top - 1]) if top else inside


def widest(taus: Tensor, share: float) -> Tensor:
    variances = taus.var(0, unbiased=False)
    if share == 1:
        return torch.ones_like(variances, dtype=torch.bool)
    kept = int(share * int((variances > 1e-30).sum()))
    least = variances.flatten().sort(descending=True).values[kept - 1] if kept else torch.inf
    return variances >= least * (1 - 1e-6)  # rounding is not what is tested


def rescaled(tau: Tensor, kept: Tensor, plan: TensorPlan, i: int) -> Tensor:
    sparse = torch.where(kept, tau, 0)
    density = float(plan.inputs[i].parameters["density"])
    match plan.rule.rescale:
        case "inverse" if "density" in STAGES["sparsify"][plan.rule.sparsify]:
            return sparse / density
        case "l1":
            before, after = tau.abs().double().sum(), sparse.abs().double().sum()
            return sparse * float(before / after) if min(before, after) > 1e-7 else sparse
    return sparse


def agreeing(xs: Tensor, plan: TensorPlan) -> Tensor:
    """(sources, ...) weighted taus -> which agree."""
    match plan.rule.consensus:
        case "sum" | "count":
            votes = xs if plan.rule.consensus == "sum" else xs.sign()
            return xs.sign() == torch.where(votes.sum(0) >= 0, 1, -1)
        case "support":
            others = (xs.sum(0) - xs).abs() * float(plan.parameters["support"])
            return ((xs.abs() > others).sum(0) >= plan.parameters["k"]).expand_as(xs)
    return torch.ones_like(xs, dtype=torch.bool)


def combined(xs: Tensor, agree: Tensor, kept: Tensor, shares: Tensor, plan: TensorPlan) -> Tensor:
    weights = torch.tensor([float(i.parameters["weight"]) for i in plan.inputs])
    weights = weights.view(-1, *[1] * (xs.dim() - 1))
    ys = torch.where(agree, xs, 0)
    match plan.rule.combine:
        case "sum":
            return ys.sum(0)
        case "largest":
            return ys.gather(0, ys.abs().max(0, keepdim=True).indices)[0]
        case "survivors":
            divisor = (weights * (agree & kept)).sum(0)
        case "mean":
            divisor = (weights * agree).sum(0)
        case _:
            ys, divisor = ys * shares, (weights * shares * agree).sum(0)
    return ys.sum(0) / torch.where(divisor == 0, 1, divisor)


def by_the_formulas(composition: Composition) -> Tensor:
    plan, thetas = composition.plan, composition.sources
    references = {
        "none": torch.zeros_like(thetas[0]),
        "base": composition.base,
        "mean": torch.stack(thetas).sum(0) / len(thetas),
    }
    reference = references[plan.rule.reference]
    taus = [theta - reference for theta in thetas]
    kept = torch.stack([kept_of(i, tau, taus, plan) for i, tau in enumerate(taus)])
    sparse = torch.stack([rescaled(tau, kept[i], plan, i) for i, tau in enumerate(taus)])
    if plan.rule.sparsify == "clip":
        most = float(plan.parameters["t"])
        sparse = sparse.clamp(-most, most)
    energies = sparse.double().square().flatten(1).mean(1)
    total = energies.sum()
    shares = energies / total if total > 0 else torch.full_like(energies, 1 / len(energies))
    shares = shares.float().view(-1, *[1] * (sparse.dim() - 1))
    weights = torch.tensor([float(i.parameters["weight"]) for i in plan.inputs])
    xs = sparse * weights.view(shares.shape)
    tau = combined(xs, agreeing(xs, plan), kept, shares, plan)
    ramp = float(plan.parameters["alpha"]) + float(plan.parameters["beta"]) * (plan.depth or 0)
    return reference + float(plan.parameters["lambda"]) * ramp * tau


@given(composition=compositions(**ELEMENTWISE))
@settings(max_examples=400, deadline=None)
def test_equals_the_formulas(composition: Composition):
    result = composition.merged()
    torch.testing.assert_close(result, by_the_formulas(composition), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sparsify", STAGES["sparsify"])
@pytest.mark.parametrize("combine", STAGES["combine"])
def test_every_pair_of_choices(sparsify: str, combine: str):
    """None of the pairs is left to chance: sparsify and combine, with consensus and spectral."""
    found: list[Composition] = []

    @given(composition=compositions(reference=["base"], sparsify=[sparsify], combine=[combine]))
    @settings(max_examples=3, deadline=None, database=None)
    def run(composition: Composition) -> None:
        assert bool(composition.merged().isfinite().all())
        found.append(composition)

    run()
    assert found
