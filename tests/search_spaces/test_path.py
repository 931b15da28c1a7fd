"""The path space: what a genome's slots decode to, which slots count, where a search begins."""

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    Choice,
    Hop,
    Input,
    InputError,
    Integer,
    ParameterSpace,
    PathSpace,
    Real,
    Recipe,
    Slice,
    from_unit,
    named,
    to_unit,
)
from search_spaces.path_slots import MOST_SEEDS, SlotList, fitted
from tests.search_spaces.stacks import (
    genomes,
    hops_of,
    straight,
    survives_the_dialect,
    with_values,
)

LAYERS = 6
FREE = PathSpace(["base", "maths", "ja"], LAYERS, (3, 9))
KEPT = replace(FREE, depth=(5, 9), first=2, last=1, input_scale=(-0.5, 1.5))
SPACES = {
    "free": FREE,
    "kept": KEPT,
    "one model": PathSpace(["a"], LAYERS, (2, 4), input_scale=(0.5, 2.0)),
    "one depth": PathSpace(["a", "b"], LAYERS, (7, 7), last=2, input_scale=-0.5),
}


def whole(source: str) -> Recipe:
    return Recipe("passthrough", (Slice((Input(source),)),))


def merged(experts: list[str], layers: int = LAYERS) -> Recipe:
    space = ParameterSpace("ties", "base", experts, layers)
    return space.decode(space.seeds()["uniform"])


def read(space: PathSpace, genome) -> list[Hop]:
    """The path of a genome, read off the variables' names: the slow way."""
    values = named(space, genome)
    models = [*space.sources, *space.merged]
    home = models[0]
    count = values.get("depth", space.depth[0]) - space.first - space.last
    path = straight(home, range(space.first))
    for slot in range(count):
        scale = values.get(f"slot_{slot}.scale", space.input_scale)
        if scale is None:
            scale = 1.0
        elif abs(scale) < 0.01:
            scale = -0.01 if scale < 0 else 0.01
        model = values.get(f"slot_{slot}.model", home)
        path.append(Hop(str(model), int(values[f"slot_{slot}.layer"]), float(scale)))
    return path + straight(home, range(LAYERS - space.last, LAYERS))


def test_variables_are_named_and_typed() -> None:
    found = replace(FREE, depth=(2, 3), input_scale=(0.5, 1.5)).variables
    assert found[:4] == (
        Integer("depth", 2, 3),
        Choice("slot_0.model", ("base", "maths", "ja")),
        Integer("slot_0.layer", 0, 5),
        Real("slot_0.scale", 0.5, 1.5),
    )
    assert [v.name for v in found[7:]] == ["slot_2.model", "slot_2.layer", "slot_2.scale"]
    alone = PathSpace(["a"], LAYERS, (2, 2))
    assert [v.name for v in alone.variables] == ["slot_0.layer", "slot_1.layer"]


@pytest.mark.parametrize("name", SPACES)
@given(st.data())
def test_a_genome_decodes_to_the_path_of_its_slots(name: str, data) -> None:
    space = SPACES[name]
    genome = data.draw(genomes(space))
    recipe = space.decode(genome)
    assert hops_of(recipe, LAYERS) == read(space, genome)
    assert space.depth[0] <= recipe.depth(LAYERS) <= space.depth[1] == space.most_layers
    assert survives_the_dialect(recipe)


@given(st.data())
def test_slots_at_rest_are_no_part_of_the_recipe(data) -> None:
    genome, other = data.draw(genomes(KEPT)), data.draw(genomes(KEPT))
    inside = len(KEPT.slots.columns[0]) * (int(genome[0]) - KEPT.first - KEPT.last)
    mixed = (*genome[: 1 + inside], *other[1 + inside :])
    assert KEPT.decode(mixed).hash == KEPT.decode(genome).hash


