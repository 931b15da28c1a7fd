"""The driver on a planted problem: budgets, failures, constraints, replay, the choice."""

import pytest

from evomerge.cluster.executor import SerialExecutor
from evomerge.config import Constraint
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.algorithms import ALGORITHMS
from evomerge.search.baselines import greedy_soup, reference_recipes
from evomerge.search.choice import choose, pick
from evomerge.search.driver import Driver, finalists
from evomerge.search.plan import Plan
from evomerge.search.standing import Standing, archive_of
from evomerge.search.view import SilentView
from search_spaces.errors import InputError
from tests.runs.planted import Planted, goals, space, weights_of

QUICK = [name for name in ALGORITHMS if name != "gp" and ALGORITHMS[name].takes(2)]
"""The Gaussian process is as any other here, and seconds per ask; its own battery has it."""

SCHEDULES = ("asynchronous", "generational")


def driver_on(path, evaluator, wants=None):
    database = Database(path, create=not path.exists())
    ledger = Ledger(database, SerialExecutor(lambda: evaluator), lambda evaluation, paid: None)
    return Driver(space(), wants or goals(), ledger, database, SilentView())


@pytest.mark.parametrize("algorithm", QUICK)
def test_the_optimum_of_the_mean_is_found(algorithm, tmp_path):
    driver = driver_on(tmp_path / "run.db", Planted())
    found = driver.search(Plan("search", algorithm, 10, 1, 120))
    best = max(found, key=lambda c: driver.goals.scalar(c.evaluation))
    weights = weights_of(driver.recipe(best))
    # by symmetry of the planted problem both weights of the best mean lie between 0 and 0.7
    assert all(0 <= w < 0.7 for w in weights.values())
    uniform = found[0]
    assert driver.goals.scalar(best.evaluation) >= driver.goals.scalar(uniform.evaluation)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("algorithm", QUICK)
def test_a_larger_budget_goes_on_where_the_smaller_one_stopped(algorithm, schedule, tmp_path):
    evaluator = Planted()

    def search(name, budget, evaluator):
        plan = Plan("search", algorithm, 8, 3, budget, schedule=schedule)
        return driver_on(tmp_path / name, evaluator).search(plan)

    whole = search("whole.db", 50, Planted())
    search("parts.db", 21, evaluator)
    parts = search("parts.db", 50, evaluator)
    assert [c.genome for c in parts] == [c.genome for c in whole]
    assert len(evaluator.asked) == len(set(evaluator.asked)), "nothing was paid for twice"


@pytest.mark.parametrize("algorithm", QUICK)
def test_failures_never_win(algorithm, tmp_path):
    driver = driver_on(tmp_path / "run.db", Planted(fails=3))
    found = driver.search(Plan("search", algorithm, 9, 0, 60))
    failed = {c.recipe_hash for c in found if not c.evaluation.scored}
    assert failed
    standing = Standing(driver.goals)
    standing.add(found)
    assert not failed & {m.key for m in standing.archive.front()}
    assert not failed & {c.recipe_hash for c in finalists(found, driver.goals, 10)}


def test_every_candidate_failing_is_survived_and_nothing_is_chosen(tmp_path):
    driver = driver_on(tmp_path / "run.db", Planted(fails=1))
    found = driver.search(Plan("search", "nsga2", 8, 0, 24))
    assert len(found) == 24
    assert choose(driver, found, 5, "knee") is None


def test_constraints_bound_the_front_and_the_choice(tmp_path):
    bound = Constraint(objective="first", sign=">=", bound=0.9)
    driver = driver_on(tmp_path / "run.db", Planted(), goals(constraints=[bound]))
    found = driver.search(Plan("search", "nsga2", 10, 0, 80))
    choice = choose(driver, found, 8, "best:second")
    assert choice.winner.evaluation.objectives["first"].value >= 0.9
    for member in archive_of(found, driver.goals).front():
        assert member.values[0] >= 0.9


def test_finalists_are_the_front_and_then_the_next_best(tmp_path):
    driver = driver_on(tmp_path / "run.db", Planted())
    found = driver.search(Plan("search", "nsga2", 10, 0, 60))
    front = {m.key for m in archive_of(found, driver.goals).front()}
    few = finalists(found, driver.goals, len(front) + 3)
    assert front <= {c.recipe_hash for c in few}
    assert len(few) == len(front) + 3
    two = finalists(found, driver.goals, 2)
    best = [max(c.evaluation.objectives[n].value for c in found) for n in ("first", "second")]
    assert [max(c.evaluation.objectives[n].value for c in two) for n in ("first", "second")] == best


def test_pick(tmp_path):
    driver = driver_on(tmp_path / "run.db", Planted())
    found = driver.search(Plan("search", "random", 10, 0, 30))
    best = pick(found, driver.goals, "best:second")
    assert best.evaluation.objectives["second"].value == max(
        c.evaluation.objectives["second"].value for c in found
    )
    with pytest.raises(InputError, match="did you mean 'best:second'"):
        pick(found, driver.goals, "best:secnd")


def test_hours_run_out_once_and_stay_so(tmp_path):
    evaluator = Planted()
    plan = Plan("search", "nsga2", 8, 0, 1000, hours=1e-9, schedule="generational")
    first = driver_on(tmp_path / "run.db", evaluator).search(plan)
    assert len(first) == 8, "the first generation is always there"
    again = driver_on(tmp_path / "run.db", evaluator).search(plan)
    assert [c.genome for c in again] == [c.genome for c in first]
    more = driver_on(tmp_path / "run.db", evaluator).search(
        Plan("search", "nsga2", 8, 0, 24, hours=1.0, schedule="generational")
    )
    assert len(more) == 24, "more hours go on"


def test_the_greedy_soup_is_never_worse_than_its_best_source(tmp_path):
    from evomerge.runs.ledger import Wanted

    driver = driver_on(tmp_path / "run.db", Planted())
    names = ["one", "two"]
    soup = greedy_soup(names, None, driver.goals, driver.ledger)
    alone = list(reference_recipes(None, names, None).values())
    *sources, _ = driver.ledger.evaluate([Wanted(r) for r in alone], "selection")
    [found] = driver.ledger.evaluate([Wanted(soup)], "selection")
    assert driver.goals.scalar(found) >= max(driver.goals.scalar(s) for s in sources)
