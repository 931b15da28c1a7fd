"""Searching without a barrier: nobody waits, nothing is paid for twice, a run continues exactly."""

import heapq
import itertools

import numpy as np
import pytest

from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search import asynchronous, driver
from evomerge.search.algorithms import ALGORITHMS
from evomerge.search.driver import Driver
from evomerge.search.plan import Plan
from evomerge.search.view import SilentView
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace
from tests.runs.planted import Planted, goals, space

TAKES_CONSTRAINTS_OR_NOT = [n for n, a in ALGORITHMS.items() if n != "gp" and a.takes(2)]
"""The Gaussian process is as any other here, and seconds per ask."""


class Clockwork:
    """Several evaluators with a clock of its own: durations are drawn, results come in their order.

    Args:
        evaluator: does the work.
        workers: how many jobs are in flight.
        dies_after: results after which the driver is killed.
    """

    def __init__(self, evaluator, workers=5, seed=0, dies_after=None):
        self.evaluator, self.workers, self.dies_after = evaluator, workers, dies_after
        self.durations = np.random.default_rng(seed)
        self.idle = []
        self.most = self.given = 0

    def run(self, jobs):
        source, clock, numbers = iter(jobs), 0.0, itertools.count()
        flight, ended = [], False
        while True:
            waits = False
            while not ended and not waits and len(flight) < self.workers:
                try:
                    job = next(source)
                except StopIteration:
                    ended = True
                    break
                waits = job is None
                if job is not None:
                    done = clock + self.durations.lognormal()
                    heapq.heappush(flight, (done, next(numbers), job))
            if not flight:
                assert ended, "asked to wait while nothing ran"
                return
            self.most = max(self.most, len(flight))
            if not ended:
                self.idle.append(self.workers - len(flight))
            clock, _, job = heapq.heappop(flight)
            yield job, self.evaluator.evaluate(job.recipe, job.split, job.asking)
            self.given += 1
            if self.given == self.dies_after:
                raise KeyboardInterrupt

    def close(self):
        pass


def driver_on(path, executor, searched=None):
    database = Database(path, create=not path.exists())
    ledger = Ledger(database, executor, lambda evaluation, paid: None)
    return Driver(searched or space(), goals(), ledger, database, SilentView())


def asks_of(monkeypatch, asked):
    """Note every genome the searcher is asked for, recorded or not."""
    original = asynchronous.Asynchronous._ask

    def noting(self):
        number = original(self)
        asked.append(self._genomes[number])
        return number

    monkeypatch.setattr(asynchronous.Asynchronous, "_ask", noting)


@pytest.mark.parametrize("algorithm", TAKES_CONSTRAINTS_OR_NOT)
def test_a_killed_run_asks_on_as_if_nothing_had_happened(algorithm, tmp_path, monkeypatch):
    """What the dead driver had asked after its last result is what the next one asks, too."""
    evaluator, plan = Planted(fails=7), Plan("search", algorithm, 6, 3, 60)
    asked: list = []
    asks_of(monkeypatch, asked)
    for dies_after in (17, 9, 1):
        before = asked.copy()
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            driver_on(tmp_path / "run.db", Clockwork(evaluator, 5, 1, dies_after)).search(plan)
        assert asked[: len(before)] == before
    before = asked.copy()
    asked.clear()
    found = driver_on(tmp_path / "run.db", Clockwork(evaluator, 5, 2)).search(plan)
    assert asked[: len(before)] == before
    assert [c.id for c in found] == list(range(60))
    assert [c.genome for c in found] == asked
    assert len(evaluator.asked) - len(set(evaluator.asked)) <= 3 * 5, "only what was in flight"
    rows = Database(tmp_path / "run.db").candidates("search")
    assert sorted(r.told for r in rows.values()) == list(range(60))


@pytest.mark.parametrize("algorithm", ["nsga2", "cmaes", "de", "tpe", "random"])
def test_no_evaluator_waits(algorithm, tmp_path):
    executor = Clockwork(Planted(), workers=8)
    driver_on(tmp_path / "run.db", executor).search(Plan("search", algorithm, 4, 0, 80))
    assert executor.most == 8
    assert sum(executor.idle) == 0, "eight evaluators for a population of four, and none idle"


def test_a_larger_budget_continues(tmp_path):
    evaluator = Planted()
    for budget in (21, 50):
        plan = Plan("search", "nsga2", 8, 3, budget)
        found = driver_on(tmp_path / "run.db", Clockwork(evaluator)).search(plan)
        assert len(found) == budget
    assert len(evaluator.asked) == len(set(evaluator.asked)), "nothing was paid for twice"


