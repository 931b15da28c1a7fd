"""Templates: the published stacks, the space over their numbers, and where it begins."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    TEMPLATES,
    Choice,
    Hop,
    InputError,
    Integer,
    ParameterSpace,
    PathSpace,
    Pool,
    TemplateSpace,
)
from search_spaces.describe import templates_table
from search_spaces.path_slots import MOST_SEEDS
from search_spaces.template_table import Start, Step, Template, starts
from tests.search_spaces.stacks import (
    genomes,
    hops_of,
    straight,
    survives_the_dialect,
    with_values,
)

LAYERS = 8
ALL = TemplateSpace(["base", "maths", "ja"], LAYERS)
EACH = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))


def steps(template: str, layers: int, models: tuple[str, ...], **numbers: int) -> list[Step]:
    return TEMPLATES[template].build(layers, models, numbers)


def of(model: str, layers: range) -> list[Step]:
    return [Step((model,), layer) for layer in layers]


def test_solar() -> None:
    """10.7B: a Mistral of 32 layers, 8 of them left out at either seam."""
    found = steps("up_scaling", 32, ("m", "m"), m=8)
    assert found == of("m", range(24)) + of("m", range(8, 32))
    start = next(starts(["m"], 32, (1, 64), ["up_scaling"]))
    assert (start.name, start.numbers) == ("up_scaling.m", {"m": 8})
    assert start.steps(32) == found


def test_up_scaling_of_two_models() -> None:
    assert steps("up_scaling", 4, ("a", "b"), m=1) == of("a", range(3)) + of("b", range(1, 4))


def test_layer_swapping() -> None:
    found = steps("layer_swap", 8, ("maths", "ja"), bottom=2, top=1, transition=1)
    seam = ("maths", "ja")
    assert found == [
        *of("ja", range(2)),
        Step(seam, 2),
        *of("maths", range(3, 6)),
        Step(seam, 6),
        *of("ja", range(7, 8)),
    ]
    bottom_only = steps("layer_swap", 8, ("maths", "ja"), bottom=1, top=0, transition=2)
    mixed = [len(step.models) > 1 for step in bottom_only]
    assert mixed == [False, True, True, False, False, False, False, False]


def test_interleaving() -> None:
    """Blocks as in Goliath: each model's next one begins in the middle of the other's last."""
    assert steps("interleave", 8, ("a", "b"), block=4, overlap=2) == [
        *of("a", range(4)),
        *of("b", range(2, 6)),
        *of("a", range(4, 8)),
    ]
    assert steps("interleave", 5, ("a", "b"), block=2, overlap=0) == [
        *of("a", range(2)),
        *of("b", range(2, 4)),
        *of("a", range(4, 5)),
    ]


def test_dropping_layers() -> None:
    assert steps("layer_drop", 6, ("a",), start=3, count=2) == [*of("a", range(3)), Step(("a",), 5)]
    assert steps("layer_drop", 6, ("a",), start=5, count=3) == of("a", range(3))
    assert steps("layer_drop", 6, ("a",), start=2, count=0) == of("a", range(6))


@EACH
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 8, 13])
def test_any_numbers_make_a_path(template: Template, layers: int) -> None:
    cast = tuple(f"m{i}" for i in range(len(template.roles)))
    numbers = template.numbers(layers)
    for values in product(*(range(n.low, n.high + 1) for n in numbers)):
        named = {n.name: value for n, value in zip(numbers, values, strict=True)}
        path = template.build(layers, cast, named)
        assert layers - layers // 2 <= len(path) <= 2 * layers
        assert {step.layer for step in path} <= {*range(layers)}
        assert {m for step in path for m in step.models} <= {*cast}
        assert {path[0].layer, path[-1].layer} == {0, layers - 1} or template.name == "layer_drop"


@EACH
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 8, 13, 32])
def test_a_model_whole_is_in_a_template(template: Template, layers: int) -> None:
    numbers = template.whole(layers)
    if numbers is None:
        assert template.name == "up_scaling"
        assert layers % 2
        return
    cast = ("a",) * len(template.roles) if template.alone else ("other", "a")
    assert template.build(layers, cast, numbers) == of("a", range(layers))
    assert all(n.has(numbers[n.name]) for n in template.numbers(layers))


@EACH
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 8, 13, 32])
def test_sensible_numbers_are_in_their_ranges_and_fit_the_depth(template, layers: int) -> None:
    for depth in [(1, 2 * layers), (layers, layers), (1, layers), (layers, 2 * layers)]:
        numbers = template.start(layers, depth)
        assert all(n.has(numbers[n.name]) for n in template.numbers(layers))
        assert {*numbers} == {n.name for n in template.numbers(layers)}
        cast = tuple("ab"[: len(template.roles)])
        # Two halves are an even number of layers.
        odd = layers % 2 if template.name == "up_scaling" else 0
        assert depth[0] <= len(template.build(layers, cast, numbers)) <= depth[1] + odd


def test_who_plays_which_role() -> None:
    assert [*TEMPLATES["layer_drop"].casts("ab")] == [("a",), ("b",)]
    assert [*TEMPLATES["layer_swap"].casts("abc")][:3] == [("b", "c"), ("b", "a"), ("c", "b")]
    assert [*TEMPLATES["interleave"].casts("ab")] == [
        ("a", "a"), ("b", "b"), ("b", "a"), ("a", "b"),
    ]  # fmt: skip


def test_starts_take_turns() -> None:
    found = [start.name for start in starts(["a", "b"], 8, (4, 16))]
    assert found[:4] == ["up_scaling.a", "layer_swap.b.a", "interleave.a", "layer_drop.a"]
    assert len(found) == len({*found}) == 4 + 2 + 4 + 2


def test_variables() -> None:
    space = TemplateSpace(["a", "b"], LAYERS, ["layer_swap", "layer_drop"])
    assert space.variables == (
        Choice("template", ("layer_swap", "layer_drop")),
        Choice("layer_swap.middle", ("a", "b")),
        Choice("layer_swap.outer", ("a", "b")),
        Integer("layer_swap.bottom", 0, 4),
        Integer("layer_swap.top", 0, 4),
        Integer("layer_swap.transition", 0, 1),
        Choice("layer_drop.model", ("a", "b")),
        Integer("layer_drop.start", 0, 7),
        Integer("layer_drop.count", 0, 4),
    )
    alone = TemplateSpace(["a"], LAYERS, ["up_scaling"])
    assert alone.variables == (Integer("up_scaling.m", 0, 4),)
    names = {v.name.split(".")[0] for v in TemplateSpace(["a"], LAYERS).variables}
    assert names == {"template", "up_scaling", "interleave", "layer_drop"}
    assert (ALL.slots, ALL.fragile, ALL.most_layers) == (None, True, 16)


@given(st.data())
def test_every_genome_is_a_stack_within_the_depth(data) -> None:
    space = replace(ALL, depth=data.draw(st.sampled_from([None, (6, 9), (8, 8), (20, 30)])))
    recipe = space.decode(data.draw(genomes(space)))
    low, high = space.depth or (LAYERS // 2, 2 * LAYERS)
    assert low <= recipe.depth(LAYERS) <= high == space.most_layers
    assert survives_the_dialect(recipe)


@given(st.data())
def test_the_space_decodes_to_its_templates(data) -> None:
    """Against the template's own path, layer by layer."""
    genome = data.draw(genomes(ALL))
    values = {v.name: x for v, x in zip(ALL.variables, genome, strict=True)}
    template = TEMPLATES[str(values["template"])]
    own = {k.split(".")[1]: v for k, v in values.items() if k.startswith(f"{template.name}.")}
    cast = tuple(str(own.pop(role)) for role in template.roles)
    path = template.build(LAYERS, cast, {name: int(value) for name, value in own.items()})
    tensors = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(len(path))]
    found = [
        (tuple(entry.source for entry in plan.inputs), plan.inputs[0].tensor)
        for plan in ALL.decode(genome).plans(tensors, LAYERS)
    ]
    order = ALL.sources
    assert found == [
        (tuple(sorted(s.models, key=order.index)), f"model.layers.{s.layer}.mlp.up_proj.weight")
        for s in path
    ]


