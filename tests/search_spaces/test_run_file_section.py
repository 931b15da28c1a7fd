"""The run file's `space` section: what it refuses before any model is opened, and what it makes."""

from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.config import RunFile, Space
from search_spaces.granularity import Granularity
from search_spaces.parameter import ParameterSpace


def run_file(space: dict[str, Any], base: str | None = "b") -> RunFile:
    models = {"experts": {"x": "x", "y": "y"}} | ({"base": base} if base else {})
    return RunFile.model_validate(
        {"models": models, "space": space, "fitness": {"tasks": {"t": {}}}}
    )


@pytest.mark.parametrize(
    ("given", "rules"),
    [
        ({}, ["task_arithmetic"]),
        ({"rule": "ties"}, ["ties"]),
        ({"rule": ["ties", "della"]}, ["ties", "della"]),
        ({"rule": ["karcher", "linear"], "normalize": [True, False]}, ["karcher", "linear"]),
    ],
)
def test_rules(given: dict[str, Any], rules: list[str]) -> None:
    section = run_file(given).space
    assert section.rules == rules
    assert section.chooses == (len(rules) > 1)


def test_options_of_a_stage_are_a_choice_and_those_of_a_switch_are_not() -> None:
    """Runs from before there were stages to search go on with the algorithm they began with."""
    assert Space.model_validate({"rule": "ties", "consensus": ["none", "sum"]}).chooses
    assert not Space.model_validate({"rule": "ties", "consensus": "none"}).chooses
    assert not Space.model_validate({"rule": "ties", "normalize": [False, True]}).chooses


def test_a_section_is_a_search_space() -> None:
    section = run_file(
        {
            "rule": ["ties", "lines"],
            "consensus": ["none", "support"],
            "k": 1,
            "support": [0.1, 0.5],
            "granularity": {"layers": 2, "rules": True},
        }
    ).space
    cut = Granularity(section.granularity.layers, None, section.granularity.rules)
    space = ParameterSpace(
        section.rule, "base", ["x"], 4, granularity=cut, ranges=section.parameters
    )
    names = [variable.name for variable in space.variables]
    assert names[:4] == ["method.layers_0_1", "method.layers_2_3", "consensus.layers_0_1",
                         "consensus.layers_2_3"]  # fmt: skip
    assert "support.layers_0_1" in names
    assert "density.x.layers_0_1" in names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "tie"}, "rule 'tie' is unknown; did you mean 'ties'"),
        ({"rule": ["ties", "dela"]}, "rule 'dela' is unknown; did you mean 'della'"),
        ({"rule": []}, "an empty list"),
        ({"rule": "ties", "t": 0.5}, "'t': 'ties' has no such parameter"),
        ({"rule": ["ties", "lines"], "t": 0.5}, "'t': 'ties' or 'lines' has no such parameter"),
        ({"rule": "ties", "method": ["ties"]}, "'method': 'ties' has no such parameter"),
        ({"rule": "linear", "consensus": "sum"}, "'consensus': 'linear' has no such parameter"),
        ({"rules": ["ties"]}, "'rules': unknown key; did you mean 'rule'"),
        ({"rule": "ties", "consensus": [["sum"]], "support": 1}, "'support': 'ties' has no such"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Space.model_validate(given)


def test_a_base_where_a_rule_needs_one() -> None:
    for rule in ("ties", ["linear", "ties"], "slerp"):
        with pytest.raises(ValidationError, match=r"needs models\.base"):
            run_file({"rule": rule}, base=None)
    assert run_file({"rule": "ties", "reference": "mean"}, base=None)
    assert run_file({"rule": ["linear", "nuslerp"]}, base=None)
