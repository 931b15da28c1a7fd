"""The ledger: every evaluation paid for once, whoever asks, however often."""

import pytest

from evomerge.cluster.executor import SerialExecutor
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger, Wanted
from evomerge.runs.rows import CandidateRow
from search_spaces.errors import InputError
from tests.runs.planted import Planted, space


@pytest.fixture
def evaluator():
    return Planted()


@pytest.fixture
def told():
    return []


@pytest.fixture
def open_ledger(tmp_path, evaluator, told):
    """A ledger on the run.db of this test, as a new session would open it."""
    path = tmp_path / "run.db"
    Database(path, create=True).close()

    def open_it():
        return Ledger(
            Database(path),
            SerialExecutor(lambda: evaluator),
            lambda evaluation, paid: told.append(paid),
        )

    return open_it


def wanted(number, genome):
    recipe = space().decode(genome)
    return Wanted(recipe, CandidateRow("search", number, 0, genome, recipe.hash, cached=False))


def test_equal_recipes_are_paid_for_once(open_ledger, evaluator, told):
    ledger = open_ledger()
    batch = [wanted(0, (0.1, 0.2)), wanted(1, (0.3, 0.4)), wanted(2, (0.1, 0.2))]
    evaluations = ledger.evaluate(batch, "search")
    assert evaluations[0].objectives == evaluations[2].objectives
    assert len(evaluator.asked) == 2
    assert sorted(told) == [False, True, True]
    rows = Database(ledger._database.path).candidates("search")
    assert [rows[i].cached for i in range(3)] == [False, False, True]


def test_another_session_pays_only_for_what_is_missing(open_ledger, evaluator):
    open_ledger().evaluate([wanted(0, (0.1, 0.2))], "search")
    ledger = open_ledger()
    ledger.evaluate([wanted(1, (0.5, 0.5)), wanted(2, (0.1, 0.2))], "search")
    assert len(evaluator.asked) == 2
    ledger.evaluate([Wanted(space().decode((0.1, 0.2)))], "selection")
    assert evaluator.asked[-1][1] == "selection"
    ledger = open_ledger()
    assert ledger.recall("search", 1, (0.5, 0.5)) is not None
    with pytest.raises(InputError, match=r"candidate 1.*another candidate"):
        ledger.recall("search", 1, (0.5, 0.6))
    row, _ = ledger.recall("search", 1, (0.5 + 1e-9, 0.5))
    assert row.genome == (0.5, 0.5), "another processor rounds otherwise: what was recorded counts"
    assert ledger.recall("search", 9, (0.5, 0.5)) is None


def test_a_replay_that_goes_another_way_is_refused(open_ledger):
    open_ledger().evaluate([wanted(0, (0.1, 0.2))], "search")
    with pytest.raises(InputError, match=r"search candidate 0.*another candidate.*frozen.packages"):
        open_ledger().recall("search", 0, (0.1, 0.3))


def test_failures_are_recorded_and_not_paid_for_again(open_ledger, evaluator):
    evaluator.fails = 1
    found = open_ledger().evaluate([wanted(0, (0.1, 0.2))], "search")[0]
    assert not found.scored
    asked = len(evaluator.asked)
    again = open_ledger().evaluate([wanted(1, (0.1, 0.2))], "search")[0]
    assert (again.outcome, again.reason) == (found.outcome, "as told")
    assert len(evaluator.asked) == asked
