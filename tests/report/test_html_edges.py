"""What the report and `show` say of runs that have no front, no winner, no source to compare with, or a
raised budget."""

from contextlib import closing
from dataclasses import replace

import pytest
from rich.console import Console

from evomerge.budgets import Limits, raise_budget
from evomerge.config.space import PathSection
from evomerge.report.html.failures import failures
from evomerge.report.html.front import front
from evomerge.report.html.overview import answer, headline, overview
from evomerge.report.html.page import render
from evomerge.report.html.progress import progress
from evomerge.report.html.recipes import genome_lines
from evomerge.report.html.reproduce import reproduce
from evomerge.report.html.section import esc
from evomerge.report.html.story import read_story
from evomerge.report.summary import summarise
from evomerge.report.tables import print_summary, verdict
from evomerge.runs.folder import RunFolder
from tests.report.planted_folder import EXPERTS, PlantedFolder

SOURCES = ("base", *EXPERTS)
UNKEPT = {"fitness": {"constraints": ["words >= 1.5"]}}


def story_of(planted):
    with closing(RunFolder.open(planted.folder)) as run:
        return read_story(run, str(planted.folder))


def shown(planted, tmp_path):
    """What `show` prints."""
    with closing(RunFolder.open(planted.folder)) as run, open(tmp_path / "out", "w") as file:
        console = Console(width=300, file=file, record=True)
        print_summary(summarise(run), console)
    return console.export_text()


def path_genome(depth, *slots):
    found = {} if depth is None else {"depth": depth}
    for number, (model, layer) in enumerate(slots):
        found |= {f"slot_{number}.model": model, f"slot_{number}.layer": layer}
    return found


def test_a_path_with_kept_layers_is_told_by_its_slots():
    """`depth` counts the kept layers: the deepest had a slot too many, others showed resting ones."""
    slots = [("a", 1), ("a", 2), ("b", 1), ("b", 1)]
    told = {
        depth: genome_lines(path_genome(depth, *slots), ["a", "b"], 2) for depth in (4, 6, None)
    }
    assert told == {
        4: ["a 1-2 (and 2 kept)"],
        6: ["a 1-2, b 1, b 1 (and 2 kept)"],
        None: ["a 1-2, b 1, b 1 (and 2 kept)"],
    }


def test_layers_without_a_model_are_told_as_runs_and_not_averaged():
    layers = {f"slot_{i}.layer": layer for i, layer in enumerate([0, 1, 2, 1, 2, 3, 3])}
    genome = {"weight.a": 0.5, "depth": 6, **layers}
    assert genome_lines(genome, ["a"]) == ["layers 0-2, 1-3", "weight a 0.5", "depth 6"]


def test_the_front_s_hovers_know_the_kept_layers(tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=10, random=False)
    story = story_of(planted)
    genome = path_genome(4, ("base", 1), ("base", 2))
    candidates = [c | {"genome": genome} for c in story.summary["candidates"]]
    stacked = replace(
        story,
        config=story.config.model_copy(update={"space": PathSection(first=1, last=1)}),
        summary={**story.summary, "candidates": candidates},
        best={**story.best, "genome": genome},
    )
    assert "base 1-2 (and 2 kept)" in front(stacked).html


@pytest.mark.parametrize("tasks", [("words", "sums"), ("words", "sums", "more")])
@pytest.mark.parametrize("done", [False, True])
def test_a_run_in_which_nobody_keeps_the_constraints(tasks, done, tmp_path, quickstart):
    planted = PlantedFolder(
        tmp_path / "run", quickstart, candidates=12, tasks=tasks, changes=UNKEPT, random=False
    )
    if done:
        planted.database.set_meta("finished_at_budget", 12)
    story = story_of(planted)
    page = render(story)  # with three objectives there is a plot of the front's members
    entries = story.summary["candidates"]
    assert story.best["objectives"]["words"]["value"] == max(
        c["objectives"]["words"]["value"] for c in entries
    ), "the nearest to the constraint"
    said, name = headline(story), f"The nearest to it is candidate {story.best['id']}"
    assert name in said
    assert "hypervolume" not in overview(story).html
    assert "best so far" not in page
    if done:
        assert said.startswith("Nobody: no candidate kept every constraint.")
        assert answer(story) == ("no", "There is no winner to judge.")
        assert "No candidate has kept every constraint: " in progress(story).html
    else:
        assert said.startswith("Nobody yet: the search is interrupted, and no candidate has kept")
        assert answer(story)[0] == "wait"
        assert "No candidate has kept every constraint yet: " in progress(story).html