@given(st.data())
def test_slots_that_count_are(data) -> None:
    genome = data.draw(genomes(KEPT))
    slot = data.draw(st.integers(0, int(genome[0]) - KEPT.first - KEPT.last - 1))
    for place in KEPT.slots.columns[slot]:
        variable = KEPT.variables[place]
        options = variable.options if isinstance(variable, Choice) else (variable.low, 1)
        other = next(value for value in options if value != genome[place])
        changed = (*genome[:place], other, *genome[place + 1 :])
        assert KEPT.decode(changed).hash != KEPT.decode(genome).hash


def test_slots_say_where_their_variables_are() -> None:
    slots = KEPT.slots
    assert (slots.length, slots.least, slots.most) == (0, 2, 6)
    for number, columns in enumerate(slots.columns):
        found = [KEPT.variables[place].name for place in columns]
        assert found == [f"slot_{number}.{name}" for name in ("model", "layer", "scale")]
    cells = KEPT.variables[0]
    assert isinstance(cells, Integer)
    assert (cells.low, cells.high) == KEPT.depth
    fixed = SPACES["one depth"].slots
    assert (fixed.length, fixed.least, fixed.most) == (None, 5, 5)
    assert fixed.columns[0] == (0, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=2, max_size=5))
def test_rows_of_a_list_are_read_as_they_were_written(rows) -> None:
    for fewest in (2, 5):
        rows = rows if fewest == 2 else [rows[0]] * 5
        listed = SlotList(1, fewest, 5, 3, (Integer("layer", 0, 5), Real("scale", 0, 1)))
        genome = (0.5, *listed.genome(rows))
        assert listed.rows(genome) == rows
        assert len(genome) == 1 + len(listed.variables)


def test_a_path_straight_through_a_model_is_that_model() -> None:
    for source in FREE.sources:
        genome = with_values(FREE, FREE.seeds()["ja"], depth=LAYERS)
        for layer in range(LAYERS):
            values = {f"slot_{layer}.model": source, f"slot_{layer}.layer": layer}
            genome = with_values(FREE, genome, **values)
        assert FREE.decode(genome).hash == whole(source).hash
        assert FREE.decode(FREE.seeds()[source]) == whole(source)


def test_kept_layers_are_the_first_models_and_unscaled() -> None:
    genome = from_unit(KEPT, np.full(len(KEPT.variables), 0.99))
    path = hops_of(KEPT.decode(genome), LAYERS)
    assert path[:2] == [Hop("base", 0), Hop("base", 1)]
    assert path[-1] == Hop("base", 5)
    assert [hop.input_scale for hop in path[2:-1]] == pytest.approx([1.48] * 6)


def test_scales_keep_away_from_zero() -> None:
    space = SPACES["one model"]
    straddling = replace(space, input_scale=(-1.0, 1.0))
    seed = straddling.seeds()["a"]
    for value, meant in ((0.0, 0.01), (-0.0, 0.01), (-0.003, -0.01), (0.009, 0.01), (-0.5, -0.5)):
        recipe = straddling.decode(with_values(straddling, seed, slot_0__scale=value))
        assert recipe.slices[0].input_scale == meant
    equal = [with_values(straddling, seed, slot_0__scale=value) for value in (0.0, 0.0042)]
    assert len({straddling.decode(genome).hash for genome in equal}) == 1


def test_merged_models_are_in_the_pool() -> None:
    space = replace(FREE, depth=(6, 9), merged={"soup": merged(["maths", "ja"])})
    assert space.variables[1] == Choice("slot_0.model", ("base", "maths", "ja", "soup"))
    assert space.decode(space.seeds()["soup"]) == merged(["maths", "ja"])
    path = {f"slot_{i}.layer": i for i in range(6)} | {f"slot_{i}.model": "ja" for i in range(6)}
    genome = with_values(space, space.seeds()["soup"], **(path | {"slot_2.model": "soup"}))
    recipe = space.decode(genome)
    tensor = "model.layers.{}.mlp.up_proj.weight"
    used = [
        {entry.source for entry in plan.inputs}
        for plan in recipe.plans([tensor.format(i) for i in range(6)], LAYERS)
    ]
    assert used == [{"ja"}, {"ja"}, {"maths", "ja"}, {"ja"}, {"ja"}, {"ja"}]
    assert survives_the_dialect(recipe)


