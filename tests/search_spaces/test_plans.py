"""What a recipe says about each tensor."""

import pytest

from search_spaces.dialect import parse_recipe
from search_spaces.errors import InputError
from search_spaces.recipe import TensorPlan

Q = "model.layers.{}.self_attn.q_proj.weight"
OUTER = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


def plan(text: str, *tensors: str, layers: int = 4) -> list[TensorPlan]:
    return list(parse_recipe(text, "here").plans(tensors, layers))


def weights(plans: list[TensorPlan]) -> list[object]:
    return [p.inputs[0].parameters["weight"] for p in plans]


SLICES = """
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 3]}
      - {model: a, layer_range: [1, 4], parameters: {weight: [1, 3]}}
  - sources:
      - {model: base, layer_range: [3, 4]}
      - {model: a, layer_range: [3, 4], parameters: {weight: [5, 6]}}
"""


def test_slices_stack() -> None:
    plans = plan(SLICES, *(Q.format(i) for i in range(4)))
    assert [p.inputs[0].tensor for p in plans] == [Q.format(i) for i in (1, 2, 3, 3)]
    assert [p.base.tensor for p in plans if p.base] == [Q.format(i) for i in (0, 1, 2, 3)]
    # The gradient is over the slice; the only layer of a slice is its last.
    assert weights(plans) == [1, 2, 3, 6]


def test_tensors_outside_the_stack_have_the_gradients_first_value() -> None:
    """As mergekit 0.1.5 plans it: the head goes with the last slice, but at depth 0."""
    assert weights(plan(SLICES, *OUTER)) == [1, 5, 5]


LEVELS = """
merge_method: ties
base_model: base
models:
  - model: a
    parameters:
      weight: [{filter: attn, value: 1}, {filter: mlp, value: 2}]
  - model: b
parameters:
  weight: [{filter: norm, value: 3}, {value: 4}]
  lambda: [{filter: mlp, value: 0.5}]
"""


@pytest.mark.parametrize(
    ("tensor", "a", "b", "scale"),
    [
        (Q.format(0), 1, 4, 1.0),
        ("model.layers.0.mlp.up_proj.weight", 2, 4, 0.5),
        ("model.layers.0.input_layernorm.weight", 3, 3, 1.0),
        ("lm_head.weight", 4, 4, 1.0),
    ],
)
def test_a_setting_that_says_nothing_falls_through(
    tensor: str, a: float, b: float, scale: float
) -> None:
    (found,) = plan(LEVELS, tensor)
    assert [i.parameters["weight"] for i in found.inputs] == [a, b]
    assert found.parameters["lambda"] == scale
    # The rule's defaults come last.
    assert found.inputs[0].parameters["density"] == 1.0
    assert found.parameters["normalize"] is True


def test_slice_settings_come_between() -> None:
    text = """
merge_method: linear
slices:
  - sources: [{model: a, layer_range: [0, 1], parameters: {weight: 1}},
              {model: b, layer_range: [0, 1]}]
    parameters: {weight: 2}
  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]
parameters: {weight: 3}
"""
    found = [[i.parameters["weight"] for i in p.inputs] for p in plan(text, *map(Q.format, (0, 1)))]
    assert found == [[1, 2], [3, 3]]


def test_a_filter_under_a_source_sees_that_sources_name() -> None:
    """It used to see the output's, which is another layer where slices shift."""
    text = """
merge_method: linear
slices:
  - sources: [{model: a, layer_range: [0, 1], parameters: {weight: 1}}]
  - sources:
      - model: a
        layer_range: [3, 4]
        parameters: {weight: [{filter: layers.3., value: 2}, {value: 9}]}
"""
    assert weights(plan(text, Q.format(1))) == [2]


def test_a_tensor_without_a_value_is_an_error() -> None:
    text = """
merge_method: linear
models: [{model: a, parameters: {weight: [{filter: mlp, value: 1}]}}]
"""
    assert weights(plan(text, "model.layers.0.mlp.up_proj.weight")) == [1]
    with pytest.raises(InputError, match=r"tensor lm_head.weight: no value of 'weight'"):
        plan(text, "lm_head.weight")


def test_layers_beyond_the_model_are_errors() -> None:
    with pytest.raises(InputError, match=r"source base: layer_range \[0, 3\]: .* has 2 layers"):
        plan(SLICES, Q.format(0), layers=2)
    with pytest.raises(InputError, match="the recipe's result has 4 layers"):
        plan(SLICES, Q.format(4))


def test_slerp_plans_base_and_other() -> None:
    text = "{merge_method: slerp, base_model: b, models: [{model: a}], parameters: {t: [0, 1]}}"
    first, last = plan(text, Q.format(0), Q.format(3))
    assert first.base is not None
    assert (first.base.source, [i.source for i in first.inputs]) == ("b", ["a"])
    assert (first.parameters["t"], last.parameters["t"]) == (0, 1)
