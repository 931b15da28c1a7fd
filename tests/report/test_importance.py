"""Which variables mattered: over the ranges that were searched, of what is part of a recipe."""

import json
from contextlib import closing

import numpy as np
import pytest

from evomerge.live.variables import distribution
from evomerge.report.html.importance import (
    RESTING,
    _varied,  # pyright: ignore[reportPrivateUsage]
    importances,
    scored_candidates,
)
from evomerge.report.html.story import read_story
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from tests.report.planted_folder import PlantedFolder


def story_of(folder):
    with closing(RunFolder.open(folder)) as run:
        return read_story(run, str(folder))


@pytest.fixture
def folder(tmp_path, quickstart):
    planted = PlantedFolder(
        tmp_path / "run", quickstart, candidates=120, items=100, tasks=("words",)
    )
    return planted.close()


def keep(folder, facts):
    with closing(Database(folder / "run.db")) as database:
        database.set_meta("search_space", facts)


def ranges(story):
    """As run.db states them."""
    return [
        {"name": name, "low": 0.0, "high": 1.5, "whole": False, "when": None}
        for name in story.variables
    ]


def test_ranges_are_those_that_were_searched(folder):
    """They were 0 to 1.163 for 0 to 1.5."""
    keep(folder, ranges(story_of(folder)))
    story = story_of(folder)
    _, found = _varied(story.space, scored_candidates(story))
    assert set(found) == set(story.variables)
    assert {(d.low, d.high) for d in found.values()} == {(0.0, 1.5)}


def test_of_a_run_that_did_not_write_them_down_they_are_those_that_were_seen(folder):
    story = story_of(folder)
    candidates = scored_candidates(story)
    _, found = _varied(story.space, candidates)
    every = [c.genome[0] for phase in story.phases.values() for c in phase.candidates]
    first = found[story.variables[0]]
    assert (first.low, first.high) == (min(every), max(every))


def test_what_is_no_part_of_a_recipe_counts_for_nothing(folder):
    """The first variable decides; where it is said to rest, nothing of it may be seen."""
    facts = ranges(story_of(folder))
    keep(folder, facts)
    plain = story_of(folder)
    before, _ = importances(plain, scored_candidates(plain))
    first = plain.variables[0]
    assert before["words"][first] > 0.5
    values = [c.genome[1] for c in scored_candidates(plain)]
    facts[0]["when"] = {"place": 1, "least": float(np.quantile(values, 0.9))}
    keep(folder, facts)
    story = story_of(folder)
    candidates = scored_candidates(story)
    columns, _ = _varied(story.space, candidates)
    resting = [v for v, c in zip(columns[first], candidates, strict=True) if v != c.genome[0]]
    assert len(resting) >= 0.8 * len(candidates)
    assert set(resting) == {0.75}
    after, _ = importances(story, candidates)
    assert set(after["words"]) == set(story.variables), "it is still judged"
    assert after["words"][first] < before["words"][first] / 2
    facts[0]["when"] = {"place": 1, "least": 9.0}
    keep(folder, facts)
    story = story_of(folder)
    assert first not in _varied(story.space, candidates)[1], "it never counts"


def test_a_choice_rests_at_an_option_of_its_own():
    class Planted:
        def __init__(self, *genome):
            self.genome = genome

    facts = [
        {"name": "method", "options": ["ties", "linear"], "when": None},
        {"name": "kind", "options": ["a", "b", "c"], "when": {"place": 0, "is": "ties"}},
        {"name": "count", "low": 1, "high": 4, "whole": True, "when": {"place": 0, "is": "ties"}},
    ]
    facts = json.loads(json.dumps(facts))
    planted = [Planted("ties", "a", 1), Planted("linear", "b", 4), Planted("ties", "c", 2)]
    columns, found = _varied(facts, planted)
    assert columns == {
        "method": ["ties", "linear", "ties"], "kind": ["a", RESTING, "c"], "count": [1, 2, 2],
    }  # fmt: skip
    assert found["kind"].choices == ("a", "b", "c", RESTING)
    assert found["method"].choices == ("ties", "linear")
    assert found["count"] == distribution(facts[2])
