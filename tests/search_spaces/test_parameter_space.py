"""The parameter space: its variables, what they do to each tensor, its seeds."""

import time
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.dialect import dump_recipe, parse_recipe
from search_spaces.errors import InputError
from search_spaces.granularity import Granularity
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import Recipe
from search_spaces.roles import COMPONENTS, role
from search_spaces.rules import PARAMETERS, RULES, Rule
from search_spaces.space import from_unit, named
from search_spaces.variables import Choice, Genome, Real

LAYERS = 8
PARTS = ("input_layernorm", "self_attn.q_norm", "self_attn.q_proj", "mlp.up_proj")
TENSORS = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(LAYERS) for part in PARTS),
    "model.norm.weight",
    "lm_head.weight",
]
TWO = ParameterSpace("task_arithmetic", "base", ["a", "b"], LAYERS)


def space_of(rule: Rule, **options) -> ParameterSpace:
    """A space of `rule` with two experts, or the one it takes."""
    experts = ["a"] if rule.sources[1] == 1 else ["a", "b"]
    return ParameterSpace(
        rule.name, "base" if rule.needs_base else None, experts, LAYERS, **options
    )


def names(space: ParameterSpace) -> list[str]:
    return [variable.name for variable in space.variables]


def cut(**granularity: object) -> ParameterSpace:
    """Weights of one expert, cut along depth and across components."""
    return ParameterSpace(
        "task_arithmetic",
        "base",
        ["a"],
        LAYERS,
        granularity=Granularity(**granularity),  # type: ignore[arg-type]
    )


def ladder(space: ParameterSpace) -> Genome:
    """A genome whose values are all different: 0, 1/n, 2/n, ..."""
    return tuple(i / len(space.variables) for i in range(len(space.variables)))


def weights(recipe: Recipe) -> dict[str, float]:
    """The first source's weight by tensor."""
    plans = recipe.plans(TENSORS, LAYERS)
    return {plan.tensor: float(plan.inputs[0].parameters["weight"]) for plan in plans}


def test_per_model_is_the_default() -> None:
    assert names(TWO) == ["weight.a", "weight.b"]
    recipe = TWO.decode((0.25, 0.5))
    assert recipe.slices[0].inputs[0].layers is None
    assert set(weights(recipe).values()) == {0.25}


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_every_rule_is_searched_as_declared(rule) -> None:
    space = space_of(rule)
    per_parameter = {
        p: [v for v in space.variables if v.name.split(".")[0] == p] for p in PARAMETERS
    }
    for name, variables in per_parameter.items():
        owners = len(space.experts) if PARAMETERS[name].per_source else 1
        assert len(variables) == (owners if name in rule.searched else 0)
        assert all((v.low, v.high) == rule.search(name) for v in variables)


