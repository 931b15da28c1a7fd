"""One output tensor: reference -> sparsify -> rescale -> consensus -> combine -> scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.merge import stages
from evomerge.merge.deltas import Delta, DeltaKey, MagnitudeTables, chunks
from search_spaces.errors import InputError
from search_spaces.recipe import Scalar, TensorInput, TensorPlan


def merge_tensor(
    plan: TensorPlan,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    tables: MagnitudeTables | None = None,
) -> torch.Tensor:
    """The merged tensor, of the inputs' shape.

    With reference r, inputs theta_i, weights w_i and scale lambda:

        tau_i  = theta_i - r                      reference
        tau_i <- f_i * mask_i * tau_i             sparsify (mask), rescale (f)
        agree  = consensus(w_1 tau_1, ...)        consensus
        result = r + lambda * combine(w_i tau_i over agree)

    Args:
        plan: the rule and its numbers for this tensor.
        base: the base's tensor where `plan.base` names one, any floating dtype.
        inputs: one tensor per `plan.inputs`, all of one shape, any floating dtype.
        dtype: of the result; float32 arithmetic is rounded to it once.
        tables: remembers magnitudes across candidates; without it they are found anew.

    Raises:
        InputError: normalised weights that sum to zero.
    """
    rule = plan.rule
    check_weights(plan)
    if rule.combine == "slerp":
        assert base is not None
        inputs = [base, *inputs]
    deltas = _deltas(plan, base, inputs)
    sparses, factors, weights = _sparsify(plan, deltas, inputs, tables or MagnitudeTables())
    consensus = stages.CONSENSUS[rule.consensus]
    combine = stages.COMBINE[_choice(plan, "normalize", "mean", "sum", rule.combine)]
    reference = base.reshape(-1) if base is not None and rule.reference == "base" else None
    scale = _number(plan.parameters.get("lambda", 1.0))

    result = torch.empty(inputs[0].shape, dtype=dtype, device=inputs[0].device)
    flat = result.view(-1)
    for start, stop in chunks(flat.numel()):
        weighted: list[torch.Tensor] = []
        for delta, sparse, factor, weight in zip(deltas, sparses, factors, weights, strict=True):
            tau = delta.chunk(start, stop)
            kept = tau if sparse is None else sparse(tau, start)
            weighted.append(kept * (weight * factor))
        merged = combine(weighted, weights, consensus(weighted))
        if scale != 1.0:
            merged *= scale
        if reference is not None:
            merged += reference[start:stop]
        flat[start:stop] = merged
    return result


def check_weights(plan: TensorPlan) -> None:
    """Refuse a plain weighted mean whose weights sum to zero.

    Raises:
        InputError: they do.
    """
    if plan.rule.reference != "none" or not plan.parameters.get("normalize", False):
        return
    if abs(sum(_number(i.parameters["weight"]) for i in plan.inputs)) < 1e-8:
        raise InputError(
            "weights that sum to zero",
            f"method '{plan.rule.name}' divides by their sum",
            f"tensor {plan.tensor}",
            "change the weights, or set normalize: false",
        )


def _deltas(
    plan: TensorPlan, base: torch.Tensor | None, inputs: Sequence[torch.Tensor]
) -> list[Delta]:
    reference = stages.REFERENCE[plan.rule.reference]
    sources = plan.inputs if plan.rule.combine != "slerp" else [plan.base, *plan.inputs]
    return [
        Delta(theta, base, reference, (plan.seed, i, plan.tensor), _key(plan.base, source))
        for i, (theta, source) in enumerate(zip(inputs, sources, strict=True))
    ]


def _key(base: TensorInput | None, source: TensorInput | None) -> DeltaKey:
    return tuple(name for i in (base, source) if i is not None for name in (i.source, i.tensor))


def _sparsify(
    plan: TensorPlan,
    deltas: Sequence[Delta],
    inputs: Sequence[torch.Tensor],
    tables: MagnitudeTables,
) -> tuple[list[stages.Sparse | None], list[float], list[float]]:
    """Per input: what sparsification does, the factor of rescaling, the weight."""
    if plan.rule.combine == "slerp":
        first, second = inputs
        weights = stages.slerp_weights(first, second, _number(plan.parameters["t"]))
        return [None, None], [1.0, 1.0], list(weights)
    sparsify = stages.SPARSIFY[plan.rule.sparsify]
    norm = str(plan.parameters.get("rescale_norm", plan.rule.rescale))
    rescale = stages.RESCALE[_choice(plan, "rescale", norm, "none", plan.rule.rescale)]
    densities = [_number(i.parameters.get("density", 1.0)) for i in plan.inputs]
    sparses = [sparsify(d, p, tables) for d, p in zip(deltas, densities, strict=True)]
    factors = [rescale(d, s, p) for d, s, p in zip(deltas, sparses, densities, strict=True)]
    return sparses, factors, [_number(i.parameters["weight"]) for i in plan.inputs]


def _choice(plan: TensorPlan, switch: str, on: str, off: str, otherwise: str) -> str:
    """The stage's choice: by the recipe's switch, or the rule's own where it has no such switch."""
    value = plan.parameters.get(switch)
    return otherwise if value is None else on if value else off


def _number(value: Scalar) -> float:
    assert not isinstance(value, str)
    return float(value)
