"""The declaration of merge rules is one truth: nothing in it may contradict the rest."""

import dataclasses
import math

import pytest

from search_spaces.describe import rules_table
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace
from search_spaces.rules import PARAMETERS, RULES, STAGES, Parameter, Rule, rule_named


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_rule_says_only_what_is_declared(rule: Rule) -> None:
    for stage, choices in STAGES.items():
        assert getattr(rule, stage) in choices
    assert set(rule.searched) <= set(rule.parameters) <= set(PARAMETERS)
    assert set(rule.defaults) <= set(rule.parameters)
    assert rule.needs_base or rule.reference == "none"
    assert rule.paper


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_searched_parameter_has_a_valid_range(rule: Rule) -> None:
    assert rule.searched
    for name in rule.searched:
        parameter = PARAMETERS[name]
        assert parameter.search is not None
        low, high = parameter.search
        assert parameter.low <= low < high <= parameter.high
        assert math.isfinite(low)
        assert math.isfinite(high)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_switches_have_a_default_in_every_rule(rule: Rule) -> None:
    for name in rule.parameters:
        if PARAMETERS[name].choices:
            assert rule.default(name) in PARAMETERS[name].choices


def test_a_registered_rule_without_a_search_range_cannot_be_searched(monkeypatch) -> None:
    unranged = dataclasses.replace(PARAMETERS["weight"], name="strength", search=None)
    rule = dataclasses.replace(
        RULES["linear"], name="odd", parameters=("strength",), searched=("strength",)
    )
    monkeypatch.setitem(PARAMETERS, "strength", unranged)
    monkeypatch.setitem(RULES, "odd", rule)
    with pytest.raises(InputError, match="parameter 'strength': a searched parameter has a range"):
        ParameterSpace("odd", None, ["a", "b"], 4)
    assert isinstance(unranged, Parameter)


def test_an_unknown_rule_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'ties'"):
        rule_named("tiez", "merge_method")


def test_rules_can_be_hashed() -> None:
    """A rule's table of defaults once made `hash(plan)` fail."""
    assert len({hash(rule) for rule in RULES.values()}) == len(RULES)


def test_the_docs_table_names_every_rule_and_parameter() -> None:
    table = rules_table()
    for name in (*RULES, *PARAMETERS):
        assert f"| `{name}` |" in table
    assert "| `density` | source | 1.0 | [0, 1] | [0.2, 1] |" in table
