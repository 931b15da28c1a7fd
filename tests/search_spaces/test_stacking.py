"""Stacks: one recipe per model, whichever way its path was written; merged models in the pool."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    Granularity,
    Input,
    InputError,
    ParameterSpace,
    Recipe,
    Setting,
    Slice,
    dump_recipe,
    from_unit,
    parse_recipe,
)
from search_spaces.settings import Clause, parameters
from search_spaces.stacking import Hop, Pool

LAYERS = 5
OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight")
INSIDE = ("self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight")


def merged_recipe(seed: int = 0, **space: object) -> Recipe:
    """A random point of a parameter space over two experts."""
    options: Mapping[str, object] = {"rule": "ties", "granularity": Granularity(2, ["attn"])}
    made = ParameterSpace(base="base", experts=["a", "b"], layers=LAYERS, **{**options, **space})  # type: ignore[arg-type]
    return made.decode(from_unit(made, np.random.default_rng(seed).random(len(made.variables))))


def names(depth: int) -> list[str]:
    return [f"model.layers.{i}.{inner}" for i in range(depth) for inner in INSIDE]


def described(recipe: Recipe, depth: int) -> list[object]:
    """What each tensor inside the stack is made of."""
    return [
        (plan.rule, plan.base, plan.inputs, dict(plan.parameters))
        for plan in recipe.plans(names(depth), LAYERS)
    ]


def test_hops_that_continue_each_other_become_one_slice() -> None:
    pool = Pool(["a", "b"], LAYERS, {})
    path = [Hop("a", 0), Hop("a", 1), Hop("b", 2, -0.5), Hop("b", 3), Hop("b", 3)]
    recipe = pool.stack(path)
    assert recipe == Recipe(
        "passthrough",
        (
            Slice((Input("a", (0, 2)),)),
            Slice((Input("b", (2, 4)),), input_scale=-0.5),
            Slice((Input("b", (3, 4)),)),
        ),
    )
    assert recipe.depth(LAYERS) == len(path)


def test_a_path_straight_through_a_model_is_that_model() -> None:
    recipe = merged_recipe()
    pool = Pool(["a"], LAYERS, {"merged": recipe})
    assert pool.stack([Hop("merged", i) for i in range(LAYERS)]) == recipe
    assert pool.stack([Hop("a", i) for i in range(LAYERS)]) == Recipe(
        "passthrough", (Slice((Input("a"),)),)
    )


@pytest.mark.parametrize(
    "space",
    [
        {},
        {"granularity": Granularity({"knots": 3}, "all")},
        {"granularity": Granularity("each")},
        {"rule": "lines", "granularity": Granularity(None, ["mlp"])},
        {"rule": ["ties", "dare_ties"], "granularity": Granularity(2, rules=True)},
        {"rule": "linear"},
        {"rule": "slerp", "experts": ["a"]},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_layer_of_a_merged_model_is_that_layer_wherever_it_stands(
    space: dict[str, object], seed: int
) -> None:
    """Gradients, filters, ramps and rules per group included; copied layers stand beside them."""
    if "experts" in space:
        made = ParameterSpace("slerp", "base", ["a"], LAYERS)
        recipe = made.decode(from_unit(made, np.full(len(made.variables), 0.3)))
    else:
        recipe = merged_recipe(seed, **space)
    pool = Pool(["base", "a"], LAYERS, {"merged": recipe})
    order = [3, 0, 0, 4, 1]
    stacked = pool.stack([Hop("a", 2), *(Hop("merged", i) for i in order), Hop("base", 1)])
    depth = len(order) + 2
    straight = described(recipe, LAYERS)
    found = described(stacked, depth)
    kinds = len(INSIDE)
    ramp = {"alpha", "beta"}
    for place, layer in enumerate(order, start=1):
        for kind in range(kinds):
            rule, base, inputs, shared = found[place * kinds + kind]  # type: ignore[misc]
            expected = straight[layer * kinds + kind]
            assert (rule, base, inputs) == expected[:3]  # type: ignore[index]
            wanted = expected[3]  # type: ignore[index]
            if "beta" in wanted:
                scale = wanted["alpha"] + wanted["beta"] * layer / (LAYERS - 1)
                assert shared["alpha"] + shared["beta"] == pytest.approx(scale)
            assert {k: v for k, v in shared.items() if k not in ramp} == {
                k: v for k, v in wanted.items() if k not in ramp
            }
    for place, source in ((0, "a"), (depth - 1, "base")):
        rule, base, inputs, _ = found[place * kinds]  # type: ignore[misc]
        assert (rule.name, base, [i.source for i in inputs]) == ("passthrough", None, [source])


def test_models_of_different_methods_stand_in_one_recipe() -> None:
    pool = Pool([], LAYERS, {"one": merged_recipe(), "two": merged_recipe(rule="task_arithmetic")})
    found = described(pool.stack([Hop("two", 0), Hop("one", 0)]), 2)
    assert [plan[0].name for plan in found[:: len(INSIDE)]] == ["task_arithmetic", "ties"]  # type: ignore[index]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "merged"]),
            st.integers(0, LAYERS - 1),
            st.sampled_from([1.0, 1.0, 0.5, -1.25]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_stack_is_read_back_as_it_was_written(hops: list[tuple[str, int, float]]) -> None:
    pool = Pool(["a", "b"], LAYERS, {"merged": merged_recipe()})
    recipe = pool.stack([Hop(*hop) for hop in hops])
    assert recipe.depth(LAYERS) == len(hops)
    again = parse_recipe(dump_recipe(recipe), "dump")
    assert (again, again.hash) == (recipe, recipe.hash)


def test_scales_tell_recipes_apart_and_one_is_none() -> None:
    pool = Pool(["a"], LAYERS, {})
    plain, scaled = pool.stack([Hop("a", 1)]), pool.stack([Hop("a", 1, 0.5)])
    assert plain.hash != scaled.hash
    assert plain.hash == pool.stack([Hop("a", 1, 1)]).hash


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ([], "an empty path"),
        ([Hop("c", 0)], "model 'c'.*not in the pool"),
        ([Hop("a", 0), Hop("a", LAYERS)], "hop 1.*layer 5 of 'a'.*layers 0 to 4"),
        ([Hop("a", -1)], "layer -1"),
        ([Hop("a", 0, 0.0)], r"input_scale = 0.0.*\[0.01, 4\]"),
        ([Hop("a", 0, float("nan"))], "input_scale = nan"),
        ([Hop("a", 0, 4.5)], "input_scale = 4.5"),
    ],
)
def test_a_path_that_is_none_is_refused(path: list[Hop], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Pool(["a", "b"], LAYERS, {}).stack(path)


def test_a_pool_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="at least one model"):
        Pool([], LAYERS, {})
    with pytest.raises(InputError, match="each name once"):
        Pool(["a"], LAYERS, {"a": merged_recipe()})
    with pytest.raises(InputError, match=r"of 2 layers.*have 5"):
        Pool([], LAYERS, {"m": Pool(["a"], LAYERS, {}).stack([Hop("a", 0), Hop("a", 1)])})
    with pytest.raises(InputError, match="one base, seed and tokenizer"):
        Pool([], LAYERS, {"m": merged_recipe(), "n": replace(merged_recipe(), seed=3)})


def test_a_ramp_by_parts_of_names_cannot_move() -> None:
    weight = Setting.constant(0.5)
    ramp = Setting((Clause((0.5,), "q_proj"), Clause((0.1,))))
    inputs = (Input("a", None, parameters({"weight": weight})),)
    recipe = Recipe("lines", (Slice(inputs, parameters({"beta": ramp})),), base="base")
    with pytest.raises(InputError, match="no component"):
        Pool([], LAYERS, {"m": recipe}).stack([Hop("m", 1)])
