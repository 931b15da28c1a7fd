"""The hybrid space: paths through merged layers, with grouped weights or each slot's own."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Choice,
    Genome,
    Granularity,
    HybridSpace,
    InputError,
    Integer,
    ParameterSpace,
    Real,
    Recipe,
    SearchSpace,
    from_unit,
    named,
)
from search_spaces.path_slots import MOST_SEEDS
from tests.search_spaces.stacks import genomes, survives_the_dialect, with_values

LAYERS = 4
PARTS = ("input_layernorm", "self_attn.q_proj", "mlp.up_proj")
DEEP = ParameterSpace("ties", "base", ["a", "b"], LAYERS, granularity=Granularity(2, ["attn"]))
FLAT = replace(DEEP, granularity=Granularity(None, ["attn", "embed"]))
MIXED = replace(
    FLAT,
    rule=["task_arithmetic", "ties"],
    granularity=Granularity(None, ["attn"], rules=True),
    ranges={"normalize": [False, True]},
)
GROUPED = HybridSpace(DEEP, (3, 6), 1, 1, (-1.5, 1.5))
OWN = HybridSpace(FLAT, (3, 6), 1, 1, (-1.5, 1.5), per_slot=True)
FREE = HybridSpace(FLAT, (2, 5), per_slot=True)
SPACES = {
    "grouped": GROUPED,
    "each": HybridSpace(replace(DEEP, granularity=Granularity("each")), (2, 5)),
    "per slot": OWN,
    "per slot, none kept": FREE,
    "per slot, mixed rules": HybridSpace(MIXED, (3, 6), last=1, per_slot=True),
    "linear": HybridSpace(ParameterSpace("linear", None, ["a", "b"], LAYERS), (4, 4)),
}


def names(space: SearchSpace) -> list[str]:
    return [variable.name for variable in space.variables]


def described(recipe: Recipe, layer: int) -> list[object]:
    """What the tensors of one output layer are made of."""
    tensors = [f"model.layers.{layer}.{part}.weight" for part in PARTS]
    return [
        (plan.rule, plan.inputs, dict(plan.parameters)) for plan in recipe.plans(tensors, LAYERS)
    ]


def path_of(space: HybridSpace, genome: Genome) -> list[tuple[int, Genome, float]]:
    """Per layer its number, the parameter space's genome of its merge, and its scale: read off the
    variables' names, the slow way."""
    values = named(space, genome)
    inner = space.parameter.variables
    around = tuple(values.get(v.name, v.from_unit(0.5)) for v in inner)
    count = int(values.get("depth", space.depth[0])) - space.first - space.last
    path = [(layer, around, 1.0) for layer in range(space.first)]
    for slot in range(count):
        stem = f"slot_{slot}"
        own = tuple(values.get(f"{stem}.{v.name}", x) for v, x in zip(inner, around, strict=True))
        scale = float(values.get(f"{stem}.scale", 1.0))
        path.append((int(values[f"{stem}.layer"]), own, scale))
    return path + [(layer, around, 1.0) for layer in range(LAYERS - space.last, LAYERS)]


def test_variables_of_groups() -> None:
    assert names(GROUPED)[: len(DEEP.variables)] == [v.name for v in DEEP.variables]
    assert GROUPED.variables[len(DEEP.variables) :][:3] == (
        Integer("depth", 3, 6),
        Integer("slot_0.layer", 0, 3),
        Real("slot_0.scale", -1.5, 1.5),
    )
    slots = GROUPED.slots
    assert (slots.length, slots.least, slots.most) == (len(DEEP.variables), 1, 4)
    assert (GROUPED.most_layers, GROUPED.fragile) == (6, True)


def test_variables_per_slot() -> None:
    own = ["weight.a.attn", "weight.a.other", "weight.b.attn", "weight.b.other"]
    assert names(FREE)[:4] == [
        "weight.a.embed",
        "weight.b.embed",
        "density.a.embed",
        "density.b.embed",
    ]
    assert names(FREE)[4:10] == ["depth", "slot_0.layer", *(f"slot_0.{name}" for name in own)]
    columns = [names(OWN)[place] for place in OWN.slots.columns[1]]
    assert columns[:5] == ["slot_1.layer", *(f"slot_1.{name}" for name in own)]
    assert columns[-1] == "slot_1.scale"
    # Kept layers have the parameter space's own variables.
    assert names(OWN)[: len(FLAT.variables)] == [v.name for v in FLAT.variables]


def test_what_is_chosen_for_the_model_is_chosen_once() -> None:
    found = names(SPACES["per slot, mixed rules"])
    assert [name for name in found if "normalize" in name] == ["normalize"]
    assert "slot_0.method.attn" in found
    once = replace(MIXED, granularity=Granularity(None, ["attn"]))
    found = names(HybridSpace(once, (2, 3), per_slot=True))
    assert [name for name in found if "method" in name] == ["method"]


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=15)
@given(st.data())
def test_each_layer_is_merged_as_its_slot_says(name: str, data) -> None:
    """Against the parameter space's recipe of the same numbers, tensor by tensor."""
    space = SPACES[name]
    genome = data.draw(genomes(space))
    recipe = space.decode(genome)
    path = path_of(space, genome)
    assert recipe.depth(LAYERS) == len(path)
    for place, (layer, merge, _) in enumerate(path):
        alone = described(space.parameter.decode(merge), layer)
        assert described(recipe, place) == alone
    scales = {}
    start = 0
    for part in recipe.slices:
        scales[start] = part.input_scale
        first, stop = part.inputs[0].layers or (0, LAYERS)
        start += stop - first
    for place, (_, _, scale) in enumerate(path):
        meant = scale if abs(scale) >= 0.01 else (-0.01 if scale < 0 else 0.01)
        assert scales.get(place, 1.0) == meant
    assert survives_the_dialect(recipe)