def test_seams_are_averaged() -> None:
    genome = ALL.seeds()["layer_swap.maths.ja"]
    recipe = ALL.decode(genome)
    tensors = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)]
    plans = list(recipe.plans(tensors, LAYERS))
    used = [tuple(entry.source for entry in plan.inputs) for plan in plans]
    assert used[0] == used[7] == ("ja",)
    assert used[1] == used[6] == ("maths", "ja")
    assert {*used[2:6]} == {("maths",)}
    for plan in (plans[1], plans[6]):
        assert [entry.number("weight") for entry in plan.inputs] == [0.5, 0.5]
        assert plan.rule.combine == "mean"
    sharp = with_values(ALL, genome, layer_swap__transition=0)
    assert hops_of(ALL.decode(sharp), LAYERS) == [
        Hop("ja", 0), *straight("maths", range(1, 7)), Hop("ja", 7)
    ]  # fmt: skip


def test_other_templates_variables_are_no_part_of_the_recipe() -> None:
    genome = ALL.seeds()["layer_drop.maths"]
    changed = with_values(ALL, genome, up_scaling__m=1, layer_swap__bottom=3, interleave__block=3)
    assert changed != genome
    assert ALL.decode(changed).hash == ALL.decode(genome).hash


def test_one_model_in_two_roles_is_that_model() -> None:
    genome = with_values(ALL, ALL.seeds()["layer_swap.maths.ja"], layer_swap__outer="maths")
    assert ALL.decode(genome) == Pool(["maths"], LAYERS, {}).stack(straight("maths", range(LAYERS)))


