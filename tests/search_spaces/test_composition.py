"""Recipes that choose their method and stages, by tensor and by depth."""

import pytest

from search_spaces.composition import compose
from search_spaces.dialect import dump_recipe, parse_recipe
from search_spaces.errors import InputError
from search_spaces.recipe import TensorPlan
from search_spaces.rules import OVERRIDES, RULES
from search_spaces.stages import STAGES
from tests.search_spaces.test_plans import OUTER, Q, plan

UP = "model.layers.{}.mlp.up_proj.weight"
TIES = """
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {weight: 0.5, density: 0.4%s}
"""


def stages(found: TensorPlan) -> dict[str, str]:
    """The stages that do anything."""
    return {stage: choice for stage, choice in found.choices().items() if choice != "none"}


def test_a_plan_says_every_stage() -> None:
    (found,) = plan(TIES % "", Q.format(0))
    assert list(found.choices()) == list(STAGES)
    assert stages(found) == {
        "reference": "base",
        "sparsify": "magnitude",
        "consensus": "sum",
        "combine": "mean",
    }
    assert (found.number("lambda"), found.text("scope")) == (1.0, "tensor")
    assert found.inputs[1].number("density") == 0.4
    assert found.number("t", 0.25) == 0.25
    with pytest.raises(KeyError):
        found.number("t")


@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ("normalize: false", {"combine": "sum"}),
        ("normalize: true", {}),
        ("combine: sum, normalize: true", {"combine": "sum"}),
        ("combine: largest, normalize: false", {"combine": "largest"}),
        ("rescale: true", {"rescale": "l1"}),
        ("rescale: true, rescale_norm: inverse", {"rescale": "inverse"}),
        ("rescale_norm: inverse", {}),
        ("consensus: count", {"consensus": "count"}),
        ("sparsify: random", {"sparsify": "random"}),
        ("reference: mean", {"reference": "mean"}),
        ("spectral: star", {"spectral": "star"}),
        ("method: dare_linear, consensus: count", {"sparsify": "random", "rescale": "l1",
                                                   "consensus": "count", "combine": "sum"}),
    ],
)  # fmt: skip
def test_settings_choose_stages(said: str, changed: dict[str, str]) -> None:
    (plain,) = plan(TIES % "", Q.format(0))
    (found,) = plan(TIES % f", {said}", Q.format(0))
    assert found.choices() == plain.choices() | changed


def test_parameters_are_those_of_the_rule_in_force() -> None:
    text = TIES % ", sparsify: [{filter: mlp, value: della}], epsilon: 0.1"
    attention, mlp = plan(text, Q.format(0), UP.format(0))
    assert "epsilon" not in attention.inputs[0].parameters
    assert mlp.inputs[0].number("epsilon") == 0.1
    assert attention.text("scope") == "tensor"
    assert "scope" not in mlp.parameters
    assert not set(OVERRIDES) & set(mlp.parameters)


def test_a_stages_default_is_its_own() -> None:
    (found,) = plan(TIES % ", sparsify: above", Q.format(0))
    assert found.inputs[0].number("epsilon") == 1e-5


MIXED = """
merge_method: ties
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}]
    parameters: {method: [{filter: attn, value: slerp}], t: [0.2, 0.4]}
  - sources: [{model: base, layer_range: [2, 6]}, {model: a, layer_range: [2, 6]}]
    parameters: {method: [dare_ties, lines], consensus: [{filter: mlp, value: none}]}
parameters: {weight: 0.5, density: 0.4, beta: 0.5}
"""


def test_methods_mix() -> None:
    found = plan(MIXED, Q.format(0), UP.format(1), Q.format(2), UP.format(2), Q.format(5), *OUTER,
                 layers=6)  # fmt: skip
    assert [p.rule.name for p in found] == [
        "slerp", "ties", "dare_ties", "dare_ties", "lines", "ties", "dare_ties", "dare_ties"
    ]  # fmt: skip
    assert [p.choices()["consensus"] for p in found] == [
        "none", "sum", "sum", "none", "none", "sum", "sum", "sum"
    ]  # fmt: skip
    slerp = found[0]
    assert slerp.base is not None
    assert [i.source for i in slerp.merged] == ["base", "a"]
    assert slerp.parameters == {"t": 0.2}
    assert [i.source for i in found[1].merged] == ["a"]
    recipe = parse_recipe(MIXED, "here")
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe


def test_depth_is_the_output_layers_place() -> None:
    found = plan(MIXED, *(Q.format(i) for i in range(6)), *OUTER, layers=6)
    assert [p.depth for p in found] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, None, None, None])
    one = "{merge_method: linear, models: [{model: a, parameters: {weight: 1}}]}"
    assert plan(one, Q.format(0), layers=1)[0].depth == 0


def test_an_optional_base() -> None:
    text = "{merge_method: nuslerp, %s models: [{model: a}, {model: b}], parameters: {weight: 1}}"
    (free,) = plan(text % "", Q.format(0))
    assert (free.base, free.choices()["reference"]) == (None, "none")
    (seen,) = plan(text % "base_model: c,", Q.format(0))
    assert seen.base is not None
    assert (seen.base.source, seen.choices()["reference"]) == ("c", "base")
    listed = text.replace("[{model: a}", "[{model: c}, {model: a}") % "base_model: c,"
    assert parse_recipe(listed, "here") == parse_recipe(text % "base_model: c,", "here")


def test_pools_without_a_base() -> None:
    text = """
merge_method: ties
models: [{model: a}, {model: b}]
parameters: {reference: mean, weight: 1, density: 0.5}
"""
    (found,) = plan(text, Q.format(0))
    assert (found.base, found.choices()["reference"]) == (None, "mean")


def test_slerp_of_deltas_takes_two_sources() -> None:
    two = TIES % ", combine: slerp, t: 0.5"
    (found,) = plan(two, Q.format(0))
    assert [i.source for i in found.merged] == ["a", "b"]
    with pytest.raises(InputError, match=r"models: combine 'slerp' of 1 source\(s\): it takes 2"):
        plan(two.replace(", {model: b}", ""), Q.format(0))


FRANKEN = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources:
      - model: b
        layer_range: [1, 4]
        parameters: {scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]}
  - sources: [{model: a, layer_range: [2, 4]}]