@pytest.mark.parametrize("space", [GROUPED, OWN, FREE], ids=["grouped", "per slot", "none kept"])
@given(st.data())
def test_slots_at_rest_are_no_part_of_the_recipe(space: HybridSpace, data) -> None:
    genome, other = data.draw(genomes(space)), data.draw(genomes(space))
    slots = space.slots
    assert slots.length is not None
    count = int(genome[slots.length]) - space.first - space.last
    rest = slots.columns[count][0] if count < slots.most else len(genome)
    assert space.decode((*genome[:rest], *other[rest:])).hash == space.decode(genome).hash


@settings(max_examples=20)
@given(st.data())
def test_every_variable_that_counts_does_something(data) -> None:
    space = data.draw(st.sampled_from([OWN, FREE]))
    # Anchored at full depth, so that no slot is at rest.
    genome = with_values(space, next(iter(space.seeds().values())), depth=space.depth[1])
    recipe = space.decode(genome)
    for place, variable in enumerate(space.variables):
        if isinstance(variable, Choice):
            continue
        low = genome[place] != variable.low
        new = variable.low if low else variable.from_unit(0.77)
        changed = (*genome[:place], new, *genome[place + 1 :])
        assert space.decode(changed).hash != recipe.hash, variable.name


def test_a_path_straight_through_is_the_parameter_spaces_recipe() -> None:
    for space in (GROUPED, OWN, FREE):
        for name, merge in space.parameter.seeds().items():
            assert space.decode(space.seeds()[name]) == space.parameter.decode(merge)


def test_equal_slots_continue_each_other() -> None:
    genome = FREE.seeds()["uniform"]
    same = FREE.decode(genome)
    assert len(same.slices) == 1
    changed = FREE.decode(with_values(FREE, genome, slot_2__weight__a__attn=0.7))
    spans = [part.inputs[0].layers for part in changed.slices]
    assert spans == [(0, 2), (2, 3), (3, 4)]


def test_seeds_of_groups() -> None:
    found = GROUPED.seeds()
    assert list(found)[:4] == ["uniform", "base", "a", "b"]
    assert {"up_scaling.uniform", "layer_drop.a"} <= {*found}
    assert not [name for name in found if name.startswith("layer_swap")]
    layers = [layer for layer, _, _ in path_of(GROUPED, found["up_scaling.a"])]
    assert layers == [0, 1, 2, 1, 2, 3]


def test_seeds_with_weights_per_slot_swap_layers() -> None:
    found = OWN.seeds()
    path = path_of(OWN, found["layer_swap.a.b"])
    merges = FLAT.seeds()
    assert [(layer, scale) for layer, _, scale in path] == [(i, 1.0) for i in range(LAYERS)]
    for layer, merge, _ in path:
        whole = merges["b" if layer in (0, 3) else "a"]
        assert described(FLAT.decode(merge), layer) == described(FLAT.decode(whole), layer)


@pytest.mark.parametrize("name", SPACES)
def test_seeds_are_different_models_within_the_depth(name: str) -> None:
    space = SPACES[name]
    recipes = [space.decode(genome) for genome in space.seeds().values()]
    assert len({recipe.hash for recipe in recipes}) == len(recipes) <= MOST_SEEDS
    for recipe in recipes:
        assert space.depth[0] <= recipe.depth(LAYERS) <= space.depth[1]


BROKEN = [
    ({"depth": (4, 3)}, r"depth = \[4, 3\]"),
    ({"first": 2, "last": 1}, "layers are left to search"),
    ({"last": 5}, "last = 5: a source has 4 layers"),
    ({"input_scale": 0.0}, "input_scale = 0.0"),
    ({"input_scale": (0.0, 2.0)}, "input_scale = 0.0"),
    ({"per_slot": True}, "granularity 2 along depth with weights per slot: .*leave `layers` out"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(GROUPED, **change)


def test_a_deep_hybrid_is_decoded_quickly() -> None:
    """About 2 ms for 64 layers in groups, 5 ms with weights per slot; the bounds are loose."""
    flat = ParameterSpace("ties", "base", ["a", "b"], 32)
    grouped = HybridSpace(replace(flat, granularity=Granularity("each")), (64, 64))
    for space, bound in ((grouped, 0.02), (HybridSpace(flat, (64, 64), per_slot=True), 0.04)):
        generator = np.random.default_rng(0)
        seconds: list[float] = []
        for u in generator.random((10, len(space.variables))):
            genome = from_unit(space, u)
            start = time.process_time()
            _ = space.decode(genome).hash
            seconds.append(time.process_time() - start)
        assert min(seconds) < bound
