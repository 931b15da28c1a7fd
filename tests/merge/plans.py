"""Plans and recipes for tests, made without files."""

from collections.abc import Sequence

from search_spaces.recipe import (
    Input,
    Recipe,
    Setting,
    Slice,
    TensorInput,
    TensorPlan,
    parameters,
)
from search_spaces.rules import PARAMETERS, RULES


def plan_of(
    method: str,
    weights: Sequence[float],
    densities: Sequence[float] | None = None,
    *,
    tensor: str = "model.layers.0.mlp.up_proj.weight",
    seed: int = 0,
    **shared: float | bool | str,
) -> TensorPlan:
    """One tensor's plan; parameters that are not given have the rule's default (t: 0.5)."""
    rule = RULES[method]
    values: dict[str, float | bool | str] = {}
    for name in rule.parameters:
        if not PARAMETERS[name].per_source:
            default = rule.default(name)
            values[name] = 0.5 if default is None else default
    own = [
        {"weight": w, "density": d}
        for w, d in zip(weights, densities or [1.0] * len(weights), strict=True)
    ]
    return TensorPlan(
        tensor,
        rule,
        TensorInput("base", tensor, {}) if rule.needs_base else None,
        tuple(TensorInput(f"expert{i}", tensor, values) for i, values in enumerate(own)),
        values | shared,
        seed,
    )


def recipe_of(
    method: str,
    sources: dict[str, dict[str, float]],
    *,
    seed: int = 0,
    dtype: str | None = None,
    spans: Sequence[tuple[int, int]] | None = None,
    **shared: float | bool | str,
) -> Recipe:
    """A recipe whose parameters are constants; `spans` repeats its inputs over layer ranges."""
    rule = RULES[method]

    def inputs(span: tuple[int, int] | None) -> tuple[Input, ...]:
        return tuple(
            Input(name, span, parameters({k: Setting.constant(v) for k, v in own.items()}))
            for name, own in sources.items()
        )

    return Recipe(
        method=method,
        slices=tuple(Slice(inputs(span)) for span in (spans or [None])),
        base="base" if rule.needs_base else None,
        parameters=parameters({k: Setting.constant(v) for k, v in shared.items()}),
        dtype=dtype,
        seed=seed,
    )
