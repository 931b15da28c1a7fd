"""Candidates measured again: parts are recorded, read back, and put together."""

import sqlite3
from dataclasses import replace

import pytest

from evomerge.asking import Asking
from evomerge.evaluation import Evaluation, Outcome
from evomerge.item_banks import packed, unpacked
from evomerge.runs.database import Database, RecordingError
from evomerge.runs.ledger import Ledger, Wanted
from evomerge.runs.rows import CandidateRow, ItemRow
from evomerge.search.race import Rules
from fitness.banks import ItemBank
from fitness.estimate import Estimate
from fitness.items import Response
from tests.runs.planted import space
from tests.search.noisy import RUNGS, InTurn, Noisy, driver_on, open_database

PLACES = [("t", 7), ("t", 3), ("t", 9), ("u", 3), ("u", 0)]


def part(positions, value, answers=None, **more):
    """An evaluation whose responses score their positions / 10."""
    responses = tuple(Response(*PLACES[p], p / 10, tokens=p) for p in positions)
    return Evaluation(
        Outcome.SCORED,
        objectives={"a": Estimate(value, 0.1)},
        responses=responses,
        positions=tuple(positions),
        items=len(positions),
        answers=len(positions) if answers is None else answers,
        **more,
    )


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "run.db", create=True)
    database.set_items([ItemRow("search", n, *p, "x") for n, p in enumerate(PLACES)])
    database.set_items([ItemRow("test", 0, "t", 1, "x"), ItemRow("test", 1, "u", 1, "x")])
    yield database
    database.close()


@pytest.fixture
def measured(database):
    """Candidate `abc`, measured three times, the second time in vain."""
    database.record("abc", "search", part((1, 3), 0.2))
    database.record("abc", "search", Evaluation(Outcome.OUT_OF_MEMORY, "no room"), part=1)
    again = part((0, 4), 0.4)
    database.record("abc", "search", replace(again, items=4), part=2)
    return database


def test_what_a_part_answered_is_read_back(measured):
    assert {p: r.score for p, r in measured.answers("abc", "search", 1).items()} == {1: 0.1, 3: 0.3}
    assert measured.answers("abc", "search", 2) == measured.answers("abc", "search", 1)
    three = measured.answers("abc", "search", 3)
    assert {p: (r.task, r.index) for p, r in three.items()} == {p: PLACES[p] for p in (0, 1, 3, 4)}
    assert measured.answers("abc", "search", None) == three
    assert measured.answers("abc", "selection", None) == {}
    assert measured.answers("other", "search", None) == {}


def test_responses_come_in_the_split_s_order_whatever_part_answered_them(measured):
    measured.record("def", "search", part((2,), 0.1))
    found = measured.responses("search")
    assert [(r.task, r.index) for r in found["abc"]] == [PLACES[p] for p in (0, 1, 3, 4)]
    assert [r.tokens for r in found["abc"]] == [0, 1, 3, 4]
    assert [(r.task, r.index) for r in found["def"]] == [PLACES[2]]


def test_every_item_in_order_needs_no_positions(measured):
    measured.record("all", "search", part(range(5), 0.5))
    measured.record("few", "search", part((0, 1), 0.5))
    reader = sqlite3.connect(measured.path)
    rows = reader.execute("SELECT positions FROM responses ORDER BY evaluation").fetchall()
    assert rows == [("[1,3]",), ("[0,4]",), (None,), (None,)]
    assert list(measured.answers("all", "search", None)) == [0, 1, 2, 3, 4]
    assert list(measured.answers("few", "search", None)) == [0, 1]


def test_item_scores_name_the_items_that_were_asked(measured):
    measured.record("abc", "as_searched", part((1,), 0.3))
    reader = sqlite3.connect(measured.path)
    rows = reader.execute(
        "SELECT task, item, score FROM item_scores WHERE split = 'search' ORDER BY score"
    ).fetchall()
    assert rows == [("t", 7, 0.0), ("t", 3, 0.1), ("u", 3, 0.3), ("u", 0, 0.4)]
    rows = reader.execute("SELECT task, item, score FROM item_scores WHERE split = 'as_searched'")
    assert rows.fetchall() == [("u", 1, 0.1)]


def test_the_last_part_that_was_scored_counts(measured):
    found = measured.evaluations("search")["abc"]
    assert (found.objectives["a"].value, found.items, found.answers) == (0.4, 4, 2)
    measured.record("abc", "search", Evaluation(Outcome.TIMED_OUT, "too long"), part=3)
    assert measured.evaluations("search")["abc"].objectives["a"].value == 0.4
    assert [p.outcome for p in measured.parts("search")["abc"]] == [
        Outcome.SCORED,
        Outcome.OUT_OF_MEMORY,
        Outcome.SCORED,
        Outcome.TIMED_OUT,
    ]
    measured.record("bad", "search", Evaluation(Outcome.TIMED_OUT, "too long"))
    assert measured.evaluations("search")["bad"].outcome is Outcome.TIMED_OUT