"""


def test_a_frankenmerge() -> None:
    names = [Q.format(i) for i in range(8)] + ["model.layers.4.self_attn.o_proj.weight", *OUTER]
    found = plan(FRANKEN, *names)
    assert [i.source for p in found for i in p.inputs] == list("aaabbbaabaaa")
    assert found[4].inputs[0].tensor == Q.format(2)
    assert [p.inputs[0].number("scale") for p in found] == [1] * 8 + [0] + [1] * 3
    assert all(p.base is None for p in found)


RANGE = "{merge_method: %s, base_model: base, models: [%s], parameters: {%s}}"
BROKEN = {
    "an unknown method in a setting": (
        TIES % ", method: [{filter: mlp, value: dera}]",
        "merge method 'dera': it is not a known merge method; did you mean 'della'",
    ),
    "an unknown choice": (
        TIES % ", consensus: sums",
        "consensus = sums: it is one of none, sum, count, support",
    ),
    "a choice that is a number": (TIES % ", consensus: 1", "consensus = 1: it is one of none"),
    "a parameter of no rule in sight": (
        TIES % ", method: [{filter: mlp, value: lines}], epsilon: 0.1",
        "parameter 'epsilon': method 'ties' and 'lines' has no such parameter",
    ),
    "a stage of a rule without stages": (
        "{merge_method: linear, models: [{model: a}], parameters: {consensus: sum}}",
        "parameter 'consensus': method 'linear' has no such parameter",
    ),
    "a method of one source": (
        TIES.replace("{model: a}", "{model: a, parameters: {method: ties}}") % "",
        "source a: parameter 'method' of one source: it belongs to the merged tensor",
    ),
    "methods that see the base differently": (
        TIES % ", method: [{filter: mlp, value: linear}]",
        "methods 'ties' and 'linear' with a base_model: one sees the others from the base",
    ),
    "a mixed method that takes fewer sources": (
        TIES % ", method: [{filter: mlp, value: slerp}]",
        r"models: 2 source\(s\): method 'slerp' takes 1 besides the base",
    ),
    "one source for model_stock": (
        RANGE % ("model_stock", "{model: a}", ""),
        r"1 source\(s\): method 'model_stock' takes 2 or more besides the base",
    ),
    "one source for a combination of several": (
        RANGE % ("ties", "{model: a}", "weight: 1, combine: model_stock"),
        r"combine 'model_stock' of 1 source\(s\): it takes 2 or more",
    ),
    "three for nuslerp": (
        "{merge_method: nuslerp, models: [{model: a}, {model: b}, {model: c}]}",
        r"3 source\(s\): method 'nuslerp' takes 2",
    ),
    "two for passthrough": (
        "{merge_method: passthrough, models: [{model: a}, {model: b}]}",
        r"2 source\(s\): method 'passthrough' takes 1",
    ),
    "importance without the base": (
        TIES % ", sparsify: importance, reference: mean",
        "sparsify 'importance' with reference 'mean': importance is how far",
    ),
    "stages between the base itself and a source": (
        RANGE % ("wise_ft", "{model: a}",
                 "weight: 1, reference: none, combine: slerp, t: 0.5, sparsify: random"),
        "slerp from the base itself to a source has no deltas",
    ),
    "probabilities above 1": (
        RANGE % ("della", "{model: a}", "weight: 1, density: 0.9, epsilon: 0.1"),
        "density = 0.9 with epsilon = 0.1: della keeps elements with probabilities",
    ),
    "probabilities below 0, by the default": (
        RANGE % ("della_linear", "{model: a}", "weight: 1, density: 0.1"),
        "density = 0.1 with epsilon = 0.15",
    ),
    "probabilities of one component": (
        TIES % ", sparsify: [{filter: mlp, value: della}], epsilon: 0.4",
        "density = 0.4 with epsilon = 0.4",
    ),
    "more needed than there are": (
        RANGE % ("consensus", "{model: a}", "weight: 1"),
        r"k = 2 with 1 source\(s\): no element is needed by more sources than there are; lower k",
    ),
    "half a source": (
        RANGE % ("consensus", "{model: a}, {model: b}", "weight: 1, k: 1.5"),
        r"k = 1.5: it is a whole number in \[1, inf\]",
    ),
    "no source": (
        RANGE % ("consensus", "{model: a}, {model: b}", "weight: 1, k: 0"), "k = 0.0: it is a whole"
    ),
    "a gradient of whole numbers": (
        RANGE % ("consensus", "{model: a}, {model: b}", "weight: 1, k: [1, 2]"),
        r"k = \[1.0, 2.0\]: a whole number has no gradient",
    ),
    "no base": (
        "{merge_method: ties, models: [{model: a}], parameters: {weight: 1, "
        "reference: [{filter: mlp, value: mean}]}}",
        "no base_model: method 'ties' needs the base",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=list(BROKEN))
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe(text, "recipe.yaml")


def test_what_is_only_known_by_tensor_is_refused_there() -> None:
    gradient = RANGE % ("della", "{model: a}", "weight: 1, density: [0.5, 0.95], epsilon: 0.1")
    assert plan(gradient, Q.format(0))
    with pytest.raises(
        InputError, match=r"tensor model.layers.3.*density = 0.95 with epsilon = 0.1"
    ):
        plan(gradient, Q.format(3))
    part = TIES % ", sparsify: [{filter: up_proj, value: importance}], reference: [base, mean]"
    assert plan(part, Q.format(3), UP.format(0))
    with pytest.raises(InputError, match=r"tensor model.layers.3.mlp.*'importance' with reference"):
        plan(part, UP.format(3))


def same(first: str, second: str) -> bool:
    one, two = (TIES % f", {said}" if said else TIES % "" for said in (first, second))
    return parse_recipe(one, "here").hash == parse_recipe(two, "here").hash


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", "method: ties"),
        ("", "method: ties, consensus: sum"),
        ("", "sparsify: magnitude, reference: base, spectral: none"),
        ("", "consensus: [{filter: mlp, value: [sum, sum]}, {filter: q_proj, value: sum}]"),
        ("sparsify: none", "sparsify: none, rescale: true, rescale_norm: inverse"),
        ("combine: largest", "combine: largest, normalize: false"),
        ("method: dare_ties", "method: [{filter: attn, value: dare_ties}, {value: dare_ties}]"),
        ("method: [{filter: attn, value: della}], epsilon: 0.1",
         "method: [{filter: attn, value: della}], epsilon: [{filter: mlp, value: 0.3}, {value: 0.1}]"),
        ("method: [{filter: attn, value: lines}], beta: 0.3",
         "method: [{filter: attn, value: lines}, {filter: attn, value: magmax}], beta: 0.3"),
    ],
)  # fmt: skip
def test_settings_that_nothing_reads_are_no_part_of_a_recipe(first: str, second: str) -> None:
    """Else a search would score one model many times."""
    assert same(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("", "combine: mean, normalize: false"),
        ("", "method: [{filter: attn, value: lines}]"),
        ("consensus: count", "consensus: none"),
        ("method: [{filter: attn, value: della}], epsilon: 0.1",
         "method: [{filter: attn, value: della}], epsilon: 0.2"),
        ("method: [{filter: q_proj, value: della}], epsilon: 0.1",
         "method: [{filter: q_proj, value: della}], epsilon: [{filter: attn, value: 0.1}]"),
    ],
)  # fmt: skip
def test_settings_that_something_reads_are(first: str, second: str) -> None:
    assert not same(first, second)


def test_a_method_that_is_in_force_everywhere_is_named() -> None:
    recipe = parse_recipe(TIES % ", method: dare_ties", "here")
    assert (recipe.method, dict(recipe.parameters).keys()) == ("dare_ties", {"weight", "density"})
    assert recipe == parse_recipe((TIES % "").replace(": ties", ": dare_ties"), "here")


def test_plain_recipes_keep_what_they_say() -> None:
    """Their hashes are older than stages that can be chosen: cached scores depend on them."""
    text = "{merge_method: task_arithmetic, base_model: b, models: [{model: a}], parameters: {density: 0.5}}"
    assert dict(parse_recipe(text, "here").parameters).keys() == {"density"}


OLDER = {
    "{merge_method: linear, models: [{model: a, parameters: {weight: [1, 0.5]}}, {model: b}], "
    "parameters: {weight: 2, normalize: false}}": "2fb2c3f33e94cc17",
    "{merge_method: slerp, base_model: b, models: [{model: a}], "
    "parameters: {t: [{filter: attn, value: [0, 1]}, {value: 0.5}]}}": "37466dfe916d780c",
    "{merge_method: task_arithmetic, base_model: b, models: [{model: a}], "
    "parameters: {weight: 1, density: 0.5, rescale: true}}": "622409ebb04bcbb0",
}  # fmt: skip
"""Recipes, and how their hashes began before stages could be chosen."""

DRAWN = (
    "{merge_method: dare_ties, base_model: b, seed: 3, dtype: float16, slices: [{sources: ["
    "{model: b, layer_range: [0, 2]}, {model: a, layer_range: [1, 3], parameters: {weight: 0.5}}], "
    "parameters: {density: 0.3}}, {sources: [{model: a, layer_range: [2, 3]}], "
    "parameters: {weight: 1}}], parameters: {rescale_norm: inverse, lambda: 1.5}}"
)


def test_recipes_with_random_masks_do_not_keep_theirs() -> None:
    """The generator changed: what was scored under the old hash is another model."""
    assert not parse_recipe(DRAWN, "here").hash.startswith("eef9cb596f5b210e")


@pytest.mark.parametrize(("text", "start"), OLDER.items())
def test_older_recipes_keep_their_hashes(text: str, start: str) -> None:
    assert parse_recipe(text, "here").hash.startswith(start)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_composing_changes_only_what_is_said(rule) -> None:
    composed = compose(rule, rule.needs_base, {})
    assert composed.choice("reference") == rule.reference
    assert composed == compose(composed, rule.needs_base, {})
    free = {stage for stage in STAGES if composed.choice(stage) != rule.choice(stage)}
    assert not free


def test_what_mergekit_would_not_do_is_said() -> None:
    def comment(text: str) -> str:
        return dump_recipe(parse_recipe(text, "here")).split("merge_method")[0]

    assert comment(TIES % "") == ""
    assert (
        "mergekit's 'ties' has no 'alpha', 'consensus' and would merge something else"
        in comment(TIES % ", consensus: count, alpha: 0.5")
    )
    assert "mergekit has no method 'magmax'" in comment((TIES % "").replace(": ties", ": magmax"))
