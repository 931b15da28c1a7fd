"""What is particular to single searchers: generations that shrink, batches, slots, lost points."""

import gc
import time
import tracemalloc

import numpy as np
import pytest

from evomerge.search.algorithms import ALGORITHMS, build_searcher
from evomerge.search.archive import gains, hypervolume
from evomerge.search.battery import failing, play, sphere
from evomerge.search.searcher import Problem

NONE = np.zeros(0)


def asked(searcher, count):
    return np.stack([searcher.ask() for _ in range(count)])


@pytest.mark.parametrize("name", ["cmaes", "de", "pso"])
def test_only_what_failed_is_replaced_in_a_generation(name):
    """CMA-ES selects 4 of 8; slots have to be filled, all 8."""
    searcher = build_searcher(name, Problem(2, 1, population=8))
    batches, number = [], 0
    for succeeding in (1, 1, 1, 1, 8, 8):
        batches.append(searcher.batch)
        for row, point in enumerate(asked(searcher, searcher.batch)):
            losses = sphere(1)(point, 0)[0]
            searcher.tell(number, losses if row < succeeding else losses * np.nan, NONE)
            number += 1
    assert batches == [8, 7, 6, 5, 8, 8] if name == "cmaes" else [8, 7, 6, 5, 4, 8]


def test_a_generation_that_is_asked_waits_for_its_results():
    searcher = build_searcher("nsga2", Problem(2, 2, population=4))
    asked(searcher, 4)
    assert searcher.batch == 0
    with pytest.raises(RuntimeError, match=r"ask\(\) called after all 4 points.*tell\(\)"):
        searcher.ask()


def test_ranks_put_feasible_before_infeasible_before_failed():
    from evomerge.search.cmaes import ranks

    losses = np.array([3.0, 1.0, np.nan, 3.0, -9.0, -8.0, np.nan])
    violations = np.array([0.0, 0.0, np.nan, 0.0, 2.0, 2.0, 0.0])
    assert ranks(losses, violations).tolist() == [1, 0, 3, 1, 2, 2, 3]


def test_a_pool_that_holds_a_whole_space_breeds_nothing_and_is_topped_up():
    from evomerge.search.pymoo_genetic import Pool, nsga2

    problem = Problem(2, 2, levels=(2, 2))
    pool = Pool(problem, 6, 6, nsga2)
    points = np.array([[x, y] for x in (0.25, 0.75) for y in (0.25, 0.75)])
    pool.start(points, points, np.zeros((4, 0)), seed=1)
    assert pool.breed().shape == (0, 2)
    assert pool.breed().shape == (0, 2), "and it can be asked again"


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("name", ["cmaes", "nsga2", "ga", "de", "pso", "optuna_cmaes"])
def test_a_search_converges_on_a_known_optimum(name, steady):
    searcher = build_searcher(name, Problem(10, 1, population=10, seed=1, steady=steady))
    best = min(((p - 0.3) ** 2).mean() for p in play(searcher, 600, sphere(1), steady))
    assert best < 3e-3  # the best of 600 random points: about 0.015


@pytest.mark.parametrize("pending", [1, 8, 64])
def test_cmaes_without_a_barrier_copes_with_late_results(pending):
    """64 pending at a population of 8: fed as they came they shrank the steps to nothing at 2e-3."""
    searcher = build_searcher("cmaes", Problem(6, 1, population=8, seed=3, steady=True))
    points = play(searcher, 900, sphere(1), steady=True, pending=pending)
    assert ((points - 0.3) ** 2).mean(axis=1).min() < 1e-5


def test_cmaes_does_not_learn_after_a_restart_from_what_was_asked_before():
    from evomerge.search.cmaes import SteadyCMAES

    searcher = SteadyCMAES(Problem(2, 1, population=4, steady=True), 4)
    stale = [searcher.ask() for _ in range(40)]
    number = len(stale)
    while not searcher._distribution.restarts:
        point = searcher.ask()
        searcher.tell(number, sphere(1)(point, 0)[0], NONE)
        number += 1
    mean, updates = searcher._distribution._strategy.mean.copy(), searcher._distribution.updates
    for old in range(len(stale)):
        searcher.tell(old, np.zeros(1), NONE)
    assert searcher._distribution.updates == updates
    np.testing.assert_array_equal(searcher._distribution._strategy.mean, mean)