def test_a_part_is_recorded_once(measured):
    with pytest.raises(sqlite3.IntegrityError):
        measured.record("abc", "search", part((2,), 0.9), part=2)
    assert measured.evaluations("search")["abc"].objectives["a"].value == 0.4


def test_losses_are_read_back(database):
    given = part((0, 1, 2), 0.1)
    losses = (0.5, None, 2.25)
    responses = tuple(replace(r, loss=x) for r, x in zip(given.responses, losses, strict=True))
    database.record("abc", "search", replace(given, responses=responses))
    database.record("def", "search", given)
    assert [r.loss for r in database.responses("search")["abc"]] == [0.5, None, 2.25]
    assert [r.loss for r in database.responses("search")["def"]] == [None, None, None]
    assert tuple(database.answers("abc", "search", None).values()) == responses


def test_a_loss_of_nothing_is_a_loss(database):
    """A model that is sure of every answer was read back as one whose losses are not known."""
    given = part((0, 1), 0.1)
    responses = tuple(replace(r, loss=0.0) for r in given.responses)
    database.record("abc", "search", replace(given, responses=responses))
    assert [r.loss for r in database.responses("search")["abc"]] == [0.0, 0.0]


def test_banks_are_kept_as_their_files(database):
    bank = ItemBank(
        [[0.0, 1.0, float("nan")], [0.5, 0.0, 1.0]], ("a", "b"), (4, 2, 9), ("x",) * 3, "t/u", "acc"
    )
    database.set_bank("t/u", packed(bank))
    [(task, content)] = Database(database.path).banks().items()
    found = unpacked(task, content)
    assert (found.models, found.items, found.task, found.metric) == (
        ("a", "b"),
        (4, 2, 9),
        "t/u",
        "acc",
    )
    assert found.responses.tobytes() == bank.responses.tobytes()
    with pytest.raises(sqlite3.IntegrityError):
        database.set_bank("t/u", packed(bank))


def test_a_disk_that_fills_while_measuring_again_loses_nothing(tmp_path):
    path = tmp_path / "run.db"
    plan_evaluator = Noisy()
    recipe = space().decode((0.7, 0.3))
    row = CandidateRow("search", 0, 0, (0.7, 0.3), recipe.hash, cached=False)

    def ledger():
        return Ledger(open_database(path), InTurn(plan_evaluator), lambda evaluation, paid: None)

    first, second = Asking((RUNGS[0],)), Asking((RUNGS[0] + RUNGS[1],))
    [before] = ledger().evaluate([Wanted(recipe, row, first)], "search")
    full = ledger()
    pages = full._database._connection.execute("PRAGMA page_count").fetchone()[0]
    full._database._connection.execute(f"PRAGMA max_page_count = {pages}")

    def measure_until_full():
        for number in range(1, 40):
            full.evaluate([Wanted(recipe, None, second, number)], "search")

    with pytest.raises(RecordingError, match=r"could not be written .*full.*evomerge resume"):
        measure_until_full()
    found = Database(path).parts("search")[recipe.hash]
    assert found[0].objectives == before.objectives
    assert [p.answers for p in found[1:2]] == [28][: len(found) - 1]
    again = ledger().evaluate([Wanted(recipe, None, second, len(found))], "search")
    assert again[0].items == 40
    assert Database(path).candidates("search") == {0: row}


def test_the_ledger_gives_known_answers_and_records_the_new_ones(tmp_path):
    evaluator = Noisy()
    ledger = driver_on(tmp_path / "run.db", InTurn(evaluator), Rules()).ledger
    recipe = space().decode((0.7, 0.3))
    [first] = ledger.evaluate([Wanted(recipe, None, Asking((RUNGS[0],)))], "search")
    wanted = Wanted(recipe, None, Asking((tuple(sorted(RUNGS[0] + RUNGS[1])),)), 1)
    [second] = ledger.evaluate([wanted], "search")
    assert (first.items, first.answers) == (12, 12)
    assert (second.items, second.answers) == (40, 28)
    assert ledger.evaluate([wanted], "search") == [second]
    assert len(evaluator.asked) == 2
    assert len(evaluator.engine.answered) == 40
    assert ledger.recorded(recipe.hash).items == 12
    assert ledger.latest(recipe.hash).items == 40
    assert [e.items for e in ledger.again(recipe.hash)] == [40]
    assert set(ledger.answers(recipe.hash, "search", 1)) == set(RUNGS[0])
    assert set(ledger.answers(recipe.hash, "search", 2)) == set(RUNGS[0] + RUNGS[1])
    reopened = driver_on(tmp_path / "run.db", InTurn(evaluator), Rules()).ledger
    assert reopened.known(recipe.hash, "search", 1).objectives == second.objectives
    assert reopened.known(recipe.hash, "search", 2) is None
