"""The estimate: its phases are those that a run goes through, its numbers plain arithmetic."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evomerge.checks.barriers import Barriers
from evomerge.checks.dry_run import DryCandidate, DryRun, sample
from evomerge.checks.estimate import Estimate, estimate
from evomerge.preflight import Prepared
from evomerge.runs.folder import RunFolder

Check = Callable[..., Prepared]

NONE = Barriers((), {}, 0, 0, {})
PLANTED = DryRun(
    7.2,
    (
        DryCandidate("uniform", 9.0, 9.0, 4, {}, {}, {}),
        DryCandidate("random", 0.5, 4.0, 16, {}, {}, {}),
    ),
    NONE,
    30.0,
)
"""Half a second to merge, a quarter per item."""


def phase(found: Estimate, name: str) -> Any:
    return next(phase for phase in found.phases if phase.name == name)


def test_plain_arithmetic(prepared: Check) -> None:
    found = estimate(prepared(), PLANTED, 4)
    assert found.item_seconds == 0.25
    assert found.items == 32
    each = 0.5 + 32 * 0.25
    assert found.candidate_seconds == (each, each)
    assert found.per_hour == (pytest.approx(4 * 3600 / each),) * 2
    search = phase(found, "search")
    assert (search.evaluations, search.answers) == (20, (32.0, 32.0))
    assert search.hours[0] == pytest.approx(20 * each / 4 / 3600)
    assert phase(found, "random search").hours == search.hours
    assert phase(found, "selection").hours[0] == pytest.approx(4 * each / 4 / 3600)
    total = 7.2 / 3600 + sum(one.hours[0] for one in found.phases)
    assert found.hours == (pytest.approx(total),) * 2
    assert (found.evaluators, found.known, found.limit) == (4, True, None)
    assert not estimate(prepared(), PLANTED, None).known


def test_a_failed_candidate_tells_no_time(prepared: Check) -> None:
    failed = DryCandidate("random", 0.0, 0.0, 0, {}, {}, {}, "merge failed: x")
    found = estimate(prepared(), DryRun(1.0, (PLANTED.candidates[0], failed), NONE, 2.0), 1)
    assert found.item_seconds == 9.0 / 4


def test_racing_gives_a_range(prepared: Check) -> None:
    changes = {"fitness.racing": {"rungs": [2, 8], "again": 0.5}, "search.budget.hours": 3}
    found = estimate(prepared(changes), PLANTED, 1)
    low, high = 0.5 + 4 * 2 * 0.25, 1.5 * (0.5 + 32 * 0.25)
    assert found.candidate_seconds == (pytest.approx(low), pytest.approx(high))
    assert found.per_hour == (pytest.approx(3600 / high), pytest.approx(3600 / low))
    assert found.hours[0] < found.hours[1]
    assert phase(found, "selection").answers == (8.0, 32.0)
    assert found.limit == 3


def test_hours_bound_the_search_and_what_is_by_chance(prepared: Check) -> None:
    free = estimate(prepared(), PLANTED, 4)
    bound = free.phases[0].hours[0] / 2
    limits = {"search.budget.hours": bound, "search.budget.tokens": 1000}
    found = estimate(prepared(limits), PLANTED, 4)
    assert phase(found, "search").hours == phase(found, "random search").hours == (bound, bound)
    assert phase(found, "selection") == phase(free, "selection")
    saved = 2 * (phase(free, "search").hours[0] - bound)
    assert found.hours[0] == pytest.approx(free.hours[0] - saved)
    assert (free.sooner, found.sooner) == ((), ("tokens",))


def test_no_random_baseline_and_stacks(prepared: Check) -> None:
    changes = {
        "search.random_baseline": False,
        "space": {"kind": "path", "depth": [3, 5]},
    }
    found = estimate(prepared(changes), PLANTED, 1)
    names = [one.name for one in found.phases]
    assert names == ["sources", "search", "selection", "greedy soup", "test"]


def test_two_stages_and_an_incumbent_are_in_it(prepared: Check) -> None:
    changes = {
        "space": {
            "kind": "path", "merged": {"rule": "ties", "share": 0.25, "weight": [0, 1]},
        },
        "fitness.objectives": ["sums", {"flips": "base", "at_most": 0.5}],
    }  # fmt: skip
    found = estimate(prepared(changes), PLANTED, 1)
    assert [(one.name, one.evaluations) for one in found.phases] == [
        ("incumbent", 3),
        ("sources", 3),
        ("first stage", 5),
        ("selection of the first stage", 4),
        ("search", 15),
        ("selection", 4),
        ("greedy soup", 7),
        ("random first stage", 5),
        ("its selection, first stage", 4),
        ("random search", 15),
        ("its selection", 4),
        # sources but the incumbent, uniform, soup, merged, best start, random, winner, it once more
        ("test", 3 + 7),
    ]
    every = 32 + 32 + 64
    assert phase(found, "incumbent").hours[0] == pytest.approx((3 * 0.5 + every * 0.25) / 3600)


def test_the_sample_has_the_same_share_of_every_task(prepared: Check) -> None:
    found = prepared({"fitness.tasks.sums": {"items": 40, "selection": 8, "test": 16}})
    items = found.judge.items["search"]
    taken = Counter(items[position].task for position in sample(found, 16))
    assert taken == {"sums": 10, "lunari_words": 2, "tovek_words": 2, "lunari_sums": 2}
    assert sample(found, 1000) == tuple(range(len(items)))
    assert len(sample(found, 1)) == 4


def test_the_phases_are_those_of_a_run(
    prepared: Check, write_run: Callable[..., Path], evomerge: Any, tmp_path: Path
) -> None:
    """No evaluation that the run pays for is missing, nor are there many that it does not."""
    changes = {"fitness.cache": False, "search.budget.evaluations": 24}
    found = estimate(prepared(changes), PLANTED, 1)
    done = evomerge("search", write_run(changes), "--dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    paid: Counter[str] = Counter()
    with closing(RunFolder.open(tmp_path / "run")) as run:
        for split in ("search", "selection", "test", "as_searched"):
            paid[split] = len(run.database.evaluations(split))
    said = {one.name: one.evaluations for one in found.phases}
    assert paid["search"] <= said["search"] + said["random search"]
    assert paid["search"] >= 0.8 * (said["search"] + said["random search"])
    selection = said["selection"] + said["greedy soup"] + said["its selection"]
    assert 0.5 * selection <= paid["selection"] <= selection
    assert said["test"] - 1 <= paid["test"] + paid["as_searched"] <= said["test"]
