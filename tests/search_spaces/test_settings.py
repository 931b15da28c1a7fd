"""Clauses and settings: filters and gradients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.settings import Clause, Setting


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
    setting = Setting((Clause((1.0,), "attn"), Clause((2.0,), "q_"), Clause((3.0,), "up_proj")))
    assert setting.at("model.layers.0.self_attn.q_proj.weight", 0) == 1.0
    # A component is matched by role: in the name there is an "attn" too.
    assert setting.at("model.layers.0.self_attn.q_norm.weight", 0) == 2.0
    assert setting.at("model.layers.0.mlp.up_proj.weight", 0) == 3.0
    assert setting.at("model.layers.0.mlp.down_proj.weight", 0) is None
