"""`evomerge report`: what the page says is what run.db says, for every kind of run."""

import json
import re
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from html.parser import HTMLParser

import pytest

from evomerge.report.html import write_report
from evomerge.report.html.clock import Clock, clock_of
from evomerge.report.html.gains import flips_of
from evomerge.report.html.importance import importances, scored_candidates
from evomerge.report.html.overview import answer
from evomerge.report.html.page import render
from evomerge.report.html.recipes import genome_lines
from evomerge.report.html.reproduce import recipe_text
from evomerge.report.html.section import esc, lettering
from evomerge.report.html.story import read_story
from evomerge.report.html.timing import busy_shares, workers
from evomerge.report.names import WINNER
from evomerge.report.summary import summarise
from evomerge.runs.folder import RunFolder
from search_spaces.dialect import parse_recipe
from search_spaces.errors import InputError
from tests.conftest import ROOT
from tests.report.planted_folder import REASON, PlantedFolder

NASTY = 'a<script>alert(1)</script>&"b'


def story_of(folder):
    with closing(RunFolder.open(folder)) as run:
        return read_story(run, str(folder))


def specs_of(page):
    """Figure id -> its data and layout, as the page's script reads them."""
    found = re.findall(r'<script type="application/json" id="([^"]+)-spec">(.*?)</script>', page)
    return {name: json.loads(text) for name, text in found}