@pytest.mark.parametrize("name", ["nsga2", "de", "pso"])
def test_more_points_pending_than_the_population_has_places(name):
    """A large cluster: the last random points come in long after the first trials."""
    searcher = build_searcher(name, Problem(4, 1, population=6, seed=2, steady=True))
    points = asked(searcher, 40)
    for number in range(6, 40):
        searcher.tell(number, *sphere(1)(points[number], number))
    trial = searcher.ask()
    for number in range(6):
        searcher.tell(number, np.array([-1.0 - number]), NONE)  # late, and the best of all
    near = np.stack([searcher.ask() for _ in range(30)])
    nearest = np.abs(near[:, None] - points[:6]).max(axis=2).min(axis=1)
    assert (nearest < 0.25).any(), "late points were forgotten"
    assert ((trial >= 0) & (trial <= 1)).all()


def test_slots_are_served_in_turn():
    from evomerge.search.pymoo_slots import DifferentialEvolution, SteadySlots

    searcher = SteadySlots(Problem(3, 1, seed=2, steady=True), 5, DifferentialEvolution)
    for number in range(5):
        searcher.tell(number, *sphere(1)(searcher.ask(), number))
    asked(searcher, 5)
    assert [note[0] for note in searcher._pending.notes()] == [0, 1, 2, 3, 4]
    searcher.tell(7, np.array([np.nan]), NONE)  # slot 2
    searcher.ask()
    assert searcher._pending.notes()[-1][0] == 2, "the idle one is next"


def test_the_worst_seen_stands_for_what_failed_in_a_model():
    """Where nothing was ever measured a model hopes for the best: it would fail there for ever."""
    for name in ("tpe", "gp"):
        searcher = build_searcher(name, Problem(1, 1, population=6, seed=1, steady=True))
        score = failing(sphere(1), lambda point, number: bool(point[0] < 0.5))
        late = play(searcher, 24, score, steady=True, pending=2)[-10:, 0]
        assert np.mean(late < 0.5) < 0.6, name


def test_a_gaussian_process_finds_a_front_with_few_candidates():
    """Two objectives, 24 candidates in 4 dimensions: the battery's budgets are too small for it."""
    searcher = build_searcher("gp", Problem(4, 2, population=8, seed=1, steady=True))
    points = play(searcher, 24, sphere(2), steady=True, pending=1)
    random = np.random.default_rng(0).random((200, 24, 4))

    def volume(points):
        losses = np.array([sphere(2)(point, 0)[0] for point in points])
        return hypervolume(gains(losses, ["minimize"] * 2), np.array([-0.25, -0.25]))

    assert volume(points) > max(volume(each) for each in random)


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("name", ["cmaes", "nsga2", "pso"])
def test_a_converged_search_goes_on_exploring(name, steady):
    """The driver never scores a recipe twice: a searcher stuck on one point would never end."""
    searcher = build_searcher(name, Problem(2, 1, population=8, seed=2, steady=steady))
    points = play(searcher, 2400, sphere(1), steady)
    assert len(np.unique(points.round(5), axis=0)) > 600


OURS = [n for n, a in ALGORITHMS.items() if a.library != "optuna"]


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_memory_does_not_grow_with_candidates(name, steady):
    """(Optuna's studies keep their trials: 3 to 4 KB each at 20 variables, its CMA-ES 20 KB.)"""
    objectives = 1 if ALGORITHMS[name].takes(1) else 2
    searcher = build_searcher(name, Problem(20, objectives, population=10, steady=steady))
    numbers = iter(range(10**6))

    def go_on():
        for _ in range(400 // searcher.batch):
            batch = [(next(numbers), searcher.ask()) for _ in range(searcher.batch)]
            for number, point in batch:
                searcher.tell(number, *sphere(objectives)(point, number))

    def grown():
        before = tracemalloc.get_traced_memory()[0]
        go_on()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    go_on()
    gc.collect()
    tracemalloc.start()
    # a leak shows in each; the interpreter's own tables grow once in a while, by 640 KB at a time
    least = min(grown() for _ in range(3))
    tracemalloc.stop()
    assert least < 100_000


@pytest.mark.parametrize("variables", [20, 200])
@pytest.mark.parametrize("name", OURS)
def test_the_driver_waits_milliseconds_for_a_point(name, variables):
    """In processor time, the first generation (imports, compilation) not counted."""
    objectives = 1 if ALGORITHMS[name].takes(1) else 2
    searcher = build_searcher(name, Problem(variables, objectives, population=20, steady=True))
    play_first = [searcher.ask() for _ in range(22)]
    for number, point in enumerate(play_first):
        searcher.tell(number, *sphere(objectives)(point, number))
    started = time.process_time()
    for number in range(22, 122):
        searcher.tell(number, *sphere(objectives)(searcher.ask(), number))
    assert (time.process_time() - started) / 100 < 0.01
