"""Whole runs that race: what they pay for, what other runs pay after them, what flips are counted against."""

import json

import pytest

from evomerge.budgets import Limits
from evomerge.runs.database import Database
from evomerge.search.view import SilentView
from evomerge.session import resume, start

TASKS = {
    "lunari_words": {"items": 12, "selection": 8, "test": 8},
    "sums": {"items": 12, "selection": 8, "test": 8},
}
CHANGES = {
    "fitness.tasks": TASKS,
    "fitness.objectives": None,
    "fitness.racing": {"rungs": [4, 12]},
    "search.population": 6,
    "search.budget.evaluations": 12,
    "search.finalists": 3,
}
SPLITS = ("search", "selection", "test", "as_searched")


def record(folder, *, paid=True):
    """All that a run came to; without `paid`, whoever paid for it."""
    database = Database(folder / "run.db")
    parts = {
        (split, digest): [
            (e.outcome, e.objectives, e.items, e.answers if paid else 0) for e in found
        ]
        for split in SPLITS
        for digest, found in database.parts(split).items()
    }
    rows = [database.candidates(phase) for phase in ("search", "random")]
    responses = {split: database.responses(split) for split in SPLITS}
    return rows, parts, responses, database.meta("choice"), database.recipes()


def answers(folder):
    """Items answered, over all splits."""
    found = Database(folder / "run.db")
    return sum(e.answers for s in SPLITS for parts in found.parts(s).values() for e in parts)


def test_the_second_run_in_a_workspace_pays_for_nothing(write_run, tmp_path):
    run_file = write_run(CHANGES)
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    start(run_file, first, None, SilentView())
    assert (tmp_path / "answers.db").exists()
    start(run_file, second, None, SilentView())
    assert answers(first) > 0
    assert answers(second) == 0
    assert record(second, paid=False) == record(first, paid=False)
    start(write_run(CHANGES | {"fitness.cache": False}, "own.yaml"), third, None, SilentView())
    assert record(third) == record(first), "nobody else's answers: everything is paid for"


def test_a_race_goes_on_with_a_larger_budget_as_if_it_had_had_it(write_run, tmp_path):
    run_file = write_run(CHANGES | {"fitness.cache": False, "search.random_baseline": False})
    start(run_file, tmp_path / "parts", Limits(8), SilentView())
    resume(tmp_path / "parts", Limits(12), SilentView())
    start(run_file, tmp_path / "whole", None, SilentView())
    parts, whole = record(tmp_path / "parts"), record(tmp_path / "whole")
    assert parts[0] == whole[0]
    first = {key: found[0] for key, found in whole[1].items() if key[0] == "search"}
    for key, found in first.items():
        assert parts[1][key][0] == found


@pytest.mark.parametrize(("incumbent", "racing"), [("uniform", {}), ("base", {"rungs": [4, 12]})])
def test_flips_are_counted_against_the_incumbent(incumbent, racing, write_run, tmp_path):
    """By hand: the items that the incumbent has right and the candidate wrong."""
    changes = CHANGES | {
        "fitness.objectives": ["sums", {"flips": incumbent, "name": "lost"}],
        "fitness.racing": racing or None,
        "search.budget.evaluations": 8,
        "search.random_baseline": False,
    }
    folder = tmp_path / "run"
    start(write_run(changes), folder, None, SilentView())
    database = Database(folder / "run.db")
    recipe = database.recipes()[incumbent][0]
    lost = []
    for split in ("search", "selection", "test"):
        right = {(r.task, r.index): r.score for r in database.responses(split)[recipe]}
        assert len(right) == len([row for row in database.items() if row.split == split])
        found = database.evaluations(split)
        assert found[recipe].objectives["lost"].value == 0
        for digest, responses in database.responses(split).items():
            shares = []
            for task in TASKS:
                mine = [r for r in responses if r.task == task]
                flipped = [max(0.0, right[r.task, r.index] - r.score) for r in mine]
                shares.append((sum(flipped), len(flipped)))
            value = found[digest].objectives["lost"].value
            each = [flips / count for flips, count in shares]
            assert min(each) - 1e-9 <= value <= max(each) + 1e-9
            lost.append(value)
    assert max(lost) > 0
    evaluated = {d: [e.items for e in found] for d, found in database.parts("search").items()}
    assert evaluated[recipe] == [24], "the incumbent answers every item, and once"


def test_a_resumed_run_counts_flips_against_the_same_answers(write_run, tmp_path):
    changes = CHANGES | {
        "fitness.objectives": ["sums", {"flips": "base", "name": "lost"}],
        "search.random_baseline": False,
    }
    run_file = write_run(changes)
    start(run_file, tmp_path / "parts", Limits(8), SilentView())
    resume(tmp_path / "parts", Limits(12), SilentView())
    database = Database(tmp_path / "parts" / "run.db")
    base = database.recipes()["base"][0]
    assert len(database.parts("search")[base]) == 1
    assert len(database.candidates("search")) == 12


def test_show_tells_how_many_items_were_answered(write_run, tmp_path, evomerge):
    folder = tmp_path / "run"
    start(write_run(CHANGES | {"search.random_baseline": False}), folder, None, SilentView())
    shown = json.loads(evomerge("show", folder, "--json").stdout)
    measured = Database(folder / "run.db").evaluations("search")
    for candidate in shown["candidates"]:
        assert candidate["items"] == measured[candidate["recipe_hash"]].items
        assert candidate["items"] in (8, 24)


def test_an_incumbent_that_cannot_be_scored_leaves_no_run(write_run, evomerge, tmp_path):
    """Mended, the run file begins in the same folder: nothing was asked that would have to be kept."""
    objective = tmp_path / "strict.py"
    objective.write_text(
        "def strict(answers):\n"
        "    if any(answer.score for found in answers.values() for answer in found):\n"
        "        raise ValueError('not today')\n"
        "    return 0.0\n"
    )
    changes = {
        "fitness.objectives": ["sums", {"flips": "base"}, {"function": f"{objective}:strict"}],
        "search.budget.evaluations": 8,
        "search.random_baseline": False,
    }
    run_file = write_run(changes)
    done = evomerge("search", run_file, "--dir", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert "name another incumbent" in done.stderr
    assert not (tmp_path / "run").exists()