def test_hours_run_out_once_and_stay_so(tmp_path):
    plan = Plan("search", "nsga2", 8, 0, 1000, hours=1e-9)
    first = driver_on(tmp_path / "run.db", Clockwork(Planted())).search(plan)
    assert 1 <= len(first) <= 2
    again = driver_on(tmp_path / "run.db", Clockwork(Planted())).search(plan)
    assert [c.genome for c in again] == [c.genome for c in first]


def test_equal_recipes_wait_for_one_evaluation(tmp_path):
    """Two recipes in all: each is paid for once, and none of the sixty candidates is lost."""
    two = ParameterSpace(
        "task_arithmetic", "base", ["one"], 2, ranges={"weight": 0.5, "consensus": ["none", "sum"]}
    )
    evaluator = Counting()
    found = driver_on(tmp_path / "run.db", Clockwork(evaluator), two).search(
        Plan("search", "nsga2", 8, 0, 60)
    )
    assert len(found) == 60
    assert len(evaluator.paid) == len(set(evaluator.paid)) == 2
    rows = Database(tmp_path / "run.db").candidates("search")
    assert sum(not row.cached for row in rows.values()) == 2


class Counting(Planted):
    """Scores by the recipe's hash."""

    def __init__(self):
        super().__init__()
        self.paid = []

    def evaluate(self, recipe, split, asking):
        self.paid.append(recipe.hash)
        return super().evaluate(
            space().decode((int(recipe.hash[:2], 16) / 256, 0.5)), split, asking
        )


def test_another_searcher_than_the_recorded_one_is_noticed(tmp_path):
    driver_on(tmp_path / "run.db", Clockwork(Planted())).search(Plan("search", "nsga2", 8, 0, 20))
    with pytest.raises(InputError, match=r"candidate \d+.*another candidate.*frozen.packages"):
        driver_on(tmp_path / "run.db", Clockwork(Planted())).search(
            Plan("search", "nsga2", 8, 1, 30)
        )


@pytest.mark.parametrize("schedule", ["asynchronous", "generational"])
def test_one_evaluator_gives_the_same_run_twice(schedule, tmp_path):
    plan = Plan("search", "nsga2", 6, 2, 40, schedule=schedule)
    runs = [
        driver_on(tmp_path / f"{n}.db", Clockwork(Planted(), workers=1, seed=n)).search(plan)
        for n in range(2)
    ]
    assert [c.genome for c in runs[0]] == [c.genome for c in runs[1]]


def test_generations_do_not_depend_on_who_was_faster(tmp_path):
    plan = Plan("search", "nsga2", 6, 2, 40, schedule="generational")
    runs = [
        driver_on(tmp_path / f"{n}.db", Clockwork(Planted(), workers=n + 1, seed=n)).search(plan)
        for n in range(3)
    ]
    assert [c.genome for c in runs[0]] == [c.genome for c in runs[1]] == [c.genome for c in runs[2]]


class Rounding:
    """A searcher on a processor whose linear algebra rounds otherwise."""

    def __init__(self, searcher):
        self._searcher = searcher
        self.batch = searcher.batch

    def ask(self):
        return np.clip(self._searcher.ask() + 1e-10, 0, 1)

    def tell(self, number, losses, violations):
        self._searcher.tell(number, losses, violations)


@pytest.mark.parametrize("schedule", ["asynchronous", "generational"])
def test_a_run_goes_on_where_numbers_round_otherwise(schedule, tmp_path, monkeypatch):
    """A driver that moved to another kind of processor was refused its own run."""
    evaluator = Planted()
    plan = Plan("search", "nsga2", 6, 2, 40, schedule=schedule)
    with pytest.raises(KeyboardInterrupt):
        driver_on(tmp_path / "run.db", Clockwork(evaluator, dies_after=20)).search(plan)
    before = Database(tmp_path / "run.db").candidates("search")
    original = driver.build_searcher
    monkeypatch.setattr(driver, "build_searcher", lambda *a: Rounding(original(*a)))
    found = driver_on(tmp_path / "run.db", Clockwork(evaluator)).search(plan)
    assert len(found) == 40
    assert {number: found[number].genome for number in before} == {
        number: row.genome for number, row in before.items()
    }
    recorded = Database(tmp_path / "run.db").candidates("search")
    assert {number: recorded[number] for number in before} == before
    paid = [asked for asked in evaluator.asked if evaluator.asked.count(asked) > 1]
    assert not set(paid) & {(row.recipe_hash, "search") for row in before.values()}
