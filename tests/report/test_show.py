"""What `show` and an export say of the winner of a real, small run."""

import json
from contextlib import closing

import pytest

from evomerge.report.html.gains import flips_of
from evomerge.report.html.section import esc
from evomerge.report.html.story import read_story
from evomerge.report.summary import summarise
from evomerge.report.tables import status_line
from evomerge.runs.folder import RunFolder
from tests.report.planted_folder import PlantedFolder


def test_show_and_export_tell_the_same_of_the_winner(tmp_path, write_run, evomerge):
    done = evomerge("search", write_run(), "--dir", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    honest = summary["honesty"]
    assert [*honest["scores"]] == ["words", "arithmetic", "mean"]
    by_model = summary["baselines"]
    for pair in honest["comparisons"]:
        if pair["objective"] == "words":
            gain = (
                by_model["winner"]["words"]["value"] - by_model[pair["baseline"]]["words"]["value"]
            )
            assert pair["gain"] == pytest.approx(gain), "the same answers as in the table of scores"
    compared = {pair["baseline"] for pair in honest["comparisons"]}
    assert compared | set(honest["same"]) | {"winner"} == set(by_model)
    words = honest["scores"]["words"]
    assert words["test"] == by_model["winner"]["words"]
    chosen = next(c for c in summary["candidates"] if c["id"] == summary["chosen"])
    assert words["search"]["value"] == chosen["objectives"]["words"]["value"]
    assert words["selection"]["value"] == chosen["selection"]["words"]["value"]
    assert evomerge("report", tmp_path / "run").returncode == 0
    page = (tmp_path / "run" / "report.html").read_text()
    with closing(RunFolder.open(tmp_path / "run")) as run:
        story = read_story(run, "run")
    flips = flips_of(story)
    assert flips
    for flip in flips:
        question = story.questions[flip.task][str(flip.index)]
        assert question[-1] in ":=", "as the quickstart's tasks ask"
        assert f'<td class="question">{esc(question)}</td>' in page
    shown = " ".join(evomerge("show", tmp_path / "run").stdout.split())
    assert evomerge("export", tmp_path / "run", tmp_path / "out").returncode == 0
    card = (tmp_path / "out" / "README.md").read_text()
    for sentence in honest["sentences"]:
        assert sentence in shown
        assert f"- {sentence}" in card


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ({"candidates": 0}, False),
        ({"candidates": 5, "fails": 1}, False),
        ({"candidates": 12}, True),
    ],
)
def test_hypervolume_is_told_once_something_has_scored(kind, told, tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, random=False, **kind)
    with closing(RunFolder.open(planted.folder)) as run:
        assert (", hypervolume " in status_line(summarise(run))) is told
