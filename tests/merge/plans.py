"""Plans and recipes for tests, made without files, for every rule."""

from collections.abc import Mapping, Sequence

from search_spaces.composition import compose
from search_spaces.recipe import (
    Input,
    Recipe,
    Setting,
    Slice,
    TensorInput,
    TensorPlan,
    parameters,
)
from search_spaces.rules import OVERRIDES, PARAMETERS, RULES, Rule

Value = float | bool | str


def plan_of(
    method: str,
    weights: Sequence[float],
    densities: Sequence[float] | None = None,
    *,
    tensor: str = "model.layers.0.mlp.up_proj.weight",
    seed: int = 0,
    based: bool | None = None,
    depth: float | None = 0.0,
    **numbers: Value,
) -> TensorPlan:
    """One tensor's plan; parameters that are not given have the rule's default (t: 0.5).

    Args:
        method: the rule; it gets one input per weight.
        weights: of the sources (`passthrough`: their scales).
        densities: of the sources; default 1.
        tensor: its name.
        seed: of the masks.
        based: whether there is a base; default: where the rule needs one.
        depth: of the layer.
        **numbers: any parameters, the same for every source; also those that choose stages.
    """
    rule = RULES[method]
    based = rule.needs_base if based is None else based
    rule = compose(rule, based, numbers)
    values = {name: _value(rule, name, numbers) for name in rule.parameters}
    own = [
        {name: values[name] for name in values if PARAMETERS[name].per_source}
        | {
            name: value
            for name, value in (("weight", w), ("scale", w), ("density", d))
            if name in values and name not in numbers
        }
        for w, d in zip(weights, densities or [1.0] * len(weights), strict=True)
    ]
    return TensorPlan(
        tensor,
        rule,
        TensorInput("base", tensor, {}) if based and rule.takes_base else None,
        tuple(TensorInput(f"expert{i}", tensor, values) for i, values in enumerate(own)),
        {n: v for n, v in values.items() if not PARAMETERS[n].per_source and n not in OVERRIDES},
        seed,
        depth,
    )


def recipe_of(
    method: str,
    sources: Mapping[str, Mapping[str, float]],
    *,
    seed: int = 0,
    dtype: str | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
    based: bool | None = None,
    **shared: Value,
) -> Recipe:
    """A recipe whose parameters are constants.

    Args:
        method: the rule.
        sources: their parameters; what the rule does not have is left out, and so are sources
            beyond those it takes. A weight is the scale of `passthrough`.
        seed: of the masks.
        dtype: of the result.
        spans: layer ranges over which the inputs are repeated.
        based: whether there is a base; default: where the rule needs one.
        **shared: other parameters (t: 0.5 where the rule has it).
    """
    rule = RULES[method]
    based = rule.needs_base if based is None else based
    if "t" in rule.parameters:
        shared = {"t": 0.5} | shared

    def inputs(span: tuple[int, int] | None) -> tuple[Input, ...]:
        return tuple(
            Input(name, span, parameters({k: Setting.constant(v) for k, v in own.items()}))
            for name, own in _owned(rule, sources).items()
        )

    return Recipe(
        method=method,
        slices=tuple(Slice(inputs(span)) for span in (spans or [None])),
        base="base" if based else None,
        parameters=parameters({k: Setting.constant(v) for k, v in shared.items()}),
        dtype=dtype,
        seed=seed,
    )


def _value(rule: Rule, name: str, numbers: Mapping[str, Value]) -> Value:
    default = rule.default(name)
    missing = 0.5 if name == "t" else 1.0
    return numbers.get(name, missing if default is None else default)


def _owned(
    rule: Rule, sources: Mapping[str, Mapping[str, float]]
) -> dict[str, Mapping[str, float]]:
    taken = list(sources.items())[: rule.sources[1]]
    if "scale" in rule.parameters:
        taken = [(name, {"scale": own.get("weight", 1.0)}) for name, own in taken]
    return {
        name: {k: v for k, v in own.items() if k in rule.parameters or k not in _COMMON}
        for name, own in taken
    }


_COMMON = ("weight", "density", "gamma", "epsilon")