def text_of(page):
    """The page without scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def sql(folder, query, *values):
    with closing(sqlite3.connect(folder / "run.db")) as connection:
        return connection.execute(query, values).fetchall()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quickstart):
    place = tmp_path_factory.mktemp("finished") / "run"
    planted = PlantedFolder(place, quickstart, candidates=60, fails=7, items=30)
    return planted.finish().close()


@pytest.fixture(scope="module")
def page(finished):
    return write_report(finished, finished.parent / "page.html").read_text()


def test_the_front_shows_every_scored_candidate_where_run_db_has_it(finished, page):
    rows = sql(
        finished,
        "SELECT json_extract(objectives, '$.words[0]'), json_extract(objectives, '$.sums[0]')"
        " FROM candidates c JOIN evaluations e ON e.recipe_hash = c.recipe_hash"
        " WHERE c.phase = 'search' AND e.split = 'search' AND e.outcome = 'scored'",
    )
    traces = {t["name"]: t for t in specs_of(page)["front-plot"]["data"]}
    shown = [
        point
        for name in ("candidates", "front")
        for point in zip(traces[name]["x"], traces[name]["y"], strict=True)
    ]
    assert len(shown) == len(rows) > 40
    for point, row in zip(sorted(shown), sorted(rows), strict=True):
        assert point == pytest.approx(row, abs=1e-5)
    beaten = {p for p in shown for q in shown if q != p and q[0] >= p[0] and q[1] >= p[1]}
    front = set(zip(traces["front"]["x"], traces["front"]["y"], strict=True))
    assert front == set(shown) - beaten
    texts = " ".join(traces["front"]["text"])
    assert "weight lunari" in texts
    assert "recipe search0" in texts


def test_winner_sources_and_baselines_are_marked_by_shape_and_by_the_items_they_answered(page):
    traces = {t["name"]: t for t in specs_of(page)["front-plot"]["data"]}
    assert traces["winner, search items"]["marker"]["symbol"] == "star"
    assert traces["winner, test items"]["marker"]["symbol"] == "star-open"
    assert traces["uniform merge, test items"]["marker"]["symbol"] == "square-open"
    named = [t["text"] for t in specs_of(page)["front-plot"]["data"] if t.get("legendgroup")]
    assert named == [["base"], ["lunari"], ["tovek"], ["abacus"]]


def test_scores_of_the_tests_and_gains_are_those_of_show(finished, page):
    with closing(RunFolder.open(finished)) as run:
        summary = summarise(run)
    text = text_of(page)
    for name, objectives in summary["baselines"].items():
        for estimate in objectives.values():
            assert f"{estimate['value']:.3f} ± {estimate['se']:.3f}" in text, name
    mean = [p for p in summary["honesty"]["comparisons"] if p["objective"] == "mean"]
    drawn = specs_of(page)["gains-plot"]["data"][0]
    assert drawn["name"] == "mean"
    assert drawn["x"] == pytest.approx([100 * p["gain"] for p in mean][::-1], abs=1e-3)
    for pair, up, down, x in zip(
        mean[::-1], drawn["error_x"]["array"], drawn["error_x"]["arrayminus"], drawn["x"], strict=True
    ):  # fmt: skip
        assert (x - down, x + up) == pytest.approx(
            (100 * pair["low"], 100 * pair["high"]), abs=1e-2
        )
    best = next(p for p in mean if p["baseline"] == summary["honesty"]["survived"][-1]["source"])
    assert f"<dd>{100 * best['gain']:+.1f}</dd>" in text
    for sentence in summary["honesty"]["sentences"]:
        assert esc(sentence) in text or "points over the best source" in sentence


def test_flips_count_what_sql_by_hand_counts(finished):
    story = story_of(finished)
    flips = flips_of(story)
    digest = {name: its for name, its in story.models.items()}
    for parent in ("base", "lunari", "tovek", "abacus"):
        [[up, down]] = sql(
            finished,
            "SELECT sum(w.score > p.score), sum(w.score < p.score) FROM item_scores w JOIN item_scores p"
            " USING (split, task, item) WHERE split = 'test' AND w.recipe_hash = ? AND p.recipe_hash = ?",
            digest[WINNER],
            digest[parent],
        )
        assert sum(parent in f.gained for f in flips) == up
        assert sum(parent in f.lost for f in flips) == down
    assert all(f.gained or f.lost for f in flips)
    [[cut]] = sql(
        finished,
        "SELECT sum(value) FROM responses r JOIN evaluations e ON e.id = r.evaluation,"
        " json_each(r.truncated) WHERE e.split = 'test' AND e.recipe_hash = ?",
        digest[WINNER],
    )
    text = text_of(render(story))
    assert f"{cut} of 60" in text
    assert text.count("<tr data-task=") == len(flips)


def test_progress_ends_where_show_stands_and_never_falls(finished, page):
    with closing(RunFolder.open(finished)) as run:
        summary = summarise(run)
    ours, other = specs_of(page)["volume-plot"]["data"]
    assert ours["y"][-1] == pytest.approx(summary["hypervolume"], rel=1e-4)
    assert ours["x"][-1] == other["x"][-1] == 60
    assert ours["meta"]["values"]["candidates"] == ours["x"]
    assert ours["y"] == sorted(ours["y"])
    hours = ours["meta"]["values"]["hours"]
    assert hours == sorted(hours)
    [[seconds]] = sql(
        finished,
        "SELECT (julianday(max(finished)) - julianday(min(finished))) * 86400 FROM evaluations e"
        " JOIN candidates c USING (recipe_hash) WHERE split = 'search' AND phase = 'search'",
    )
    # the first candidate began when its evaluation did, and that one took two seconds
    assert 3600 * hours[-1] == pytest.approx(seconds + 2, abs=0.2)
    best = max(v for [v] in sql(
        finished, "SELECT json_extract(objectives, '$.words[0]') FROM evaluations e JOIN candidates c"
        " USING (recipe_hash) WHERE split = 'search' AND phase = 'search'") if v is not None)  # fmt: skip
    assert specs_of(page)["best-plot-0"]["data"][0]["y"][-1] == pytest.approx(best, rel=1e-4)


def test_time_is_that_of_the_evaluations_and_adds_up(finished):
    story = story_of(finished)
    found = {w.name: w for w in workers(story)}
    for name, merge, score, count in sql(
        finished,
        "SELECT worker, sum(merge_seconds), sum(score_seconds), count(*) FROM evaluations GROUP BY 1",
    ):
        assert (found[name].merge, found[name].score) == pytest.approx((merge, score))
        assert found[name].evaluations == count
        assert found[name].merge + found[name].score + found[name].wait == pytest.approx(
            story.clock.total
        )
    names = list(found)
    _, busy = busy_shares(story, names)
    assert busy.min() >= 0
    assert busy.max() <= 1
    expected = [found[n].merge + found[n].score for n in names]
    assert busy.mean(axis=1) * story.clock.total == pytest.approx(expected, rel=0.05)


def test_pauses_between_sessions_do_not_count_as_work():
    at = "2026-01-01T{}+00:00".format
    events = [
        (at("10:00:00"), "started"),
        (at("12:00:00"), "resumed"),
        (at("12:30:00"), "finished"),
    ]
    killed = clock_of([], [])
    assert killed.total == 0
    ten = 1767261600.0  # 10:00
    clock = clock_of(events, [ten + 600, ten + 7200 + 60])
    assert clock.total == 600 + 1800, "killed after its last evaluation, then half an hour"
    assert clock.at_work(ten + 300) == 300
    assert clock.at_work(ten + 7200 + 60) == 660
    assert Clock([(0, 10)]).at_work(99) == 10


def test_the_variable_that_matters_is_found(tmp_path, quickstart):
    planted = PlantedFolder(
        tmp_path / "run", quickstart, candidates=150, items=100, tasks=("words",)
    )
    story = story_of(planted.close())
    found, method = importances(story, scored_candidates(story))
    # words' rate depends on the first variable only
    first = next(iter(found["words"]))
    assert (first, method) == ("weight.lunari.group_0", "fANOVA")
    assert sum(found["words"].values()) == pytest.approx(1)


def test_what_users_name_cannot_become_part_of_the_page(tmp_path, quickstart):
    folder = (
        PlantedFolder(tmp_path / "run", quickstart, tasks=(NASTY, "b", "c"), fails=4)
        .finish()
        .close()
    )
    page = write_report(folder).read_text()
    assert "alert(1)" in page, "the names are shown"
    assert "<script>alert" not in page
    plain = text_of(page)
    assert esc(NASTY) in plain
    assert esc(REASON) in plain
    specs = specs_of(page)
    shown = [
        [{k: v for k, v in t.items() if k != "meta"} for t in f["data"]] for f in specs.values()
    ]
    shown += [f["layout"] for f in specs.values()]
    assert "<script>alert" not in json.dumps(shown), "plotly reads tags in its labels"
    assert specs["front-plot"]["layout"]["xaxis"]["title"]["text"] == lettering(NASTY)
    assert list(specs["front-plot"]["data"][0]["meta"]["values"]) == [NASTY, "b", "c"]
    assert [n for n in specs if n.startswith("parallel")] == ["parallel-plot"]


KINDS = {
    "empty": {"candidates": 0, "random": False},
    "one candidate": {"candidates": 1, "random": False},
    "every one failed": {"candidates": 12, "fails": 1, "random": False},
    "begun": {"candidates": 30, "fails": 5, "random": False},
    "one objective": {"tasks": ("words",), "candidates": 30},
    "racing": {"racing": True, "items": 30},
    "four objectives": {"tasks": ("a", "b", "c", "d")},
    "bounded": {"changes": {"fitness": {"constraints": ["words >= 0.99"]}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_its_page(kind, tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, **KINDS[kind])
    begun = story_of(planted.folder)
    page = render(begun)
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert sections == [
        "overview", "front", "recipe", "gains", "luck", "progress", "importance", "time", "failures",
        "lineage", "reproduce",
    ]  # fmt: skip
    assert answer(begun)[0] == "wait"
    assert "interrupted" in text_of(page)
    if planted.finalists and KINDS[kind].get("candidates") != 1:
        ended = story_of(planted.finish().close())
        assert ended.final
        assert answer(ended)[0] in ("yes", "no")
        text = text_of(render(ended))
        assert f"Candidate {ended.best['id']} won" in text
        chance = "random search" in text
        assert chance is bool(planted.chance)


def test_a_run_that_is_being_driven_is_told_as_running(tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=20)
    with closing(RunFolder.open(planted.folder)) as driver:
        driver.lock()
        text = text_of(render(story_of(planted.folder)))
    assert "the search is running" in text
    assert "evaluations an hour" in text
    assert "nobody is driving it" not in text


def test_the_story_is_of_one_moment(tmp_path, quickstart):
    planted = PlantedFolder(tmp_path / "run", quickstart, candidates=10)
    with closing(RunFolder.open(planted.folder)) as reader:
        with reader.database.snapshot():
            summarise(reader)  # takes a snapshot too, within this one
            planted.database.event("written meanwhile")
            query = "SELECT count(*) FROM events WHERE kind = 'written meanwhile'"
            assert reader.database.select(query) == [(0,)]
        assert reader.database.select(query) == [(1,)]


class Headings(HTMLParser):
    def __init__(self):
        super().__init__()
        self.levels, self.ids, self.labels = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if "id" in found:
            self.ids.append(found["id"])
        if found.get("role") == "img":
            self.labels.append(found["aria-label"])


def test_headings_come_in_order_ids_once_and_figures_say_what_they_show(page):
    parser = Headings()
    parser.feed(text_of(page))
    assert parser.levels[0] == 1
    assert all(b <= a + 1 for a, b in zip(parser.levels, parser.levels[1:], strict=False))
    assert len(parser.ids) == len(set(parser.ids))
    assert len(parser.labels) == len(specs_of(page)) > 8
    assert all(parser.labels)


def test_nothing_is_loaded_from_anywhere(page):
    own = text_of(page)
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"<(link|img|iframe|script)\b[^>]*(src|href)=\"(?!data:)", own)
    assert not re.search(r"<script\b[^>]*\bsrc=", page)
    style = re.search(r"<style>(.*?)</style>", page, flags=re.DOTALL)[1]
    assert "@import" not in style
    assert "url(" not in style


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, quickstart):
    folder = PlantedFolder(tmp_path / "run", quickstart).close()
    old = write_report(folder)
    before = old.read_bytes()

    def full():  # files may grow to a megabyte, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
         " from evomerge.cli import main; main()", "report", str(folder)],
        capture_output=True, text=True, check=False, preexec_fn=full,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert old.read_bytes() == before
    assert [p.name for p in folder.iterdir() if p.name.startswith(".report")] == []
    with pytest.raises(InputError, match="cannot be written"):
        write_report(folder, tmp_path / "nowhere" / "page.html")


def test_what_is_no_run_or_a_damaged_one_is_one_line(tmp_path, quickstart, evomerge):
    done = evomerge("report", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds no run" in done.stderr
    folder = PlantedFolder(tmp_path / "run", quickstart).close()
    content = bytearray((folder / "run.db").read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    (folder / "run.db").write_bytes(content)
    done = evomerge("report", folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "run.db" in done.stderr


def test_a_path_is_told_as_its_stack():
    genome = {"depth": 4}
    for slot, (model, layer) in enumerate([("a", 0), ("a", 1), ("b", 1), ("a", 3), ("b", 0)]):
        genome |= {f"slot_{slot}.model": model, f"slot_{slot}.layer": layer}
    assert genome_lines(genome, ["a", "b"]) == ["a 0-1, b 1, a 3"]
    few = {"weight.a.x": 0.2, "weight.a.y": 0.4, "lambda": 1.0, "method": "ties"}
    assert genome_lines(few, ["a"]) == ["weight a 0.3 (0.2 to 0.4)", "lambda 1", "method ties"]


def test_a_real_run_is_told_with_its_recipe_finished_or_not(tmp_path, write_run, evomerge):
    folder = tmp_path / "run"
    done = evomerge(
        "search", write_run({"search.budget": {"evaluations": 8}}), "--dir", folder, "--json"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    told = evomerge("report", folder, "--out", tmp_path / "page.html")
    assert (told.returncode, told.stdout) == (0, ""), told.stderr
    ended = story_of(folder)
    assert ended.best["id"] == summary["chosen"]
    assert ended.recipe.hash == ended.best["recipe_hash"]
    places = {s.folder: n for n, s in ended.config.frozen.sources.items()}
    again = parse_recipe(recipe_text(ended), "page").renamed(places)
    assert again.hash == ended.recipe.hash, "the recipe on the page is the winner's"
    with closing(sqlite3.connect(folder / "run.db")) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key IN ('choice', 'finished_at_budget')")
    begun = story_of(folder)
    assert not begun.final
    assert begun.recipe.hash == begun.best["recipe_hash"], "decoded over the sources"
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(text.replace("/models/", "/gone/"))
    lost = story_of(folder)
    assert lost.recipe is None or lost.best["recipe_hash"] == ended.recipe.hash
    assert "Lineage" in text_of(render(lost))


def test_the_benchmark_says_how_long_and_how_large():
    command = [sys.executable, "-m", "benchmarks.report", "--candidates", "24", "--variables", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    figures = json.loads(line)
    assert figures["benchmark"] == "report"
    assert figures["seconds"] > 0
    assert 4e6 < figures["bytes"] < 12e6, "plotly's script, and not much more"
