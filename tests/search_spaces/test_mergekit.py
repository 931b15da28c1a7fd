"""What mergekit itself makes of our recipes: it must read them, and resolve the same numbers.

Needs an interpreter with mergekit, whose licence and pins keep it out of ours: name it in the
environment variable EVOMERGE_ORACLE, or put a virtual environment at .venv-oracle.
"""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from search_spaces.dialect import dump_recipe, parse_recipe
from search_spaces.granularity import Granularity
from search_spaces.mergekit import METHODS
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import Recipe
from search_spaces.rules import RULES, Rule
from search_spaces.space import from_unit
from tests.search_spaces.strategies import recipes

np = pytest.importorskip("numpy")
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ORACLE = Path(os.environ.get("EVOMERGE_ORACLE") or ROOT / ".venv-oracle" / "bin" / "python")
LAYERS = 5

pytestmark = pytest.mark.skipif(
    not ORACLE.exists(), reason="no mergekit (set EVOMERGE_ORACLE to an interpreter that has it)"
)

VALIDATE = """
import json, sys, yaml
from mergekit.config import MergeConfiguration
for text in json.load(sys.stdin):
    MergeConfiguration.model_validate(yaml.safe_load(text))
print("accepted")
"""

TEXTS = [
    """
merge_method: ties
base_model: m0
models:
  - {model: m1, parameters: {weight: [0, 1, 0.5], density: [{filter: norm, value: 0.5},
     {filter: mlp, value: [0.1, 0.9]}]}}
  - {model: m2, parameters: {weight: "3e-1"}}
parameters: {density: 0.25, normalize: false, lambda: [1, 2]}
""",
    """
merge_method: dare_linear
base_model: m0
slices:
  - sources:
      - {model: m0, layer_range: [0, 3]}
      - {model: m1, layer_range: [2, 5], parameters: {weight: [{filter: layers.3., value: 7}]}}
    parameters: {weight: 2, rescale: false}
  - sources:
      - {model: m1, layer_range: [4, 5], parameters: {weight: [1, 2]}}
      - {model: m0, layer_range: [4, 5]}
""",
    """
merge_method: slerp
base_model: m1
models: [{model: m0}]
parameters:
  t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0]}, {value: 0.5}]
""",
    """
merge_method: linear
models: [{model: m0, parameters: {weight: [1, 0]}}, {model: m2, parameters: {weight: [0, 1]}}]
""",
    # A frankenmerge as they stand on the Hub: one source per slice, projections scaled.
    """
merge_method: passthrough
dtype: bfloat16
slices:
  - sources: [{model: m0, layer_range: [0, 3]}]
  - sources:
      - model: m1
        layer_range: [1, 4]
        parameters: {scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]}
  - sources: [{model: m0, layer_range: [2, 5]}]
""",
    "{merge_method: passthrough, models: [{model: m2, parameters: {scale: [0.5, 1.5]}}]}",
    "{merge_method: passthrough, models: [{model: m2}]}",
    """
merge_method: passthrough
base_model: m2
slices: [{sources: [{model: m0, layer_range: [0, 2]}]}, {sources: [{model: m1, layer_range: [0, 4]}]}]
""",
    # Seen from a base, and not.
    """
merge_method: nuslerp
base_model: m0
models:
  - {model: m0}
  - {model: m1, parameters: {weight: [0.2, 0.9]}}
  - {model: m2, parameters: {weight: [{filter: mlp, value: 0.7}, {value: 0.1}]}}
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true, int8_mask: true}
""",
    """
merge_method: nuslerp
slices:
  - sources:
      - {model: m1, layer_range: [0, 4], parameters: {weight: 0.5}}
      - {model: m2, layer_range: [1, 5], parameters: {weight: 0.25}}
""",
    """
merge_method: multislerp
base_model: m1
models: [{model: m0, parameters: {weight: 0.5}}, {model: m2, parameters: {weight: 0.7}}]
parameters: {normalize_weights: false, eps: 1e-6}
""",
    "{merge_method: multislerp, models: [{model: m0}, {model: m2}, {model: m1}], parameters: {weight: 1}}",
    "{merge_method: multislerp, models: [{model: m0, parameters: {weight: 1}}]}",
    """
merge_method: karcher
base_model: m1
models: [{model: m0}, {model: m1}, {model: m2}]
parameters: {max_iter: 20, tol: 1e-9}
""",
    """
merge_method: model_stock
base_model: m0
models: [{model: m1}, {model: m2}]
parameters: {filter_wise: [{filter: mlp, value: true}, {value: false}]}
""",
    """
merge_method: sce
base_model: m0
models: [{model: m1}, {model: m0}, {model: m2}]
parameters: {select_topk: [0.1, 1.0], int8_mask: true}
""",
    "{merge_method: nearswap, base_model: m0, models: [{model: m1}], parameters: {t: [0.001, 0.01]}}",
    "{merge_method: arcee_fusion, base_model: m0, models: [{model: m1}]}",
    "{merge_method: ram, base_model: m0, models: [{model: m1}, {model: m2}], parameters: {epsilon: 1e-4}}",
    """
merge_method: breadcrumbs_ties
base_model: m0
models:
  - {model: m1, parameters: {weight: 1, density: [0.9, 0.5], gamma: 0.02}}
  - {model: m2, parameters: {weight: 0.5, density: 0.7}}
parameters: {gamma: [{filter: q_proj, value: 0.05}], lambda: 0.8}
""",
    """
merge_method: della
base_model: m0
models: [{model: m1, parameters: {weight: 1, density: 0.6, epsilon: [0.05, 0.2]}}, {model: m2}]
parameters: {weight: 0.5, density: 0.4, lambda: 1.1, normalize: false, rescale: false}
""",
]