def forget_test_scores(planted, names):
    for name in names:
        planted._set(
            "DELETE FROM evaluations WHERE split = 'test' AND recipe_hash = ?", name.ljust(64, "0")
        )


def test_before_any_source_is_scored_nothing_is_said_of_the_best(tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=12, items=60).finish()
    forget_test_scores(planted, SOURCES)
    story = story_of(planted)
    kind, text = answer(story)
    assert (kind, text.split(" have ")[0]) == ("wait", "Not known: base, lunari, tovek and abacus")
    assert "one of the sources" not in render(story)
    assert verdict(story.summary) == ""
    assert "it is not known which source is the best" in shown(planted, tmp_path)


@pytest.mark.parametrize("failed", [False, True])
def test_a_missing_source_may_be_the_best(failed, tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=12, items=60).finish()
    if failed:
        planted._set(
            "UPDATE evaluations SET outcome = 'out of memory', reason = 'full', objectives = '{}'"
            " WHERE split = 'test' AND recipe_hash = ?",
            "lunari".ljust(64, "0"),
        )
    else:
        forget_test_scores(planted, ["lunari"])
    story = story_of(planted)
    yet = "" if failed else " yet"
    assert answer(story) == (
        "wait",
        f"Not known: lunari has no score on the test items{yet}, so the best source is not known.",
    )
    assert "the best source that was scored" in overview(story).html
    assert "no test score for lunari: it is not known which" in shown(planted, tmp_path)


def test_without_a_mean_every_score_is_judged_and_named(tmp_path, quickstart):
    """Only the last was looked at, though the winner may be better by it alone, or by the others."""
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=12, items=100).finish()
    ways = [{"name": "words", "direction": "maximize"}, {"name": "sums", "direction": "minimize"}]
    planted.database.set_meta("objectives", ways)  # no mean of what is to rise and what is to fall
    story = story_of(planted)
    kind, text = answer(story)
    assert kind == "no"
    assert text.startswith("In part: by words it is clearly better than the best source")
    assert text.endswith("by sums it is not.")
    html = overview(story).html
    assert "<li>words: Yes: it is clearly better" in html
    assert "<li>sums: No: it is clearly worse" in html
    said = story.summary["honesty"]["sentences"]
    for name in ("words", "sums"):
        assert any(s.startswith(f"{name}: the winner is ") for s in said)
        assert f"points of {name} over the best source" in html


def test_a_winner_of_before_the_budget_was_raised_is_not_the_last_word(tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=12).finish()
    assert not story_of(planted).reopened
    with closing(RunFolder.open(planted.folder)) as run:
        raise_budget(run, Limits(evaluations=30, hours=2.5), None)
    story = story_of(planted)
    assert "under the budget before it was raised; the search is interrupted" in headline(story)
    assert "That is about the winner before" in overview(story).html
    again = reproduce(story).html
    assert "/run.yaml --dir AGAIN --evaluations 30 --hours 2.5 " in again
    staged = replace(story, summary={**story.summary, "first_stage": {"candidates": []}})
    assert "evomerge resume AGAIN --evaluations 30 --hours 2.5 " in reproduce(staged).html


def test_a_failure_outside_the_search_has_its_reason(tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=12).finish()
    planted._set(
        "UPDATE evaluations SET outcome = 'timed out', reason = 'after <9> s' WHERE split = 'test'"
        " AND recipe_hash = ?",
        "tovek".ljust(64, "0"),
    )
    assert f"<td>{esc('after <9> s')}</td>" in failures(story_of(planted)).html.replace(
        ' class="words"', ""
    )


def test_how_much_was_alive_stands_in_the_overview(tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=12, random=False)
    story = story_of(planted)
    share = {"alive": 3, "of": 12, "share": 0.25}
    none = {"alive": 0, "of": 0, "share": None}
    alive = {"first_generation": none, "run": share, "random": none}
    stacks = {"alive": alive, "paths": {}, "best_start": None, "first_stage": None}
    story = replace(story, summary={**story.summary, "stacks": stacks})
    assert "25 % of all candidates (3 of 12)" in overview(story).html
