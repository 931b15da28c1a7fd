"""The legs of a night are what a real, finished run has paid for."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evomerge.budgets import budget_now
from evomerge.config import RunFile
from evomerge.config.search import Budget
from evomerge.legs import SEARCHING, legs
from evomerge.live.night import legs_left
from evomerge.run_file import load_run_file
from evomerge.runs.folder import RunFolder
from evomerge.search.view import SilentView
from evomerge.session import start

MERGED = {"rule": "task_arithmetic", "weight": [0, 1.5], "share": 0.3}
STACKS = {
    "models.experts.tovek": None,
    "fitness.tasks": {"sums": {"items": 4, "selection": 4, "test": 5}},
    "fitness.objectives": ["sums"],
    "search.budget.evaluations": 22,
}
CALM: Mapping[str, Any] = {
    "fitness.cache": False, "search.budget.evaluations": 14, "search.finalists": 3,
}  # fmt: skip

RUNS: Mapping[str, Mapping[str, Any]] = {
    "with a random baseline": {},
    "without": {"search.random_baseline": False},
    "of two stages": {**STACKS, "space": {"kind": "path", "depth": [3, 6], "merged": MERGED}},
    "of two stages, no baseline": {
        **STACKS,
        "space": {"kind": "template", "merged": MERGED},
        "search.random_baseline": False,
    },
    "stacked": {**STACKS, "space": {"kind": "path", "depth": [3, 6]}},
    "hybrid": {**STACKS, "space": {"kind": "hybrid", "rule": "task_arithmetic", "weight": [0, 1]}},
    "with an incumbent": {"fitness.objectives": ["sums", {"flips": "base", "at_most": 0.5}]},
    "with tables": {"space.rule": "ties"},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_the_legs_are_what_a_run_has_paid_for(
    changes: Mapping[str, Any], write_run: Callable[..., Path], tmp_path: Path
) -> None:
    start(write_run({**CALM, **changes}), tmp_path / "run", None, SilentView())
    with closing(RunFolder.open(tmp_path / "run")) as run:
        items = Counter(row.split for row in run.database.items())
        found = legs(run.config, budget_now(run), items)
        total: Counter[str] = Counter()
        for leg in found:
            total[leg.phase] += leg.evaluations
        for phase in SEARCHING:
            assert total[phase] == len(run.database.candidates(phase)), phase
        paid = {s: len(run.database.evaluations(s)) for s in ("selection", "test", "as_searched")}
        hashes = [digest for digest, _ in run.database.recipes().values()]
        assert run.database.meta("finished_at_budget") is not None
        left = legs_left(run.database, found, {})
    kind = changes.get("space", {}).get("kind", "parameter")
    watched = int(total["incumbent"] > 0)
    assert total["incumbent"] == 3 * watched
    assert total["sources"] == (3 if kind != "parameter" else 0)
    # The best start of a path that is no merge is a source: known, and not in the legs.
    known = kind == "path" and "merged" not in total
    same = len(hashes) - len(set(hashes)) - known
    assert total["test"] + watched - same == paid["test"] + paid["as_searched"]
    chosen = total["selection"] + total["greedy soup"] + watched
    if kind == "parameter":
        assert chosen == paid["selection"]
        assert sum(leg.evaluations for leg in left) == same
    else:  # finalists may be the same stack as the random search's, or than the soup's
        assert chosen - 2 <= paid["selection"] <= chosen


def config_of(write_run: Callable[..., Path], changes: Mapping[str, Any]) -> RunFile:
    return load_run_file(write_run(changes))


ITEMS = {"search": 10, "selection": 5, "test": 5}


def hours_of(
    config: RunFile, budget: Budget, spent: Mapping[str, float] | None = None
) -> dict[str, tuple[float | None, float]]:
    found = legs(config, budget, ITEMS, spent)
    return {leg.phase: (leg.hours, leg.spent) for leg in found if leg.phase in SEARCHING}


def test_a_second_stage_has_what_the_first_leaves_of_the_hours(
    write_run: Callable[..., Path],
) -> None:
    changes = {"space": {"kind": "path", "merged": MERGED}, "search.budget.evaluations": 100}
    unbounded = config_of(write_run, changes)
    assert hours_of(unbounded, unbounded.search.budget) == {
        "merged": (None, 0), "search": (None, 0), "merged_random": (None, 0), "random": (None, 0),
    }  # fmt: skip
    raised = unbounded.search.budget.model_copy(update={"hours": 10.0})
    # The first was not bounded when it began, and took 4 hours.
    assert hours_of(unbounded, raised, {"merged": 4.0, "search": 1.0}) == {
        "merged": (None, 4), "search": (6, 1), "merged_random": (None, 0), "random": (None, 0),
    }  # fmt: skip
    bounded = config_of(write_run, {**changes, "search.budget.hours": 10})
    found = hours_of(bounded, bounded.search.budget, {"merged": 2.0})
    assert found["merged"] == (3, 2)
    assert found["search"] == (7, 0)
    counts = {leg.phase: leg.evaluations for leg in legs(bounded, bounded.search.budget, ITEMS)}
    assert (counts["merged"], counts["search"], counts["random"]) == (30, 70, 70)