REGISTRY = """
import json
from mergekit.merge_methods.registry import registered_methods
methods = {m.spec.name: [p.name for p in m.spec.parameters] for m in registered_methods()}
print(json.dumps(methods))
"""


def ask(script: list[str], texts: list[str]) -> str:
    done = subprocess.run(
        [str(ORACLE), *script],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def spaces() -> list[Recipe]:
    """Recipes of every rule mergekit has, in some granularities, sources called m0, m1, m2."""
    cuts = [
        Granularity(),
        Granularity(layers=2, components="all"),
        Granularity(layers="each", components=["mlp", "attn"]),
        Granularity(layers={"knots": 3}, components=["lm_head", "attn"]),
    ]
    found: list[Recipe] = []
    for place, name in enumerate(METHODS):
        rule = RULES[name]
        experts = ["m1"] if rule.sources[1] == 1 else ["m1", "m2"]
        base = "m0" if rule.base == "needed" or (rule.base == "optional" and place % 2) else None
        for cut in cuts if name in ("linear", "slerp", "ties") else [cuts[place % len(cuts)]]:
            theirs = {n: 1.0 for n in rule.searched if n not in METHODS[name]}
            space = ParameterSpace(name, base, experts, LAYERS, granularity=cut, ranges=theirs)
            generator = np.random.default_rng(len(found))
            found.append(space.decode(from_unit(space, generator.random(len(space.variables)))))
    return found


def same(ours: dict[str, Any], theirs: dict[str, Any], rule: Rule) -> bool:
    """Whether the numbers are mergekit's, and those that it does not have the rule's defaults."""
    for name, value in ours.items():
        expected = theirs.get(name, rule.default(name))
        if name == "scale" and expected is None:
            expected = 1.0
        if value != expected and not math.isclose(expected, value, rel_tol=1e-12, abs_tol=1e-12):
            return False
    return set(theirs) <= {*ours, "int8_mask"}


def test_mergekit_accepts_what_is_written() -> None:
    texts: list[str] = []

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes())
    def collect(recipe: Recipe) -> None:
        # mergekit takes one '@' (a revision) between two texts.
        if not any("@" in name for name in recipe.sources):
            texts.append(dump_recipe(recipe))

    collect()
    assert len(texts) > 30
    assert ask(["-c", VALIDATE], texts).strip() == "accepted"


def test_what_mergekit_has_is_what_it_says() -> None:
    theirs = json.loads(ask(["-c", REGISTRY], []))
    for name, names in METHODS.items():
        assert set(theirs[name]) - {"int8_mask"} == set(names)
        ours = RULES[name].parameters
        assert set(names) <= set(ours)
    assert set(theirs) - set(RULES) == {"ramplus_tl"}


def test_mergekit_resolves_the_same_numbers() -> None:
    made = [*(parse_recipe(text, "here") for text in TEXTS), *spaces()]
    # The texts as they are, too: writing must not be what makes them agree.
    written = [*(dump_recipe(recipe) for recipe in made), *TEXTS]
    answers = json.loads(ask([str(HERE / "oracle_plans.py")], written))
    for recipe, theirs in zip([*made, *made[: len(TEXTS)]], answers, strict=True):
        spans = [part.inputs[0].layers or (0, LAYERS) for part in recipe.slices]
        assert len(theirs) == 3 + 11 * sum(stop - start for start, stop in spans)
        for plan in recipe.plans(theirs, LAYERS):
            tensor = theirs[plan.tensor]
            for entry in plan.inputs:
                # `ram` has one epsilon there, and one per source here.
                values, own = {**plan.parameters, **entry.parameters}, tensor["inputs"]
                expected = {**tensor["shared"], **own[entry.source]}
                assert same(values, expected, plan.rule), (dump_recipe(recipe), plan)
            for entry in (*plan.inputs, *([plan.base] if plan.base else [])):
                assert tensor["names"][entry.source] == entry.tensor, plan