def test_seeds_are_the_models_and_the_templates() -> None:
    found = FREE.seeds()
    assert list(found)[:3] == ["base", "maths", "ja"]
    assert {"up_scaling.maths", "layer_swap.maths.ja", "layer_drop.ja"} <= {*found}
    assert len(found) <= MOST_SEEDS
    recipes = [FREE.decode(genome) for genome in found.values()]
    assert len({recipe.hash for recipe in recipes}) == len(recipes)
    swapped = hops_of(FREE.decode(found["layer_swap.maths.ja"]), LAYERS)
    assert swapped == [Hop("ja", 0), *straight("maths", range(1, 5)), Hop("ja", 5)]
    up_scaled = hops_of(FREE.decode(found["up_scaling.maths"]), LAYERS)
    assert up_scaled == straight("maths", [0, 1, 2, 3, 2, 3, 4, 5])


@pytest.mark.parametrize("depth", [(1, 1), (2, 4), (6, 6), (9, 20), (30, 30)])
@pytest.mark.parametrize("kept", [(0, 0), (1, 0), (2, 2), (6, 6)])
@pytest.mark.parametrize("scale", [None, (0.5, 1.5), (2.0, 3.0)])
def test_seeds_fit_any_depth(depth, kept, scale) -> None:
    if depth[0] <= sum(kept) and sum(kept):
        return
    space = PathSpace(["a", "b"], LAYERS, depth, *kept, input_scale=scale)
    assert space.seeds()
    for genome in space.seeds().values():
        path = hops_of(space.decode(genome), LAYERS)
        assert path[: kept[0]] == straight("a", range(kept[0]))
        assert path[len(path) - kept[1] :] == straight("a", range(LAYERS - kept[1], LAYERS))
        searched = path[kept[0] : len(path) - kept[1]]
        assert {hop.input_scale for hop in searched} == {2.0 if scale == (2.0, 3.0) else 1.0}


def test_fitting_leaves_out_or_repeats_evenly() -> None:
    assert fitted("abcdefg", (7, 9)) == list("abcdefg")
    assert fitted("abcdefg", (1, 4)) == list("aceg")
    assert fitted("abcd", (7, 9)) == list("aabbccd")
    assert fitted("ab", (5, 5)) == list("aaabb")
    assert fitted("abc", (1, 1)) == list("a")


@given(st.integers(1, 30), st.integers(1, 30))
def test_fitting_keeps_the_order_and_the_ends(length: int, depth: int) -> None:
    found = fitted(range(length), (depth, depth))
    assert len(found) == depth
    assert found == sorted(found)
    counts = [found.count(i) for i in range(length)]
    assert max(counts) - min(counts) <= 1
    gaps = {b - a for a, b in pairwise(found)} if depth < length else {0}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    if depth > 1:
        assert (found[0], found[-1]) == (0, length - 1)


def test_searchers_get_back_what_they_asked() -> None:
    generator = np.random.default_rng(0)
    for space in SPACES.values():
        for u in generator.random((20, len(space.variables))):
            genome = from_unit(space, u)
            again = from_unit(space, to_unit(space, genome))
            assert space.decode(again).depth(LAYERS) == space.decode(genome).depth(LAYERS)
            same = [
                a == b
                for a, b, v in zip(again, genome, space.variables, strict=True)
                if not isinstance(v, Real)
            ]
            assert all(same)


