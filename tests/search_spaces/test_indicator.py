"""The indicator space: a row of all layers, which of them are in, and what is repaired."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Choice, Hop, IndicatorSpace, InputError, ParameterSpace, Real
from search_spaces.settings import Scalar
from tests.search_spaces.stacks import genomes, hops_of, straight, survives_the_dialect

LAYERS = 4
SPACE = IndicatorSpace(["a", "b"], LAYERS, 2, (2, 6), (-1.5, 1.5))
ROW = [(model, layer) for _ in range(2) for model in "ab" for layer in range(LAYERS)]


def genome_of(space: IndicatorSpace, places: list[int], **scales: float) -> tuple[Scalar, ...]:
    """The genome with these places of the row in; scales 1 but for those named `at_3`."""
    count = space.repeats * LAYERS * len(space.sources)
    bits = [place in places for place in range(count)]
    own = [scales.get(f"at_{place}", 1.0) for place in range(count)]
    return (*bits, *(own if isinstance(space.input_scale, tuple) else ()))


def path_of(space: IndicatorSpace, places: list[int], **scales: float) -> list[Hop]:
    return hops_of(space.decode(genome_of(space, places, **scales)), LAYERS)


def test_variables() -> None:
    names = [v.name for v in SPACE.variables]
    assert names[:5] == [*(f"pass_0.a.layer_{i}" for i in range(4)), "pass_0.b.layer_0"]
    assert names[15] == "pass_1.b.layer_3"
    assert names[16:] == [f"scale.{name}" for name in names[:16]]
    assert SPACE.variables[0] == Choice("pass_0.a.layer_0", (False, True))
    assert SPACE.variables[16] == Real("scale.pass_0.a.layer_0", -1.5, 1.5)
    assert len(replace(SPACE, input_scale=None).variables) == 16
    assert len(replace(SPACE, repeats=3, input_scale=0.5).variables) == 24
    assert (SPACE.slots, SPACE.fragile, SPACE.most_layers) == (None, True, 6)


@given(st.sets(st.integers(0, 15), min_size=2, max_size=6))
def test_what_is_in_is_passed_in_the_rows_order(places: set[int]) -> None:
    found = path_of(SPACE, [*places], at_3=0.5, at_9=-0.5)
    scales = {3: 0.5, 9: -0.5}
    assert found == [Hop(*ROW[place], scales.get(place, 1.0)) for place in sorted(places)]


@given(st.data())
def test_every_genome_is_a_stack_within_the_depth(data) -> None:
    genome = data.draw(genomes(SPACE))
    recipe = SPACE.decode(genome)
    assert 2 <= recipe.depth(LAYERS) <= 6
    assert survives_the_dialect(recipe)
    inside = [ROW[i] for i in range(16) if genome[i]]
    found = [(hop.model, hop.layer) for hop in hops_of(recipe, LAYERS)]
    if len(inside) > 6:
        assert set(found) <= set(inside)
        assert found[0] == inside[0]
    elif len(inside) < 2:
        assert set(inside) <= set(found)
    else:
        assert found == inside


@given(st.data())
def test_scales_matter_only_where_a_layer_is_in(data) -> None:
    genome = data.draw(genomes(SPACE).filter(lambda g: 2 <= sum(map(bool, g[:16])) <= 6))
    place = data.draw(st.integers(0, 15))
    other = -1.0 if genome[16 + place] != -1.0 else 0.5
    changed = (*genome[: 16 + place], other, *genome[17 + place :])
    same = SPACE.decode(changed).hash == SPACE.decode(genome).hash
    assert same == (not genome[place])


def test_a_fixed_scale_is_every_hops() -> None:
    fixed = replace(SPACE, input_scale=-0.5)
    assert path_of(fixed, [0, 5]) == [Hop("a", 0, -0.5), Hop("b", 1, -0.5)]
    assert path_of(SPACE, [0, 5], at_5=0.001)[1].input_scale == 0.01


def test_a_shallow_choice_gets_the_first_models_missing_layers() -> None:
    assert path_of(SPACE, []) == straight("a", [0, 1])
    assert path_of(SPACE, [6]) == [Hop("a", 0), Hop("b", 2)]
    assert path_of(SPACE, [0]) == straight("a", [0, 1])
    deep = replace(SPACE, depth=(6, 6))
    assert path_of(deep, [1]) == [*straight("a", range(4)), *straight("b", [0, 1])]


def test_a_deep_choice_loses_later_copies_first() -> None:
    """Pass 1 goes on where pass 0 ended."""
    both = [0, 1, 2, 3, 8, 9, 10, 11]
    assert path_of(SPACE, both) == straight("a", [0, 1, 2, 3, 2, 3])
    assert path_of(replace(SPACE, depth=(2, 4)), both) == straight("a", range(4))


def test_then_it_is_thinned_out_evenly() -> None:
    everything = [*range(16)]
    narrow = replace(SPACE, depth=(2, 4))
    assert path_of(narrow, everything) == [Hop("a", 0), Hop("a", 2), Hop("b", 1), Hop("b", 3)]


def test_models_whole_are_recognised() -> None:
    for model, first in (("a", 0), ("b", 4), ("a", 8), ("b", 12)):
        recipe = SPACE.decode(genome_of(SPACE, [*range(first, first + 4)]))
        assert recipe.slices[0].inputs[0].layers is None
        assert recipe.sources == (model,)


def test_seeds_keep_the_rows_order() -> None:
    found = SPACE.seeds()
    assert list(found)[:2] == ["a", "b"]
    paths = {name: hops_of(SPACE.decode(g), LAYERS) for name, g in found.items()}
    assert paths["b"] == straight("b", range(4))
    assert paths["up_scaling.a"] == straight("a", [0, 1, 2, 1, 2, 3])
    assert paths["layer_swap.b.a"] == [Hop("a", 0), Hop("b", 1), Hop("b", 2), Hop("a", 3)]
    assert paths["layer_drop.b"] == straight("b", [0, 1, 3])
    assert paths["interleave.a.b"] == [Hop("a", 0), Hop("b", 1), Hop("a", 2), Hop("b", 3)]
    # Back to the first model after the second takes another pass.
    once = [name for name in replace(SPACE, repeats=1).seeds() if "interleave" in name]
    assert "interleave.a.b" not in once
    assert len({SPACE.decode(genome).hash for genome in found.values()}) == len(found)


@pytest.mark.parametrize("depth", [(1, 3), (4, 4), (7, 12), None])
@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_seeds_fit_any_depth(depth, repeats: int) -> None:
    if depth and depth[0] > repeats * 2 * LAYERS:
        return
    space = replace(SPACE, depth=depth, repeats=repeats, input_scale=(0.5, 0.9))
    assert space.seeds()
    low, high = depth or (2, 8)
    for genome in space.seeds().values():
        path = hops_of(space.decode(genome), LAYERS)
        assert low <= len(path) <= high
        assert {hop.input_scale for hop in path} == {0.9}


def test_merged_models_stand_in_the_row() -> None:
    made = ParameterSpace("ties", "base", ["a", "b"], LAYERS)
    soup = made.decode(made.seeds()["uniform"])
    space = replace(SPACE, merged={"soup": soup}, input_scale=None)
    assert space.variables[8].name == "pass_0.soup.layer_0"
    assert space.decode(space.seeds()["soup"]) == soup
    recipe = space.decode(space.seeds()["layer_swap.soup.a"])
    tensors = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)]
    assert [len(p.inputs) for p in recipe.plans(tensors, LAYERS)] == [1, 2, 2, 1]


BROKEN = [
    ({"repeats": 0}, "repeats = 0: the layers are laid out at least once"),
    ({"depth": (17, 20)}, "a depth of 17 or more: 2 repeats of all layers are 16"),
    ({"depth": (3, 2)}, r"depth = \[3, 2\]"),
    ({"layers": 0}, "layers = 0"),
    ({"sources": []}, "at least one model"),
    ({"input_scale": (-0.001, 1.0)}, "input_scale = -0.001: its magnitude"),
    ({"input_scale": 0}, "input_scale = 0"),
    ({"dtype": "int8"}, "dtype 'int8'"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SPACE, **change)


def test_a_row_shorter_than_the_depth_is_all_there_is() -> None:
    assert replace(SPACE, repeats=1, depth=(2, 99)).most_layers == 8
