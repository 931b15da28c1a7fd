"""Bounds on costs of the model, held against the shallowest and the deepest candidate."""

import copy
from typing import Any

import pytest

from evomerge.preflight import prepare
from evomerge.run_file import parse_run_file
from search_spaces.errors import InputError
from tests.conftest import QUICKSTART

PATH = {"kind": "path", "depth": [3, 6]}


def check(quickstart: dict[str, Any], space: dict[str, Any], *objectives: Any) -> None:
    content = copy.deepcopy(quickstart)
    content["models"]["experts"].pop("tovek")
    content["space"] = space
    task = {"items": 8, "selection": 6, "test": 12}
    content["fitness"] |= {"tasks": {"sums": task}, "objectives": ["sums", *objectives]}
    prepare(parse_run_file(content, "run.yaml"), QUICKSTART, thorough=False)


def bound(cost: str, **bounds: float) -> dict[str, Any]:
    return {"cost": cost, "name": "price", **bounds}


@pytest.mark.parametrize(
    ("space", "hopeless", "kept"),
    [
        (PATH, bound("layers", at_most=2), bound("layers", at_most=3)),
        (PATH, bound("layers", at_least=7), bound("layers", at_least=6)),
        ({"kind": "path"}, bound("layers", at_most=1), bound("layers", at_most=2)),
        ({"kind": "indicator"}, bound("layers", at_least=9), bound("layers", at_least=8)),
        ({"kind": "template"}, bound("layers", at_most=1), bound("layers", at_most=2)),
        (
            {"kind": "hybrid", "rule": "linear", "depth": 5},
            bound("layers", at_most=4.5),
            bound("layers", at_most=5),
        ),
        (
            {"rule": "linear", "weight": [0, 1]},
            bound("layers", at_most=3),
            bound("layers", at_most=4),
        ),
        # 1,280 bytes for each of 3 to 6 layers
        (PATH, bound("kv_bytes", at_most=3839), bound("kv_bytes", at_most=3840)),
        (PATH, bound("kv_bytes", at_least=7681), bound("kv_bytes", at_least=7680)),
        (PATH, bound("parameters", at_most=500_000), bound("parameters", at_most=900_000)),
    ],
)
def test_a_bound_that_no_candidate_can_keep(
    quickstart: dict[str, Any],
    space: dict[str, Any],
    hopeless: dict[str, Any],
    kept: dict[str, Any],
) -> None:
    check(quickstart, space, kept)
    with pytest.raises(InputError, match=rf"constraint price .*{hopeless['cost']} from"):
        check(quickstart, space, hopeless)