def test_layer_groups() -> None:
    space = cut(layers=3)
    assert names(space) == ["weight.a.layers_0_1", "weight.a.layers_2_4", "weight.a.layers_5_7"]
    found = weights(space.decode((0.1, 0.2, 0.3)))
    by_layer = [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(LAYERS)]
    assert by_layer == [0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3]
    outer = [found[t] for t in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")]
    assert outer == [0.1, 0.3, 0.3]


def test_each_layer() -> None:
    space = cut(layers="each")
    assert names(space) == [f"weight.a.layer_{i}" for i in range(LAYERS)]
    genome = ladder(space)
    for tensor, value in weights(space.decode(genome)).items():
        layer = role(tensor).layer
        outer = 0 if tensor.startswith("model.embed") else LAYERS - 1
        assert value == genome[outer if layer is None else layer]


@pytest.mark.parametrize("knots", range(2, LAYERS + 1))
def test_knots_are_joined_by_straight_lines(knots: int) -> None:
    space = cut(layers={"knots": knots})
    assert names(space) == [f"weight.a.knot_{i}" for i in range(knots)]
    values = np.random.default_rng(knots).random(knots)
    found = weights(space.decode(tuple(values.tolist())))
    places = np.interp(np.arange(LAYERS) / (LAYERS - 1), np.linspace(0, 1, knots), values)
    by_layer = [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(LAYERS)]
    assert by_layer == pytest.approx(places.tolist(), abs=1e-12)
    assert found["model.embed_tokens.weight"] == values[0]
    assert found["model.norm.weight"] == found["lm_head.weight"] == values[-1]


def test_components() -> None:
    space = cut(components=["mlp", "attn"])
    assert names(space) == ["weight.a.attn", "weight.a.mlp", "weight.a.other"]
    group = {"attn": 0.1, "mlp": 0.2, "norm": 0.3, "embed": 0.3, "lm_head": 0.3}
    found = weights(space.decode((0.1, 0.2, 0.3)))
    assert found == {tensor: group[role(tensor).component] for tensor in TENSORS}


def test_all_components() -> None:
    space = cut(components="all")
    assert names(space) == [f"weight.a.{component}" for component in COMPONENTS]
    genome = ladder(space)
    found = weights(space.decode(genome))
    assert found == {t: genome[COMPONENTS.index(role(t).component)] for t in TENSORS}


def test_layers_by_components() -> None:
    space = cut(layers=2, components=["attn"])
    assert names(space) == [
        "weight.a.layers_0_3.attn",
        "weight.a.layers_4_7.attn",
        "weight.a.layers_0_3.other",
        "weight.a.layers_4_7.other",
    ]
    found = weights(space.decode((0.1, 0.2, 0.3, 0.4)))
    for tensor, value in found.items():
        spot = role(tensor)
        upper = spot.layer >= 4 if spot.layer is not None else spot.component != "embed"
        assert value == ((0.1, 0.2) if spot.component == "attn" else (0.3, 0.4))[upper]


def test_depth_means_nothing_outside_the_stack() -> None:
    """The embeddings' variable of any group but the first would do nothing."""
    space = cut(layers={"knots": 3}, components="all")
    outer = [n for n in names(space) if n.endswith(("embed", "lm_head"))]
    assert outer == ["weight.a.embed", "weight.a.lm_head"]
    assert len(space.variables) == 3 * 3 + 2
    rest = cut(layers=2, components=["norm", "attn", "mlp"])
    assert names(rest)[-1] == "weight.a.other"


@settings(max_examples=20)
@given(st.data())
def test_every_variable_does_something(data) -> None:
    layers = data.draw(st.sampled_from([None, 1, 2, 5, LAYERS, "each", {"knots": 2}, {"knots": 4}]))
    components = data.draw(st.sampled_from([None, "all"]) | st.sets(st.sampled_from(COMPONENTS)))
    space = ParameterSpace(
        "ties",
        "base",
        ["a", "b"],
        LAYERS,
        granularity=Granularity(
            layers, tuple(components) if isinstance(components, set) else components
        ),
        ranges={"lambda": [0.5, 2.0], "normalize": [False, True]},
    )
    genome = space.seeds()["uniform"]
    plans = list(space.decode(genome).plans(TENSORS, LAYERS))
    for place, variable in enumerate(space.variables):
        new = (not genome[place]) if isinstance(variable, Choice) else variable.from_unit(0.123)
        changed = (*genome[:place], new, *genome[place + 1 :])
        assert space.decode(changed).hash != space.decode(genome).hash
        assert list(space.decode(changed).plans(TENSORS, LAYERS)) != plans


@given(st.integers(0, 2**32))
def test_recipes_of_a_space_survive_the_dialect(seed: int) -> None:
    space = ParameterSpace(
        "dare_ties", "base", ["a", "b"], LAYERS, granularity=Granularity(4, ["attn", "mlp"])
    )
    generator = np.random.default_rng(seed)
    recipe = space.decode(from_unit(space, generator.random(len(space.variables))))
    assert parse_recipe(dump_recipe(recipe), "dump").hash == recipe.hash


def test_ranges() -> None:
    space = replace(
        TWO,
        rule="ties",
        ranges={
            "weight": [-1, 2],
            "density": 0.5,
            "lambda": [0.8, 1.2],
            "normalize": False,
            "rescale": [True, False],
        },
        seed=3,
        dtype="bfloat16",
    )
    assert space.variables == (
        Real("weight.a", -1, 2),
        Real("weight.b", -1, 2),
        Real("lambda", 0.8, 1.2),
        Choice("rescale", (True, False)),
    )
    recipe = space.decode((-0.5, 1.5, 0.9, True))
    plan = next(recipe.plans(["lm_head.weight"], LAYERS))
    assert plan.inputs[0].parameters == {"weight": -0.5, "density": 0.5}
    expected = {"lambda": 0.9, "normalize": False, "rescale": True, "rescale_norm": "l1"}
    assert plan.parameters == expected | {"alpha": 1.0, "beta": 0.0, "scope": "tensor"}
    assert (plan.rule.combine, plan.rule.rescale) == ("sum", "l1")
    assert (recipe.seed, recipe.dtype) == (3, "bfloat16")


BROKEN = [
    ({"rule": "tie"}, "merge method 'tie': .*did you mean 'ties'"),
    ({"base": None}, "no base: rule 'task_arithmetic' needs the base"),
    ({"experts": []}, "there is an expert"),
    ({"experts": ["a", "a"]}, "sources base, a, a: .*names are used once"),
    ({"experts": ["base"]}, "names are used once"),
    ({"experts": ["uniform"]}, "'uniform' is the plain average's"),
    ({"rule": "slerp"}, "2 experts: rule 'slerp' takes 1 besides the base"),
    ({"layers": 0}, "layers = 0: a model has layers"),
    ({"dtype": "int8"}, "dtype 'int8': it is not a storage type"),
    ({"components": ["attn", "head"]}, "component 'head': it is unknown"),
    ({"ranges": {"wieght": 1}}, "parameter 'wieght': .*did you mean 'weight'"),
    ({"ranges": {"t": [0, 1]}}, "method 'task_arithmetic' has no such parameter"),
    ({"ranges": {"density": [0.2, 1]}}, "changes nothing in method 'task_arithmetic'"),
    ({"rule": "ties", "ranges": {"density": [0, 1.5]}}, r"density = 1.5: it is a number in \[0, 1"),
    ({"ranges": {"weight": [1, 0]}}, r"weight = \[1, 0\]: a range is \[low, high\]"),
    ({"ranges": {"weight": [0, 1, 2]}}, r"a range is \[low, high\] with low below high"),
    ({"ranges": {"weight": "high"}}, "weight = high: it is a finite number"),
    ({"ranges": {"weight": [[0, 1]]}}, r"weight = \[0, 1\]: it is a finite number"),
    ({"ranges": {"weight": [None, 1]}}, "weight = None: it is a finite number"),
    ({"ranges": {"weight": ["a", 1]}}, "weight = a: it is a finite number"),
    ({"ranges": {"weight": [0, {"high": 1}]}}, "weight = {'high': 1}: it is a finite number"),
    ({"ranges": {"weight": {"low": 0}}}, "weight = {'low': 0}: it is a finite number"),
    ({"ranges": {"weight": date(2024, 1, 1)}}, "weight = 2024-01-01: it is a finite number"),
    ({"ranges": {"weight": [0, 10**400]}}, "weight = 10+: it is a finite number"),
    ({"ranges": {"normalize": [[0, 1]]}}, r"normalize = \[0, 1\]: it is one of False, True"),
    ({"ranges": {"normalize": [0, 1]}}, "normalize = 0: it is one of False, True"),
    ({"granularity": Granularity(9)}, "9 layer groups: a model of 8 layers takes 1 to 8"),
    ({"granularity": Granularity(0)}, "0 layer groups"),
    ({"granularity": Granularity({"knots": 1})}, "1 knots: a model of 8 layers takes 2 to 8"),
    ({"granularity": Granularity({"k": 1})}, "a mapping here says knots"),
    ({"granularity": Granularity("every")}, "the only word here is `each`"),
    ({"granularity": Granularity(None, ["mpl"])}, "component 'mpl': .*did you mean 'mlp'"),
    ({"granularity": Granularity(None, "some")}, "the only word here is `all`"),
    (
        {"components": COMPONENTS[:-1], "granularity": Granularity(None, ["lm_head"])},
        "component 'lm_head': the model has no such tensors",
    ),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TWO, **change)


def test_experts_with_dots_in_their_names() -> None:
    """Names of variables stay apart: they end in the same number of parts for every source."""
    odd = ["a", "a.attn", "a.layers_0_3", "a.layers_0_3.attn"]
    cut = Granularity(2, ["attn", "embed"])
    found = names(replace(TWO, experts=odd, granularity=cut))
    assert len(found) == len(set(found)) == 4 * 5


def test_tied_models_have_no_head_variable() -> None:
    tied = replace(cut(components="all"), components=("norm", "attn", "mlp", "embed"))
    assert "weight.a.lm_head" not in names(tied)


def seeds(space: ParameterSpace) -> dict[str, dict[str, object]]:
    return {name: named(space, genome) for name, genome in space.seeds().items()}


def test_seeds_of_a_rule_on_deltas() -> None:
    found = seeds(replace(TWO, rule="dare_ties"))
    assert list(found) == ["uniform", "base", "a", "b"]
    full = {"density.a": 1.0, "density.b": 1.0}
    assert found["uniform"] == full | {"weight.a": 0.5, "weight.b": 0.5}
    assert found["base"] == full | {"weight.a": 0.0, "weight.b": 0.0}
    assert found["b"] == full | {"weight.a": 0.0, "weight.b": 1.0}


def test_seeds_of_linear() -> None:
    found = seeds(replace(TWO, rule="linear"))
    assert list(found) == ["uniform", "base", "a", "b"]
    assert set(found["uniform"].values()) == {1 / 3}
    assert found["base"] == {"weight.base": 1.0, "weight.a": 0.0, "weight.b": 0.0}
    assert list(replace(TWO, rule="linear", base=None).seeds()) == ["uniform", "a", "b"]


def test_seeds_of_slerp() -> None:
    found = seeds(replace(TWO, rule="slerp", experts=["a"]))
    assert found == {"uniform": {"t": 0.5}, "base": {"t": 0.0}, "a": {"t": 1.0}}


def test_seeds_stay_in_range_and_are_dropped_where_they_coincide() -> None:
    narrow = replace(TWO, ranges={"weight": [0.6, 0.8], "lambda": [1.5, 2.0]})
    found = narrow.seeds()
    assert found["uniform"] == (0.6, 0.6, 1.5)
    assert "base" not in found
    assert found["a"] == (0.8, 0.6, 1.5)
    assert list(replace(TWO, ranges={"weight": 0.5}).seeds()) == ["uniform"]


GIVES_ALONE = {
    "linear", "passthrough", "slerp", "nuslerp", "multislerp", "task_arithmetic", "wise_ft", "ties",
    "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties", "lines",
}  # fmt: skip
"""Rules some of whose searched numbers make one source of many, unchanged."""

CLIPPED = {"chat_vector": "weight", "ties_whole": "density", "magmax": "weight"}
"""Rules that could, but for the range that is searched: the seed is the nearest point."""


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("layers", [None, 3, "each", {"knots": 3}])
def test_a_source_alone_is_that_source_for_every_tensor(name: str, layers) -> None:
    rule = RULES[name]
    space = space_of(rule, granularity=Granularity(layers, ["attn", "embed"]))
    if not rule.searched:
        assert list(space.seeds()) == ["uniform"]
        return
    expected = GIVES_ALONE | set(CLIPPED)
    sources = [*(["base"] if rule.needs_base else []), *space.experts]
    if rule.sources == (1, 1) and name != "slerp":
        sources = [source for source in sources if source == "base"]  # "a" is the uniform point
    assert set(space.seeds()) - {"uniform"} == set(sources if name in expected else [])
    for source in sources if name in GIVES_ALONE else []:
        for plan in space.decode(space.seeds()[source]).plans(TENSORS, LAYERS):
            if name == "slerp":
                assert plan.number("t") == float(source != "base")
                continue
            for entry in plan.inputs:
                assert entry.number("weight") == float(entry.source == source)
                assert entry.number("density", 1.0) == 1.0
            assert plan.number("lambda", 1.0) == plan.number("alpha", 1.0) == 1.0
            assert plan.number("beta", 0.0) == 0.0


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_searched_point_is_a_recipe_with_plans(name: str) -> None:
    """della's probabilities once left (0, 1) in the corners of its ranges."""
    if not RULES[name].searched:
        return
    space = space_of(RULES[name], granularity=Granularity({"knots": 3}, ["attn"]))
    generator = np.random.default_rng(0)
    points = generator.random((12, len(space.variables)))
    points[6:] = np.round(points[6:])
    for point in points:
        assert len(list(space.decode(from_unit(space, point)).plans(TENSORS, LAYERS))) == len(
            TENSORS
        )


def test_a_night_of_decoding_is_cheap() -> None:
    """About 1 ms for 200 variables; the bound is loose, for busy machines."""
    space = ParameterSpace(
        "dare_ties", "base", ["a", "b", "c"], 28, granularity=Granularity(11, ["attn", "mlp"])
    )
    assert len(space.variables) == 198
    generator = np.random.default_rng(0)
    genomes = [from_unit(space, generator.random(198)) for _ in range(30)]
    seconds: list[float] = []
    for genome in genomes:
        start = time.perf_counter()
        _ = space.decode(genome).hash
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01
