"""The neighbours of a recipe: what is scaled under every rule, and what that does to the weights."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search_spaces.errors import InputError
from search_spaces.neighbours import neighbours
from search_spaces.recipe import Clause, Input, Recipe, Setting, Slice, parameters
from search_spaces.rules import RULES
from search_spaces.stacking import Hop, Pool
from tests.search_spaces.strategies import recipes

FIXED = {"karcher", "model_stock", "arcee_fusion"}
"""Rules without a parameter that says how much is merged."""
TENSORS = [f"model.layers.{i}.{part}.weight" for i in (0, 1) for part in ("mlp.up_proj", "norm")]


def settings(**values):
    return parameters({name.rstrip("_"): Setting.constant(v) for name, v in values.items()})


def weighted(source, weight, layers=None):
    return Input(source, layers, settings(weight=weight))


def values(recipe, name):
    """Parameter `name` of every tensor: the tensor's, or its sources'."""
    found = []
    for plan in recipe.plans(TENSORS, 2):
        if name in plan.parameters:
            found.append(plan.parameters[name])
        else:
            found.append([i.parameters[name] for i in plan.inputs])
    return found


TIES = Recipe("ties", (Slice((weighted("a", 0.4), weighted("b", 0.6))),), base="base")
LINEAR = Recipe("linear", (Slice((weighted("a", 0.4), weighted("b", 0.6))),))


def test_a_merged_delta_becomes_shorter_and_longer():
    less, more = neighbours(TIES, 0.1)
    assert values(less, "lambda") == [pytest.approx(0.9)] * 4
    assert values(more, "lambda") == [pytest.approx(1.1)] * 4
    assert values(less, "weight") == values(TIES, "weight")


def test_every_clause_and_gradient_is_scaled():
    clauses = (Clause((0.5, 1.5), "mlp"), Clause((2.0,), "norm"))
    recipe = Recipe(
        "ties", TIES.slices, base="base", parameters=parameters({"lambda": Setting(clauses)})
    )
    less, more = neighbours(recipe, 0.5)
    assert values(recipe, "lambda") == [0.5, 2.0, 1.5, 2.0]
    assert values(less, "lambda") == [0.25, 1.0, 0.75, 1.0]
    assert values(more, "lambda") == [0.75, 3.0, 2.25, 3.0]
    (only,) = (dict(less.parameters)["lambda"].clauses,)
    # What no clause speaks of had 1.
    assert [c.filter for c in only] == ["mlp", "norm", None]
    assert only[-1].values == (0.5,)


def test_normalised_weights_are_scaled_against_the_first():
    less, more = neighbours(LINEAR, 0.1)
    assert values(less, "weight") == [[0.4, pytest.approx(0.54)]] * 4
    assert values(more, "weight") == [[0.4, pytest.approx(0.66)]] * 4


def test_the_base_is_first_wherever_it_stands():
    inputs = (weighted("a", 0.4), weighted("base", 0.6))
    less, _ = neighbours(Recipe("linear", (Slice(inputs),), base="base"), 0.5)
    assert values(less, "weight") == [[0.2, 0.6]] * 4


def test_a_weight_for_all_sources_becomes_one_for_each():
    recipe = Recipe("linear", (Slice((Input("a"), Input("b"))),), parameters=settings(weight=1.0))
    less, more = neighbours(recipe, 0.25)
    assert values(less, "weight") == [[1.0, 0.75]] * 4
    assert values(more, "weight") == [[1.0, 1.25]] * 4


def test_slerp_stays_between_its_ends():
    recipe = Recipe("slerp", (Slice((Input("a"),)),), base="base", parameters=settings(t=0.98))
    less, more = neighbours(recipe, 0.05)
    assert values(less, "t") == [pytest.approx(0.931)] * 4
    assert values(more, "t") == [1.0] * 4


def test_copied_layers_are_scaled_only_where_the_recipe_does():
    slices = (Slice((Input("a", (0, 1), settings(scale=0.8)),)), Slice((Input("b", (1, 2)),)))
    less, _ = neighbours(Recipe("passthrough", slices), 0.5)
    assert values(less, "scale") == [[0.4], [0.4], [1.0], [1.0]]
    plain = Recipe("passthrough", (Slice((Input("a", (0, 2)),)),))
    with pytest.raises(InputError, match="method 'passthrough': it has no lambda, t or weight"):
        neighbours(plain, 0.05)


def test_a_rule_in_places_is_scaled_as_it_is_there():
    """`nearswap` has t, task arithmetic lambda; each is scaled where it is in force."""
    chosen = Setting((Clause(("nearswap",), "mlp"),))
    recipe = Recipe(
        "wise_ft",
        (Slice((weighted("a", 0.5),)),),
        base="base",
        parameters=parameters(dict(settings(t=0.1)) | {"method": chosen}),
    )
    less, _ = neighbours(recipe, 0.5)
    for plan in less.plans(TENSORS, 2):
        (name,) = {"t", "lambda"} & set(plan.parameters)
        assert (name, plan.parameters[name]) in [("t", 0.05), ("lambda", 0.5)]


def test_without_a_reference_the_sources_are_scaled_against_the_first():
    """lambda would scale the whole model."""
    recipe = Recipe(
        "task_arithmetic", TIES.slices, base="base", parameters=settings(reference="none")
    )
    less, _ = neighbours(recipe, 0.5)
    assert values(less, "lambda") == [1.0] * 4
    assert values(less, "weight") == [[0.4, 0.3]] * 4


def simplest(name):
    rule = RULES[name]
    count = max(rule.sources[0], 2 if rule.sources[1] is None else rule.sources[0])
    given = {p: 0.5 for p in rule.parameters if p in ("t", "scale")}
    per_source = settings(weight=0.5) if "weight" in rule.parameters else ()
    inputs = tuple(Input(f"s{i}", None, per_source) for i in range(count))
    base = "base" if rule.needs_base else None
    return Recipe(name, (Slice(inputs),), base=base, parameters=settings(**given))


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_has_neighbours_or_says_that_it_has_none(name):
    recipe = simplest(name)
    if name in FIXED:
        with pytest.raises(InputError, match=f"method '{name}': .*has no neighbours; use another"):
            neighbours(recipe, 0.05)
        return
    less, more = neighbours(recipe, 0.05)
    assert len({recipe.hash, less.hash, more.hash}) == 3
    assert less.sources == recipe.sources


SLERP = Recipe("slerp", (Slice((Input("a"),)),), base="base", parameters=settings(t=0.3))


@pytest.mark.parametrize(
    ("merged", "name", "less"),
    [(TIES, "lambda", [0.9]), (LINEAR, "weight", [0.36, 0.6]), (SLERP, "t", [0.27])],
    ids=["ties", "linear", "slerp"],
)
def test_of_a_stack_its_merged_layers_are_scaled(merged, name, less):
    """Copied layers have nothing to take less of; input scales are no part of the merge."""
    path = [Hop("b", 0), Hop("m", 1), Hop("m", 2, -0.7), Hop("b", 3, 1.2), Hop("m", 1)]
    stack = Pool(("base", "a", "b"), 4, {"m": merged}).stack(path)
    found, _ = neighbours(stack, 0.1)
    assert [part.input_scale for part in found.slices] == [1, 1, -0.7, 1.2, 1]
    tensors = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(5)]
    before, after = ([*recipe.plans(tensors, 4)] for recipe in (stack, found))
    for number in (0, 3):
        assert after[number] == before[number]
    for number in (1, 2, 4):
        plan = after[number]
        own = [plan.parameters[name]] if name in plan.parameters else None
        assert (own or [i.parameters[name] for i in plan.inputs]) == pytest.approx(less)


def test_a_stack_of_copies_has_none():
    stack = Pool(("a", "b"), 4, {}).stack([Hop("a", 0), Hop("b", 2, 0.5)])
    with pytest.raises(InputError, match=r"method 'passthrough': .*has no neighbours"):
        neighbours(stack, 0.05)


@given(recipes(), st.floats(0.01, 0.5))
def test_neighbours_of_any_recipe_are_recipes(recipe, step):
    try:
        less, more = neighbours(recipe, step)
    except InputError as error:
        assume("has no neighbours" in str(error))
        return
    for made in (less, more):
        assert (made.base, made.dtype, made.seed) == (recipe.base, recipe.dtype, recipe.seed)
        assert made.sources == recipe.sources
        scales = [part.input_scale for part in recipe.slices]
        assert [part.input_scale for part in made.slices] == scales


@pytest.mark.parametrize("step", [0, 1, -0.1, float("nan")])
def test_steps(step):
    with pytest.raises(InputError, match=r"neighbours: step .*: it must lie between 0 and 1"):
        neighbours(TIES, step)
