"""What `check` and `merge` once disagreed on, and what `check` once left out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.preflight import Prepared
from evomerge.recipe_files import check_recipe, merge_recipe
from search_spaces.errors import InputError
from tests.checks.zoo import Tensors, copied

STACK = """
merge_method: passthrough
slices:
- sources: [{{model: {folder}, layer_range: [0, {until}]}}]
"""


def not_a_number(tensors: Tensors) -> None:
    tensors["model.layers.3.mlp.up_proj.weight"].view(-1)[5] = float("nan")


def test_a_layer_that_a_recipe_leaves_out_may_be_damaged(tmp_path: Path) -> None:
    """`merge` wrote such a recipe, `check` refused it."""
    folder = copied(tmp_path / "damaged", "base", not_a_number)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(STACK.format(folder=folder, until=3))
    assert dict(check_recipe(recipe))["result"].startswith("29 tensors, 3 layers")
    merge_recipe(recipe, tmp_path / "out", None, "cpu")
    recipe.write_text(STACK.format(folder=folder, until=4))
    for use in (check_recipe, lambda file: merge_recipe(file, tmp_path / "no", None, "cpu")):
        with pytest.raises(InputError, match=r"layers\.3\.mlp\.up_proj.*NaN"):
            use(recipe)


def test_two_stages_say_their_evaluations(prepared: Callable[..., Prepared]) -> None:
    space: dict[str, Any] = {
        "kind": "path",
        "depth": [3, 5],
        "merged": {"rule": "linear", "weight": [0, 1], "share": 0.4},
    }
    facts = dict(prepared({"space": space}).facts)
    said = "20 evaluations in two stages: 8 by nsga2, then 12 by nsga2"
    assert facts["search"] == said