BROKEN = [
    ({"depth": (0, 4)}, r"depth = \[0, 4\]: it is \[least, most\] with 1 to 512 layers"),
    ({"depth": (5, 4)}, r"depth = \[5, 4\]: .*least not above most"),
    ({"layers": 0}, "layers = 0: a model has layers"),
    ({"first": 7}, "first = 7: a source has 6 layers"),
    ({"last": -1}, "last = -1: a source has 6 layers"),
    ({"first": 2, "last": 1}, "first = 2 and last = 1 .*layers are left .*least depth above 3"),
    ({"first": 4}, "first = 4 and last = 0 with depth = .3, 9.: layers are left to search"),
    ({"input_scale": 0}, r"input_scale = 0: its magnitude lies in \[0.01, 4\]"),
    ({"input_scale": 0.009}, "input_scale = 0.009: its magnitude"),
    ({"input_scale": -4.1}, "input_scale = -4.1: its magnitude"),
    ({"input_scale": float("nan")}, "input_scale = nan: its magnitude"),
    ({"input_scale": True}, "input_scale = True: its magnitude"),
    ({"input_scale": (0.0, 1.0)}, "input_scale = 0.0: its magnitude"),
    ({"input_scale": (0.5, 5.0)}, "input_scale = 5.0: its magnitude"),
    ({"input_scale": (1.5, 0.5)}, r"input_scale = \[1.5, 0.5\]: a range is \[low, high\]"),
    ({"input_scale": (1.0, 1.0)}, "a range is .* with low below high"),
    ({"input_scale": (0.5, 1.0, 1.5)}, "a range is"),
    ({"input_scale": ("a", "b")}, "input_scale = a: its magnitude"),
    ({"sources": []}, "at least one model"),
    ({"sources": ["a", "a"]}, "models a, a: .*each name once"),
    ({"merged": {"ja": merged(["maths"])}}, "each name once"),
    ({"merged": {"soup": merged(["maths"], 4), "x": FREE.decode(FREE.seeds()["up_scaling.ja"])}}, "8 layers"),
    ({"dtype": "int8"}, "dtype 'int8'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(FREE, **change)


def test_foreign_genomes_are_refused() -> None:
    genome = FREE.seeds()["ja"]
    for changed, message in (
        (genome[1:], "a genome of 18 values: the space has 19 variables"),
        (with_values(FREE, genome, depth=2), r"depth = 2: it is a whole number in \[3, 9\]"),
        (with_values(FREE, genome, slot_1__layer=6), "slot_1.layer = 6"),
        (with_values(FREE, genome, slot_1__model="mahts"), "slot_1.model = 'mahts': it is one of"),
    ):
        with pytest.raises(InputError, match=message):
            FREE.decode(changed)


def test_a_deep_path_is_decoded_quickly() -> None:
    """About 0.5 ms for 64 layers, 3 ms beside merged ones (80 ms once); the bounds are loose."""
    plain = PathSpace(["base", "a", "b"], 32, (64, 64), 2, 2, (0.5, 1.5))
    soup = ParameterSpace("ties", "base", ["a", "b"], 32)
    mixed = replace(plain, merged={"soup": soup.decode(soup.seeds()["uniform"])})
    for space, bound in ((plain, 0.004), (mixed, 0.02)):
        generator = np.random.default_rng(0)
        seconds: list[float] = []
        for u in generator.random((20, len(space.variables))):
            genome = from_unit(space, u)
            start = time.process_time()
            _ = space.decode(genome).hash
            seconds.append(time.process_time() - start)
        assert min(seconds) < bound


@pytest.mark.parametrize("scales", [(0.85, 1.5), (0.4, 2.0), (-1.5, 1.3), (0.5, 1.5)])
def test_a_scale_of_one_is_none_after_the_way_through_the_unit_cube(
    scales: tuple[float, float],
) -> None:
    """It came back as 0.9999999999999999 of some ranges: parents were other recipes, paid twice."""
    space = PathSpace(["a", "b"], 4, (3, 6), input_scale=scales)
    for genome in space.seeds().values():
        again = from_unit(space, to_unit(space, genome))
        assert space.decode(again).hash == space.decode(genome).hash
