"""The record: whole or absent, versioned, readable by anyone's SQL."""

import json
import sqlite3

import pytest

from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.database import Database, RecordingError
from evomerge.runs.rows import CandidateRow, ItemRow
from fitness.estimate import Estimate
from fitness.items import Response
from search_spaces.errors import InputError

ROW = CandidateRow("search", 0, 0, (0.1, 1.0 / 3.0, "word"), "abc", False)
SCORED = Evaluation(
    Outcome.SCORED,
    "",
    {"a": Estimate(1 / 3, 0.1)},
    (Response("t", 5, 1.0, 3, True), Response("t", 2, 0.25, 0, False, True)),
    0.5,
    1.5,
    "evaluator-1",
)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "run.db", create=True)
    database.set_items([ItemRow("search", 0, "t", 5, "x"), ItemRow("search", 1, "t", 2, "y")])
    yield database
    database.close()


def test_what_is_recorded_is_read_back_exactly(database):
    database.record("abc", "search", SCORED, [ROW])
    assert database.candidates("search") == {0: ROW}
    found = database.evaluations("search")["abc"]
    assert found.objectives == SCORED.objectives
    assert (found.outcome, found.worker) == (Outcome.SCORED, "evaluator-1")
    assert (found.merge_seconds, found.score_seconds) == (0.5, 1.5)


def test_responses_are_rows_for_anyone_s_sql(database):
    database.record("abc", "search", SCORED, [ROW])
    reader = sqlite3.connect(database.path)
    rows = reader.execute("SELECT task, item, score FROM item_scores ORDER BY item").fetchall()
    assert rows == [("t", 2, 0.25), ("t", 5, 1.0)]
    tokens, truncated, failures = reader.execute(
        "SELECT tokens, truncated, parse_failures FROM responses"
    ).fetchone()
    assert [json.loads(x) for x in (tokens, truncated, failures)] == [[3, 0], [1, 0], [0, 1]]


def test_a_record_is_whole_or_absent(database):
    database.record("abc", "search", SCORED, [ROW])
    with pytest.raises(sqlite3.IntegrityError):
        database.record("def", "search", SCORED, [ROW])  # the candidate's id is taken
    assert "def" not in database.evaluations("search")
    with pytest.raises(sqlite3.IntegrityError):
        database.record("abc", "search", SCORED)  # nothing is paid for twice


def test_a_full_disk_loses_nothing_recorded(database):
    database.record("abc", "search", SCORED, [ROW])
    pages = database._connection.execute("PRAGMA page_count").fetchone()[0]
    database._connection.execute(f"PRAGMA max_page_count = {pages}")
    big = Evaluation(Outcome.SCORED, "x" * 100_000, SCORED.objectives)
    with pytest.raises(RecordingError, match=r"could not be written .*full.*evomerge resume"):
        database.record("def", "search", big)
    assert set(database.evaluations("search")) == {"abc"}
    database._connection.execute("PRAGMA max_page_count = 1000000")
    database.record("def", "search", big)


def test_another_version_or_no_database(tmp_path, database):
    database.set_meta("schema_version", 7)
    with pytest.raises(InputError, match=r"schema version 7.*reads version 3"):
        Database(database.path)
    with pytest.raises(InputError, match="holds no run"):
        Database(tmp_path / "other" / "run.db")
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(InputError, match="not a run's database"):
        Database(tmp_path / "text.db")


def test_numbers_survive_json(database):
    genome = (0.1 + 0.2, 1e-17, 5e-324, 1.7976931348623157e308)
    database.record("n", "search", SCORED, [CandidateRow("random", 0, 0, genome, "n", False)])
    assert database.candidates("random")[0].genome == genome