def test_seeds() -> None:
    found = ALL.seeds()
    assert list(found)[:3] == ["base", "maths", "ja"]
    for model in ALL.sources:
        assert hops_of(ALL.decode(found[model]), LAYERS) == straight(model, range(LAYERS))
    assert {"up_scaling.ja", "interleave.ja.maths", "layer_drop.base"} <= {*found}
    recipes = {ALL.decode(genome).hash for genome in found.values()}
    assert len(recipes) == len(found) <= MOST_SEEDS


@pytest.mark.parametrize("names", [["up_scaling"], ["layer_swap"], ["interleave", "layer_drop"]])
def test_each_template_alone_has_seeds(names: list[str]) -> None:
    space = replace(ALL, templates=names)
    found = space.seeds()
    assert list(found)[:3] == ["base", "maths", "ja"]
    assert hops_of(space.decode(found["ja"]), LAYERS) == straight("ja", range(LAYERS))


def test_an_odd_stack_is_no_up_scaling_of_itself() -> None:
    assert "a" not in TemplateSpace(["a"], 7, ["up_scaling"]).seeds()
    assert "a" in TemplateSpace(["a"], 7).seeds()


def test_beside_merged_models_nothing_is_averaged() -> None:
    made = ParameterSpace("ties", "base", ["maths"], LAYERS)
    soup = made.decode(made.seeds()["uniform"])
    space = replace(ALL, merged={"soup": soup})
    assert "layer_swap.transition" not in {v.name for v in space.variables}
    assert space.decode(space.seeds()["soup"]) == soup
    genome = space.seeds()["layer_swap.ja.soup"]
    tensors = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)]
    used = [p.inputs[0].source for p in space.decode(genome).plans(tensors, LAYERS)]
    assert used == ["maths", *["ja"] * 6, "maths"]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_models_of_few_layers(layers: int) -> None:
    space = TemplateSpace(["a", "b"], layers)
    for genome in space.seeds().values():
        assert 1 <= space.decode(genome).depth(layers) <= 2 * layers
    path = PathSpace(["a", "b"], layers, (1, 2 * layers))
    assert [*path.seeds()][:2] == ["a", "b"]


BROKEN = [
    ({"templates": ["layer_dorp"]}, "template 'layer_dorp': .*did you mean 'layer_drop'"),
    ({"templates": []}, r"templates \(none\): a space has at least one"),
    ({"templates": ["layer_drop", "layer_drop"]}, "each once"),
    ({"templates": ["layer_swap"], "sources": ["a"]}, "'layer_swap' with one model: .* of two"),
    ({"sources": []}, "at least one model"),
    ({"sources": ["a", "a"]}, "each name once"),
    ({"layers": 0}, "layers = 0"),
    ({"depth": (0, 3)}, r"depth = \[0, 3\]"),
    ({"dtype": "int8"}, "dtype 'int8'"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(ALL, **change)


def test_the_docs_table_has_every_template_with_its_numbers() -> None:
    _, _, *rows = templates_table(32).splitlines()
    assert len(rows) == len(TEMPLATES)
    for row, template in zip(rows, TEMPLATES.values(), strict=True):
        assert row.startswith(f"| `{template.name}` | {template.doc} |")
        assert template.paper in row
        assert all(f"`{n.name}` [{n.low}, {n.high}]" in row for n in template.numbers(32))
    assert "| m 8 | Kim et al. 2023" in rows[0]


def test_a_start_is_named_after_its_models() -> None:
    swap = TEMPLATES["layer_swap"]
    assert Start(swap, ("maths", "ja"), {}).name == "layer_swap.maths.ja"
    assert Start(TEMPLATES["interleave"], ("a", "a"), {}).name == "interleave.a"
