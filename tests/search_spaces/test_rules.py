"""The declaration of merge rules is one truth: nothing in it may contradict the rest."""

import dataclasses
import math

import pytest

from search_spaces.describe import parameters_table, rules_table, stages_table
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace
from search_spaces.rules import (
    METHOD,
    OVERRIDES,
    PARAMETERS,
    RULES,
    STAGES,
    Parameter,
    Rule,
    rule_named,
)
from search_spaces.stages import INPUTS


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_rule_says_only_what_is_declared(rule: Rule) -> None:
    for stage, choices in STAGES.items():
        assert rule.choice(stage) in choices
    assert set(rule.searched) <= set(rule.parameters) <= set(PARAMETERS)
    assert set(rule.defaults) <= set(rule.parameters)
    assert set(rule.ranges) <= set(rule.searched)
    assert rule.base in ("needed", "optional", "source", "either")
    assert rule.needs_base or rule.reference == "none"
    assert rule.paper


def test_stages_and_presets_speak_of_declared_parameters() -> None:
    for stage, choices in STAGES.items():
        for choice, names in choices.items():
            assert set(names) <= set(PARAMETERS), (stage, choice)
            assert rule_of(stage, choice) or stage == "rescale", (
                f"no rule can have {stage} {choice}"
            )
    assert set(INPUTS) <= set(STAGES["combine"])
    assert PARAMETERS[METHOD].choices == tuple(RULES)
    for stage in OVERRIDES:
        assert PARAMETERS[stage].choices == tuple(STAGES[stage])


def rule_of(stage: str, choice: str) -> list[str]:
    return [r.name for r in RULES.values() if r.choice(stage) == choice or stage in r.own]


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_searched_parameter_has_a_valid_range(rule: Rule) -> None:
    assert (
        rule.searched or rule.combine in ("karcher", "model_stock") or rule.name == "arcee_fusion"
    )
    for name in rule.searched:
        parameter = PARAMETERS[name]
        interval = rule.search(name)
        assert interval is not None
        low, high = interval
        assert parameter.low <= low < high <= parameter.high
        assert math.isfinite(low)
        assert math.isfinite(high)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_switches_have_a_default_in_every_rule(rule: Rule) -> None:
    for name in rule.parameters:
        if PARAMETERS[name].choices:
            assert rule.default(name) in PARAMETERS[name].choices


def test_a_default_may_go_with_a_stage() -> None:
    """The least |delta| of `ram` is no share of probabilities as in `della`."""
    task = RULES["task_arithmetic"]
    above = task.with_stages(sparsify="above")
    assert (above.default("epsilon"), above.search("epsilon")) == (1e-5, (1e-6, 1e-3))
    della = task.with_stages(sparsify="della")
    assert (della.default("epsilon"), della.search("epsilon")) == (0.15, (0.01, 0.15))
    assert RULES["pcb"].default("density") == 0.1
    assert RULES["nearswap"].search("t") == (1e-5, 1e-2)
    assert RULES["slerp"].search("t") == (0.0, 1.0)


def test_a_registered_rule_without_a_search_range_cannot_be_searched(monkeypatch) -> None:
    unranged = dataclasses.replace(PARAMETERS["weight"], name="strength", search=None)
    rule = dataclasses.replace(
        RULES["linear"], name="odd", own=("strength",), searched=("strength",)
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


def test_the_docs_tables_name_every_rule_stage_and_parameter() -> None:
    rules, stages, numbers = rules_table(), stages_table(), parameters_table()
    assert all(f"| `{name}` | " in rules for name in RULES)
    assert all(f"| `{s}` | `{c}` | " in stages for s, choices in STAGES.items() for c in choices)
    assert all(f"| `{name}` | " in numbers for name in PARAMETERS)
    assert "| `density` | source | 1 | [0, 1] | [0.2, 1] |" in numbers
    assert "density [0.02, 0.3]" in rules
