"""The run file's kinds of `space`: what they hold, and that a frozen run file says the same."""

from typing import Any

import pytest

from evomerge.config import RunFile
from evomerge.config.space import (
    KINDS,
    STACKS,
    HybridSection,
    IndicatorSection,
    PathSection,
    TemplateSection,
    merged_of,
)
from evomerge.run_file import parse_run_file
from search_spaces.errors import InputError


def run_file(space: dict[str, Any], base: str | None = "b") -> RunFile:
    models = {"experts": {"x": "x", "y": "y"}} | ({"base": base} if base else {})
    content = {"models": models, "space": space, "fitness": {"tasks": {"t": {}}}}
    return parse_run_file(content, "run.yaml")


FULL: dict[str, dict[str, Any]] = {
    "parameter": {"rule": ["ties", "lines"], "density": [0.2, 1]},
    "path": {
        "depth": [16, 40], "first": 2, "last": 1, "input_scale": [0.5, 1.5],
        "merged": {"rule": "ties", "density": [0.2, 1], "granularity": {"layers": 4}, "share": 0.3},
    },
    "indicator": {"depth": 8, "repeats": 3, "input_scale": -0.7, "merged": {"rule": "linear"}},
    "template": {"templates": ["up_scaling"], "depth": [4, 9]},
    "hybrid": {"rule": "dare_ties", "weight": [0, 1.2], "depth": [3, 4], "weights": "per_slot"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_run_file_says_the_same(kind: str) -> None:
    written = run_file({"kind": kind} | FULL[kind])
    frozen = written.model_dump(mode="json", exclude_none=True)
    assert parse_run_file(frozen, "run.yaml") == written
    bare = run_file({"kind": kind})
    assert parse_run_file(bare.model_dump(mode="json", exclude_none=True), "run.yaml") == bare
    assert isinstance(bare.space, KINDS[kind])


def test_what_the_keys_come_to() -> None:
    path = run_file({"kind": "path"} | FULL["path"]).space
    assert isinstance(path, PathSection)
    assert (path.depth, path.first, path.last, path.input_scale) == ((16, 40), 2, 1, (0.5, 1.5))
    first = merged_of(path)
    assert first is not None
    assert (first.rules, first.share, first.parameters) == (["ties"], 0.3, {"density": [0.2, 1]})
    assert path.merging is first
    indicator = run_file({"kind": "indicator"} | FULL["indicator"]).space
    assert isinstance(indicator, IndicatorSection)
    assert (indicator.depth, indicator.repeats, indicator.input_scale) == ((8, 8), 3, -0.7)
    template = run_file({"kind": "template"} | FULL["template"]).space
    assert isinstance(template, TemplateSection)
    assert template.templates == ["up_scaling"]
    assert template.merging is None
    hybrid = run_file({"kind": "hybrid"} | FULL["hybrid"]).space
    assert isinstance(hybrid, HybridSection)
    assert hybrid.merging is hybrid
    assert hybrid.parameters == {"weight": [0, 1.2]}


def test_a_run_file_without_a_kind_searches_parameters() -> None:
    assert run_file({}).space.kind == "parameter"
    assert run_file({"rule": "ties"}).space.kind not in STACKS
    assert {"path", "indicator", "template", "hybrid"} == {*STACKS}


def test_a_base_where_a_rule_of_either_stage_needs_one() -> None:
    merged = {"rule": "ties"}
    for space in ({"kind": "path", "merged": merged}, {"kind": "hybrid"} | merged):
        with pytest.raises(InputError, match=r"rule 'ties' needs models\.base"):
            run_file(space, base=None)
    assert run_file({"kind": "path"}, base=None)
    assert run_file({"kind": "hybrid", "rule": "linear"}, base=None)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"kind": "path", "depth": True}, r"run\.yaml: space\.depth = True: depth True is no number"),
        ({"kind": "path", "first": "two"}, r"run\.yaml: space\.first = 'two': Input should be"),
        ({"kind": "path", "merged": {"granularity": {"layrs": 1}}},
         r"key 'space\.merged\.granularity\.layrs': it is unknown; did you mean 'layers'"),
        ({"kind": "hybrid", "granularity": {"component": "all"}},
         r"key 'space\.granularity\.component': it is unknown; did you mean 'components'"),
        ({"kind": ["path"]}, "space.*kind"),
    ],
)  # fmt: skip
def test_errors_name_keys_as_they_are_written(space: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_file(space)
