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
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import Recipe
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
]


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
    """Recipes of every rule and granularity, sources called m0, m1, m2."""
    cuts = [
        Granularity(),
        Granularity(layers=2, components="all"),
        Granularity(layers="each", components=["mlp", "attn"]),
        Granularity(layers={"knots": 3}, components=["lm_head", "attn"]),
    ]
    found: list[Recipe] = []
    for rule, base, experts in [
        ("linear", None, ["m1", "m2"]),
        ("slerp", "m0", ["m1"]),
        ("ties", "m0", ["m1", "m2"]),
    ]:
        for cut in cuts:
            space = ParameterSpace(rule, base, experts, LAYERS, granularity=cut)
            generator = np.random.default_rng(len(found))
            found.append(space.decode(from_unit(space, generator.random(len(space.variables)))))
    return found


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return all(
        math.isclose(theirs[name], value, rel_tol=1e-12, abs_tol=1e-12)
        for name, value in ours.items()
        if name != "rescale_norm"
    )


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
            assert same(dict(plan.parameters), tensor["shared"]), (dump_recipe(recipe), plan)
            for entry in plan.inputs:
                assert same(dict(entry.parameters), tensor["inputs"][entry.source]), plan
            for entry in (*plan.inputs, *([plan.base] if plan.base else [])):
                assert tensor["names"][entry.source] == entry.tensor, plan
