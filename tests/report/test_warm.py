"""What a report says of a warm start: where the winner was found, and what the other figures cannot know."""

from types import SimpleNamespace

import pytest

from evomerge.evaluation import Evaluation, Outcome
from evomerge.report.warm import WARM_START, warm_start
from evomerge.runs.database import Database
from evomerge.runs.rows import CandidateRow


@pytest.fixture
def database(tmp_path):
    with_facts = Database(tmp_path / "run.db", create=True)
    taken = {"genomes": [[0.5, "ties"], [1.0, "linear"]], "ids": [19, 4]}
    with_facts.set_meta(WARM_START, {"run": "runs/night", "search": taken})
    yield with_facts
    with_facts.close()


def random_search(database):
    row = CandidateRow("random", 0, 0, (0.3, "ties"), "chance", False)
    database.record("chance", "search", Evaluation(Outcome.MERGE_FAILED, "no"), [row])


def asked(*genomes):
    return [SimpleNamespace(id=i, genome=genome) for i, genome in enumerate(genomes)]


def test_a_winner_that_the_other_run_had_found(database):
    found = warm_start(database, asked((0.1, "ties"), (1.0 - 1e-12, "linear")), 1)
    assert found is not None
    assert (found["run"], found["candidates"], found["winner"]) == ("runs/night", 2, 4)
    assert "its candidate 4" in found["sentence"]
    assert "found there" in found["sentence"]


@pytest.mark.parametrize("chosen", [0, None])
def test_another_winner_or_none_yet(database, chosen):
    random_search(database)
    found = warm_start(database, asked((0.1, "ties"), (1.0, "linear")), chosen)
    assert found is not None
    assert found["winner"] is None
    assert "random search had no such start" in found["sentence"]


@pytest.mark.parametrize("chosen", [0, 1])
def test_without_a_random_search_none_is_spoken_of(database, chosen):
    found = warm_start(database, asked((0.1, "ties"), (1.0, "linear")), chosen)
    assert found is not None
    assert "began with 2 candidates of night" in found["sentence"]
    assert "random search" not in found["sentence"]


def test_a_cold_start_says_nothing(tmp_path):
    cold = Database(tmp_path / "cold.db", create=True)
    assert warm_start(cold, asked((0.1, "ties")), 0) is None
    cold.close()
