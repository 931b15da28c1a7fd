"""What a night does in which case: who is tested twice, and how far a budget can be changed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.budgets import Limits
from evomerge.phases import looks_up
from evomerge.runs.folder import RunFolder
from evomerge.search.standing import Standing
from evomerge.search.view import SilentView
from evomerge.session import resume, start
from evomerge.two_stages import FIRST_PHASE
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import Recipe
from search_spaces.stacking import Hop, Pool


def merge(rule: str | list[str]) -> Recipe:
    space = ParameterSpace(rule, "base", ["maths", "ja"], 4)  # type: ignore[arg-type]
    return space.decode(space.seeds()["uniform"])


@pytest.mark.parametrize(
    ("rule", "tables"),
    [
        ("task_arithmetic", False),
        ("ties", True),
        ("dare_linear", True),
        ("breadcrumbs", True),
    ],
)
def test_only_tables_are_paid_a_second_test(rule: str, tables: bool) -> None:
    """Copied layers beside merged ones say so as a method: that is looked up nowhere."""
    merged = merge(rule)
    assert looks_up(merged) is tables
    pool = Pool(["base", "maths", "ja"], 4, {"merged": merged})
    beside = pool.stack([Hop("base", 0), Hop("merged", 1), Hop("ja", 3)])
    assert any(name == "method" for part in beside.slices for name, _ in part.parameters)
    assert looks_up(beside) is tables
    assert not looks_up(pool.stack([Hop("base", 0), Hop("ja", 3)]))


class Impatient(SilentView):
    """Interrupts the search when some candidates are known, as a user does."""

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        if phase == FIRST_PHASE and asked >= 3:
            raise KeyboardInterrupt


def test_a_budget_that_leaves_the_second_stage_nothing(
    tmp_path: Path, write_run: Callable[..., Path], quickstart: dict[str, Any]
) -> None:
    """The first stage is what it was begun as; the second was given fewer than no candidates."""
    experts = copy.deepcopy(quickstart["models"]["experts"])
    experts.pop("tovek")
    merged = {"rule": "task_arithmetic", "weight": [0, 1.5], "share": 0.5}
    changes = {
        "models.experts": experts,
        "space": {"kind": "path", "depth": [3, 6], "merged": merged},
        "fitness.tasks": {"sums": {"items": 2, "selection": 2, "test": 2}},
        "fitness.objectives": ["sums"],
        "search.budget": {"evaluations": 12},
        "search.random_baseline": False,
    }
    with pytest.raises(KeyboardInterrupt):
        start(write_run(changes), tmp_path / "run", None, Impatient())
    for too_few in (5, 6):
        with pytest.raises(InputError, match=f"evaluations {too_few}: the first stage takes 6"):
            resume(tmp_path / "run", Limits(too_few), SilentView())
    resume(tmp_path / "run", Limits(7), SilentView())
    run = RunFolder.open(tmp_path / "run")
    counts = [len(run.database.candidates(phase)) for phase in (FIRST_PHASE, "search")]
    run.close()
    assert counts == [6, 1]
