"""Clauses and settings: filters and gradients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.settings import Clause, Setting, parameters


@given(st.integers(1, 120).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_a_gradient_with_a_value_per_layer_has_exactly_that_value(case: tuple[int, int]) -> None:
    """l / (L-1) * (L-1) is not always l in floating point: the neighbour's value leaked in."""
    layers, layer = case
    values = tuple(0.1 * i + 1 / 3 for i in range(layers))
    depth = layer / (layers - 1) if layers > 1 else 1.0
    assert Clause(values).at(depth) == values[layer]
    switches = tuple(bool(i % 2) for i in range(layers))
    assert Clause(switches).at(depth) is switches[layer]


@pytest.mark.parametrize(("depth", "value"), [(0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 3.0)])
def test_numbers_are_interpolated(depth: float, value: float) -> None:
    assert Clause((0.0, 1.0, 5.0)).at(depth) == value


def test_other_values_switch() -> None:
    clause = Clause(("l1", "inverse"))
    assert [clause.at(d) for d in (0, 0.5, 0.99, 1)] == ["l1", "l1", "l1", "inverse"]


def test_the_first_clause_that_selects_wins() -> None:
    clauses = (Clause((1.0,), "attn"), Clause((2.0,), "q_"), Clause((3.0,), "up_proj"))
    weight = parameters({"weight": Setting((*clauses, Clause((4.0,))))})
    recipe = Recipe("task_arithmetic", (Slice((Input("a", None, weight),)),), base="b")
    parts = ("self_attn.q_proj", "self_attn.q_norm", "mlp.up_proj", "mlp.down_proj")
    plans = recipe.plans([f"model.layers.0.{part}.weight" for part in parts], 1)
    # A component is matched by role: in q_norm's name there is an "attn" too.
    assert [plan.inputs[0].parameters["weight"] for plan in plans] == [1.0, 2.0, 3.0, 4.0]
