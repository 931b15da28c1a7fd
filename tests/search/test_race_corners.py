"""Corners of a race in which it once went wrong."""

import numpy as np
import pytest

from evomerge.asking import Beliefs, Prior, chances
from evomerge.config import Constraint
from evomerge.search.beliefs import Believed, believe
from evomerge.search.plan import Plan
from evomerge.search.race import Rules
from search_spaces.parameter import ParameterSpace
from tests.runs.planted import goals
from tests.search.noisy import RUNGS, Noisy, driver_on
from tests.search.test_asynchronous import Clockwork
from tests.search.test_beliefs import candidate
from tests.search.test_race import paid_once


@pytest.mark.parametrize("objectives", [1, 2])
def test_nobody_with_a_chance_is_left_out_of_the_count(objectives):
    rng = np.random.default_rng(3)
    for _ in range(20):
        several = Beliefs(
            rng.uniform(0.3, 0.6, (40, objectives)), rng.uniform(0.0, 0.15, (40, objectives))
        )
        front = _front(several.means)
        candidates = tuple(
            candidate(n, *[(0, 0)] * objectives, names=("first", "second")[:objectives])
            for n in range(40)
        )
        prior = Prior(np.zeros(objectives), np.ones(objectives))
        found = Believed(candidates, several, prior, (), front, front).chances()
        place = np.full(40, -1)
        place[front] = np.arange(len(front))
        every = chances(several, several.of(front), (), place)
        assert (found[every >= 0.05] == every[every >= 0.05]).all()


def _front(means):
    beaten = [
        any((other >= mine).all() and (other > mine).any() for other in means) for mine in means
    ]
    return np.flatnonzero(~np.array(beaten))


def test_a_member_that_is_known_exactly_is_on_the_front():
    several = [candidate(0, (0.6, 0.0), (0.6, 0.0)), candidate(1, (0.2, 0.05), (0.2, 0.05))]
    assert believe(several, goals()).chances().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sign", "direction", "keeps", "breaks"),
    [("<=", "maximize", 0.4, 0.8), (">=", "minimize", 0.8, 0.4)],
)
def test_a_bound_against_the_direction_is_kept(sign, direction, keeps, breaks):
    """Nobody has to want more of what is bounded from above."""
    wants = goals(constraints=[Constraint(objective="first", sign=sign, bound=0.6)])
    wants = type(wants)(wants.names, (direction, "maximize"), wants.weights, wants.constraints)
    several = [candidate(0, (keeps, 0.01), (0.5, 0.01)), candidate(1, (breaks, 0.01), (0.5, 0.01))]
    found = believe(several, wants).chances()
    assert found[0] > 0.95
    assert found[1] < 0.05


def test_who_leads_by_luck_is_not_sure_to_lead():
    """Alone on the front it had no rival, so its chance was 1 and it was never measured again."""
    several = [candidate(0, (0.98, 0.05), names=("first",))]
    several += [candidate(n, (0.95, 0.0), names=("first",)) for n in range(1, 8)]
    believed = believe(several, goals(names=("first",)))
    assert believed.front.tolist() == [0]
    assert believed.chances()[0] < 0.9
    assert believed.chances()[1] > 0.1


@pytest.mark.parametrize("schedule", ["asynchronous"])
def test_two_phases_that_meet_in_a_small_space(schedule, tmp_path):
    """sqlite3.IntegrityError: the random phase measures again what the search had measured again."""
    few = ParameterSpace(
        "task_arithmetic",
        "base",
        ["one", "two"],
        2,
        ranges={"weight": 0.5, "consensus": ["none", "sum"], "sparsify": ["none", "magnitude"]},
    )
    evaluator = Noisy()
    rules = Rules(RUNGS, again=10.0)
    driver = driver_on(tmp_path / "run.db", Clockwork(evaluator, 2), rules, searched=few)
    driver.search(Plan("search", "nsga2", 4, 0, 24, schedule=schedule))
    again = Plan("random", "random", 4, 1, 24, seeded=False, schedule=schedule)
    assert len(driver.search(again)) == 24
    assert paid_once(evaluator)
