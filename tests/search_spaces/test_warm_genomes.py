"""Genomes of one space said in another: what is the same model stays the same recipe."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Granularity,
    HybridSpace,
    IndicatorSpace,
    InputError,
    ParameterSpace,
    PathSpace,
    TemplateSpace,
    from_unit,
    named,
)
from search_spaces.transfer import Transfer, point_of

SAME = {"base": "base", "a": "a", "b": "b"}
LAYERS = 6
TENSORS = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *(
        f"model.layers.{layer}.{name}.weight"
        for layer in range(LAYERS)
        for name in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
    ),
]


def space(rule="task_arithmetic", experts=("a", "b"), layers=None, components=None, **more):
    rules = more.pop("rules", False)
    return ParameterSpace(
        rule, "base", list(experts), LAYERS,
        granularity=Granularity(layers, components, rules), ranges=more,
    )  # fmt: skip


def drawn(of, seed=0):
    return from_unit(of, np.random.default_rng(seed).random(len(of.variables)))


def numbers(recipe):
    """What the recipe says of each tensor: source -> weight."""
    return [
        {i.source: round(float(i.parameters["weight"]), 12) for i in plan.inputs}
        for plan in recipe.plans(TENSORS, LAYERS)
    ]


GRANULARITIES = [
    (None, None), (2, None), (3, ["attn"]), ("each", None), ({"knots": 3}, ["attn", "mlp"]),
    (None, "all"), ("each", "all"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "components"), GRANULARITIES)
def test_the_same_space_is_the_identity(layers, components):
    both = space(layers=layers, components=components)
    for seed in range(3):
        genome = drawn(both, seed)
        carried = Transfer(both, both, SAME).carried(genome)
        assert carried.genome == genome
        assert not carried.moved


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        ((None, None), (4, None)),
        ((None, None), ({"knots": 4}, ["attn", "mlp"])),
        ((1, None), (None, ["attn", "mlp"])),
        ((2, None), (6, ["attn", "mlp"])),
        ((3, ["attn"]), ("each", "all")),
        (({"knots": 3}, None), ("each", ["mlp"])),
    ],
)
def test_a_coarse_solution_is_the_same_model_in_a_finer_space(coarse, fine):
    """Layer by layer and component by component, embeddings and head included."""
    old, new = (
        space(layers=coarse[0], components=coarse[1]),
        space(layers=fine[0], components=fine[1]),
    )
    genome = drawn(old, 3)
    carried = Transfer(old, new, SAME).carried(genome)
    assert numbers(old.decode(genome)) == numbers(new.decode(carried.genome))
    assert not carried.moved


def test_a_finer_solution_is_averaged_in_a_coarser_space():
    old, new = space(layers=2, weight=[0, 1]), space(weight=[0, 1])
    carried = Transfer(old, new, SAME).carried((0.2, 0.6, 0.0, 1.0))
    # 3 layers each, the embeddings with the lower half, the head with the upper
    assert carried.genome == pytest.approx((0.4, 0.5))


def test_a_new_expert_begins_at_zero_or_small():
    old, new = space(density=[0.2, 1], rule="ties"), space("ties", "abc", density=[0.2, 1])
    genome = drawn(old, 1)
    at_rest = Transfer(old, new, SAME).carried(genome).genome
    before, after = named(old, genome), named(new, at_rest)
    assert {n: v for n, v in after.items() if n in before} == before
    assert after["weight.c"] == 0.0
    assert after["density.c"] == named(new, new.seeds()["uniform"])["density.c"]
    tried = named(new, Transfer(old, new, SAME).carried(genome, 0.1).genome)
    assert tried["weight.c"] == 0.1
    assert {n: v for n, v in tried.items() if n != "weight.c"} == {
        n: v for n, v in after.items() if n != "weight.c"
    }


def test_one_expert_less_and_another_name():
    old, new = space(experts=["a", "b"]), space(experts=["x", "c"])
    carried = Transfer(old, new, {"base": "base", "b": "x"}).carried((0.3, 0.8))
    assert named(new, carried.genome) == {"weight.x": 0.8, "weight.c": 0.0}


def test_two_experts_that_changed_names_are_not_mixed_up():
    both = space()
    carried = Transfer(both, both, {"base": "base", "a": "b", "b": "a"}).carried((0.3, 0.8))
    assert carried.genome == (0.8, 0.3)


def test_numbers_beyond_a_range_are_moved_and_named():
    old, new = space(weight=[0, 2]), space(weight=[0.1, 1])
    carried = Transfer(old, new, SAME).carried((0.5, 1.7))
    assert carried.genome == (0.5, 1.0)
    assert carried.moved == ("weight.b",)


def test_a_parameter_that_became_fixed_is_named():
    old, new = space("ties", density=[0.2, 1]), space("ties", density=0.5)
    genome = drawn(old)
    carried = Transfer(old, new, SAME).carried(genome)
    assert carried.moved == ("density",)
    assert set(named(new, carried.genome).values()) < set(named(old, genome).values())


def test_a_parameter_that_was_fixed_keeps_its_value():
    old, new = space("ties", density=0.5), space("ties", density=[0.2, 1])
    found = named(new, Transfer(old, new, SAME).carried(drawn(old)).genome)
    assert (found["density.a"], found["density.b"]) == (0.5, 0.5)


def test_another_rule_with_the_same_parameters():
    old, new = space("ties"), space("dare_ties")
    genome = drawn(old)
    found = named(new, Transfer(old, new, SAME).carried(genome).genome)
    assert found == named(old, genome) | {
        n: v for n, v in found.items() if n not in named(old, genome)
    }


def test_rules_without_a_common_parameter_are_refused():
    with pytest.raises(
        InputError, match=r"slerp.*no searched parameter in common.*task_arithmetic"
    ):
        Transfer(ParameterSpace("slerp", "base", ["a"], LAYERS), space(experts="a"), SAME)


def test_the_method_is_taken_over_where_it_is_searched_and_else_dropped():
    old, new = space(["ties", "dare_ties"]), space(["dare_ties", "ties", "task_arithmetic"])
    genome = ("dare_ties", *drawn(old)[1:])
    found = named(new, Transfer(old, new, SAME).carried(genome).genome)
    assert found["method"] == "dare_ties"
    only = space("ties")
    assert (
        Transfer(old, only, SAME).carried(genome).reason
        == "method 'dare_ties' is not searched here"
    )
    assert Transfer(old, only, SAME).carried(("ties", *genome[1:])).genome is not None
    assert named(new, Transfer(only, new, SAME).carried(drawn(only)).genome)["method"] == "ties"


def test_a_stage_s_choice_that_is_not_searched_is_dropped_with_its_name():
    old = space("task_arithmetic", consensus=["none", "sum", "count"])
    new = space("task_arithmetic", consensus=["none", "sum"])
    genome = drawn(old)
    there = [v.name for v in old.variables].index("consensus")

    def with_consensus(choice):
        return (*genome[:there], choice, *genome[there + 1 :])

    way = Transfer(old, new, SAME)
    assert way.carried(with_consensus("count")).reason == "consensus 'count' is not searched here"
    assert way.carried(with_consensus("sum")).genome is not None
    fixed = Transfer(old, space("task_arithmetic"), SAME)
    assert fixed.carried(with_consensus("sum")).reason == "consensus 'sum' is not searched here"
    assert fixed.carried(with_consensus("none")).genome is not None


def test_choices_by_group_go_to_finer_groups():
    old = space(["ties", "dare_ties"], layers=2, rules=True)
    new = space(["ties", "dare_ties"], layers=6, rules=True)
    genome = drawn(old, 5)
    said, found = named(old, genome), named(new, Transfer(old, new, SAME).carried(genome).genome)
    assert [found[f"method.layer_{i}"] for i in range(6)] == [said["method.layers_0_2"]] * 3 + [
        said["method.layers_3_5"]
    ] * 3


def test_kinds_do_not_mix():
    with pytest.raises(InputError, match=r"a path space's candidates for a parameter space.*space.kind|"
                                         r"space.kind: a path space's candidates"):  # fmt: skip
        Transfer(PathSpace(["a", "b"], LAYERS, (3, 9)), space(), SAME)


def paths(sources=("a", "b"), depth=(3, 9), **more):
    return PathSpace(list(sources), LAYERS, depth, **more)


def test_a_path_in_a_space_of_other_depths():
    old, new = paths(), paths(depth=(2, 12))
    for genome in old.seeds().values():
        carried = Transfer(old, new, SAME).carried(genome)
        assert new.decode(carried.genome).hash == old.decode(genome).hash
    shallow = paths(depth=(2, 6))
    carried = [Transfer(old, shallow, SAME).carried(g) for g in old.seeds().values()]
    depths = [old.decode(g).depth(LAYERS) for g in old.seeds().values()]
    assert [c.genome is not None for c in carried] == [depth <= 6 for depth in depths]
    assert {c.reason for c in carried if c.genome is None} == {
        "its stack of layers is none of the new space's"
    }


def test_a_path_s_models_by_their_new_names_and_among_more():
    old, new = paths(), paths(["y", "c", "x"])
    genome = old.seeds()["b"]
    carried = Transfer(old, new, {"a": "x", "b": "y"}).carried(genome)
    assert new.decode(carried.genome).hash == new.decode(new.seeds()["y"]).hash


def test_a_path_through_a_model_that_is_gone_is_dropped():
    old, new = paths(), paths(["a", "c"])
    assert Transfer(old, new, {"a": "a"}).carried(old.seeds()["b"]).genome is None
    assert Transfer(old, new, {"a": "a"}).carried(old.seeds()["a"]).genome is not None


def test_a_path_of_one_model_among_two_and_back():
    one, two = paths("a", (6, 6)), paths("ab")
    genome = next(iter(one.seeds().values()))
    there = Transfer(one, two, {"a": "a"}).carried(genome).genome
    assert two.decode(there).hash == one.decode(genome).hash
    assert Transfer(two, one, {"a": "a"}).carried(there).genome == genome
    assert Transfer(two, one, {"a": "a"}).carried(two.seeds()["b"]).genome is None


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(["path", "indicator", "template", "hybrid", "slots"])
)
def test_any_stack_is_itself_in_its_own_space(seed, kind):
    merges = space(experts=["a", "b"])
    both = {
        "path": lambda: paths(input_scale=(0.5, 2.0)),
        "indicator": lambda: IndicatorSpace(["a", "b"], LAYERS, input_scale=(0.5, 2.0)),
        "template": lambda: TemplateSpace(["a", "b"], LAYERS),
        "hybrid": lambda: HybridSpace(merges, (3, 9), 1, 1),
        "slots": lambda: HybridSpace(merges, (3, 9), per_slot=True),
    }[kind]()
    genome = drawn(both, seed)
    carried = Transfer(both, both, SAME).carried(genome)
    assert both.decode(carried.genome).hash == both.decode(genome).hash


def test_a_row_repeated_more_often_and_with_a_model_more():
    old, new = IndicatorSpace(["a", "b"], LAYERS, 1), IndicatorSpace(["b", "a"], LAYERS, 2)
    carried = Transfer(old, new, SAME).carried(old.seeds()["a"])
    assert new.decode(carried.genome).hash == old.decode(old.seeds()["a"]).hash
    gone = Transfer(old, IndicatorSpace(["a", "c"], LAYERS, 1), {"a": "a"})
    assert gone.carried(old.seeds()["b"]).genome is None


def test_a_template_that_is_the_only_one():
    old = TemplateSpace(["a", "b"], LAYERS)
    new = TemplateSpace(["a", "b"], LAYERS, ["up_scaling"])
    found = {n: Transfer(old, new, SAME).carried(g).genome for n, g in old.seeds().items()}
    kept = {name for name, genome in found.items() if genome is not None}
    assert any(name.startswith("up_scaling") for name in kept)
    for name in kept:
        assert new.decode(found[name]).hash == old.decode(old.seeds()[name]).hash
    back = Transfer(new, old, SAME)
    for genome in new.seeds().values():
        assert old.decode(back.carried(genome).genome).hash == new.decode(genome).hash


def test_a_hybrid_s_merge_in_finer_groups_and_with_a_new_expert():
    old = HybridSpace(space(), (3, 9), 1, 1)
    new = HybridSpace(space(experts="abc", layers=3), (3, 9), 1, 1)
    genome = drawn(old, 2)
    carried = Transfer(old, new, SAME).carried(genome)
    said, found = named(old, genome), named(new, carried.genome)
    assert {found[f"weight.a.layers_{i}_{i + 1}"] for i in (0, 2, 4)} == {said["weight.a"]}
    assert {found[f"weight.c.layers_{i}_{i + 1}"] for i in (0, 2, 4)} == {0.0}
    assert found["depth"] == said["depth"]
    with pytest.raises(InputError, match="weights per slot"):
        Transfer(old, HybridSpace(space(), (3, 9), per_slot=True), SAME)


def test_weights_per_slot_of_a_new_expert():
    old = HybridSpace(space(experts="a"), (3, 6), per_slot=True)
    new = HybridSpace(space(experts="ac"), (3, 6), per_slot=True)
    genome = drawn(old, 2)
    found = named(new, Transfer(old, new, SAME).carried(genome, 0.1).genome)
    assert {v for n, v in found.items() if ".weight.c" in n} == {0.1}
    assert {n: v for n, v in found.items() if ".weight.c" not in n} == named(old, genome)


@given(st.floats(0, 1), st.sampled_from([(0, 1.5), (-1, 1), (0.2, 1), (0, 1.2)]))
def test_a_recorded_number_is_met_exactly(u, ends):
    """A last digit that changes on the way through the cube is another recipe, paid for again."""
    one = space(experts="a", weight=list(ends))
    genome = from_unit(one, np.array([u]))
    assert from_unit(one, point_of(one, genome)) == genome


def test_the_point_is_in_the_cube_at_the_ends():
    one = space(experts="a", weight=[0.1, 0.7])
    for value in (0.1, 0.7, math.nextafter(0.7, 0)):
        assert 0 <= point_of(one, (value,))[0] <= 1
