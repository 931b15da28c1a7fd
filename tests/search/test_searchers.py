"""The battery that every entry of the table of search algorithms has to pass."""

import json
import os
import random
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest

from evomerge.search.algorithms import ALGORITHMS, build_searcher
from evomerge.search.archive import gains, hypervolume
from evomerge.search.searcher import Problem

ENTRIES = [
    (name, objectives)
    for name, algorithm in ALGORITHMS.items()
    for objectives in (1, 2)
    if algorithm.takes(objectives)
]
every_entry = pytest.mark.parametrize(("name", "objectives"), ENTRIES)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sphere(points, objectives):
    """Losses [batch, objectives]: squared distances to points 0.3 (and 0.7) on the diagonal."""
    return np.stack([((points - c) ** 2).mean(axis=1) for c in (0.3, 0.7)[:objectives]], axis=1)


def no_constraints(points):
    return np.zeros((len(points), 0))


def play(searcher, generations, score):
    """The points asked in each generation, told by `score(points, generation)`."""
    asked = []
    for generation in range(generations):
        points = searcher.ask()
        asked.append(points.copy())
        searcher.tell(*score(points, generation))
    return asked


def plain(objectives):
    return lambda points, _: (sphere(points, objectives), no_constraints(points))


def every_third_fails(objectives):
    def score(points, _):
        losses = sphere(points, objectives)
        losses[::3] = np.nan
        return losses, no_constraints(points)

    return score


@every_entry
class TestProtocol:
    def test_ask_twice_names_both_calls(self, name, objectives):
        searcher = build_searcher(name, Problem(3, objectives))
        searcher.ask()
        with pytest.raises(RuntimeError, match=r"ask\(\) called twice.*tell\(\)"):
            searcher.ask()

    def test_tell_first_names_both_calls(self, name, objectives):
        searcher = build_searcher(name, Problem(3, objectives))
        with pytest.raises(RuntimeError, match=r"tell\(\) called before ask\(\)"):
            searcher.tell(np.zeros((4, objectives)), np.zeros((4, 0)))

    def test_tell_twice_is_refused(self, name, objectives):
        searcher = build_searcher(name, Problem(3, objectives))
        play(searcher, 1, plain(objectives))
        with pytest.raises(RuntimeError, match=r"tell\(\) called before ask\(\)"):
            searcher.tell(np.zeros((4, objectives)), np.zeros((4, 0)))

    def test_wrong_values_are_refused_and_can_be_told_again(self, name, objectives):
        searcher = build_searcher(name, Problem(3, objectives, 1))
        points = searcher.ask()
        good, met = sphere(points, objectives), np.zeros((len(points), 1))
        half = good.copy()
        half[0, 0] = np.inf
        with pytest.raises(ValueError, match=r"losses has shape .* it is \("):
            searcher.tell(good[:-1], met)
        with pytest.raises(ValueError, match=r"violations has shape .* it is \("):
            searcher.tell(good, met[:, :0])
        with pytest.raises(ValueError, match="neither finite nor all nan"):
            searcher.tell(half, met)
        with pytest.raises(ValueError, match="violations are 0 or greater"):
            searcher.tell(good, met - 1)
        searcher.tell(good, met)
        assert len(searcher.ask()) == len(points)

    def test_arrays_of_the_caller_are_left_alone(self, name, objectives):
        initial = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
        searcher = build_searcher(name, Problem(3, objectives, 1, initial=initial))
        points = searcher.ask()
        losses, violations = sphere(points, objectives), np.zeros((len(points), 1))
        losses[0], violations[0] = np.nan, np.nan
        before = losses.copy(), violations.copy()
        searcher.tell(losses, violations)
        searcher.ask()
        np.testing.assert_array_equal(initial, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
        np.testing.assert_array_equal(losses, before[0])
        np.testing.assert_array_equal(violations, before[1])

    def test_writing_to_what_was_asked_changes_nothing(self, name, objectives):
        clean = build_searcher(name, Problem(3, objectives, seed=4))
        dirty = build_searcher(name, Problem(3, objectives, seed=4))
        for _ in range(4):
            points, scribbled = clean.ask(), dirty.ask()
            losses = sphere(points, objectives)
            scribbled[:] = 0.5
            clean.tell(losses, no_constraints(points))
            dirty.tell(losses, no_constraints(points))
        np.testing.assert_array_equal(clean.ask(), dirty.ask())


@every_entry
@pytest.mark.parametrize("variables", [1, 2, 7, 200])
def test_asks_stay_in_the_unit_cube_and_full(name, objectives, variables):
    problem = Problem(variables, objectives, population=10)
    # The optimum lies in a corner, so that bounds are pressed against.
    asked = play(
        build_searcher(name, problem),
        25,
        lambda points, _: (sphere(points - 0.7, objectives), no_constraints(points)),
    )
    for points in asked:
        assert points.shape == (10, variables)
        assert points.min() >= 0
        assert points.max() <= 1
        assert len(np.unique(points, axis=0)) > 1


@every_entry
def test_default_population_is_the_tables(name, objectives):
    for variables in (1, 30):
        expected = ALGORITHMS[name].default_population(variables)
        assert len(build_searcher(name, Problem(variables, objectives)).ask()) == expected >= 4


@every_entry
def test_same_seed_same_asks_other_seed_other_asks(name, objectives):
    def asks(seed):
        searcher = build_searcher(name, Problem(5, objectives, seed=seed))
        return np.concatenate(play(searcher, 6, every_third_fails(objectives)))

    np.testing.assert_array_equal(asks(1), asks(1))
    assert not np.array_equal(asks(1)[-4:], asks(2)[-4:])


SCRIPT = """
import json, sys, numpy as np
from evomerge.search.algorithms import build_searcher
from evomerge.search.searcher import Problem
objectives, asked = int(sys.argv[2]), []
searcher = build_searcher(sys.argv[1], Problem(4, objectives, seed=9, initial=np.full((1, 4), 0.4)))
for generation in range(6):
    points = searcher.ask()
    losses = np.stack([((points - c) ** 2).sum(axis=1) for c in (0.3, 0.7)[:objectives]], axis=1)
    losses[generation::3] = np.nan
    searcher.tell(losses, np.zeros((len(points), 0)))
    asked.append([[value.hex() for value in row] for row in points.tolist()])
print(json.dumps(asked))
"""


@every_entry
def test_another_process_with_another_hash_seed_asks_the_same(name, objectives):
    def asked(hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", SCRIPT, name, str(objectives)]
        return json.loads(subprocess.check_output(command, env=environment))

    assert asked("1") == asked("2")


@every_entry
def test_replay_restores_the_state(name, objectives):
    problem = Problem(4, objectives, seed=3)
    score = every_third_fails(objectives)
    first = build_searcher(name, problem)
    history = []
    for generation in range(8):
        points = first.ask()
        told = score(points, generation)
        first.tell(*told)
        history.append((points, told))
    second = build_searcher(name, problem)
    for points, told in history:
        np.testing.assert_array_equal(second.ask(), points)
        second.tell(*told)
    np.testing.assert_array_equal(second.ask(), first.ask())


@every_entry
def test_global_generators_are_neither_read_nor_disturbed(name, objectives):
    def asks(global_seed):
        np.random.seed(global_seed)
        random.seed(global_seed)
        before = np.random.get_state()[1].copy(), random.getstate()
        searcher = build_searcher(name, Problem(4, objectives, seed=3))
        asked = np.concatenate(play(searcher, 10, every_third_fails(objectives)))
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])
        assert random.getstate() == before[1]
        return asked

    np.testing.assert_array_equal(asks(1), asks(2))


@every_entry
class TestFailures:
    def test_half_a_space_that_fails_is_left_behind(self, name, objectives):
        """Points that fail look best by distance; only a searcher that selects them stays there."""

        def score(points, _):
            losses = sphere(points, objectives)
            losses[points[:, 0] < 0.5] = np.nan
            return losses, no_constraints(points)

        asked = play(build_searcher(name, Problem(3, objectives, population=12)), 40, score)
        late = np.concatenate(asked[-10:])[:, 0]
        if name != "random":
            assert np.mean(late < 0.5) < 0.45
        assert np.isfinite(late).all()

    def test_generations_that_all_fail_are_survived(self, name, objectives):
        def score(points, generation):
            losses = sphere(points, objectives)
            losses[:] = np.nan if generation in (0, 1, 4, 5) else losses
            return losses, no_constraints(points)

        asked = play(build_searcher(name, Problem(3, objectives, population=8)), 9, score)
        assert all(len(points) == 8 for points in asked)
        assert len(np.unique(np.concatenate(asked), axis=0)) == 9 * 8

    def test_learning_waits_until_enough_succeeded(self, name, objectives):
        """Failed candidates that fill half a generation must not be selected for want of others."""

        def score(points, generation):
            losses = sphere(points, objectives)
            losses[1 if generation < 6 else len(points) :] = np.nan
            return losses, no_constraints(points)

        initial = np.full((1, 2), 0.2)
        problem = Problem(2, objectives, population=8, seed=5, initial=initial)
        asked = play(build_searcher(name, problem), 40, score)
        assert all(1 <= len(points) <= 8 for points in asked)
        assert [len(points) for points in asked[-5:]] == [8] * 5
        assert len(np.unique(np.concatenate(asked), axis=0)) == sum(map(len, asked))

    def test_a_single_survivor_is_enough(self, name, objectives):
        def score(points, _):
            losses = sphere(points, objectives)
            losses[1:] = np.nan
            return losses, no_constraints(points)

        asked = play(build_searcher(name, Problem(1, objectives, population=4)), 12, score)
        assert np.isfinite(np.concatenate(asked)).all()


@every_entry
class TestInitialPoints:
    known = np.array([[0.25, 0.5, 1.0], [0.0, 0.0, 0.0], [1.0, 0.125, 0.75]])

    def test_the_first_generation_starts_with_all_of_them(self, name, objectives):
        points = build_searcher(name, Problem(3, objectives, initial=self.known)).ask()
        np.testing.assert_array_equal(points[:3], self.known)
        assert len(np.unique(points, axis=0)) == len(points)

    def test_repeats_are_asked_once(self, name, objectives):
        twice = np.concatenate([self.known, self.known])
        points = build_searcher(name, Problem(3, objectives, initial=twice)).ask()
        np.testing.assert_array_equal(points[:3], self.known)
        assert len(np.unique(points, axis=0)) == len(points)

    def test_they_may_fill_the_generation(self, name, objectives):
        problem = Problem(3, objectives, population=3, initial=self.known)
        asked = play(build_searcher(name, problem), 5, plain(objectives))
        np.testing.assert_array_equal(asked[0], self.known)

    def test_the_default_population_makes_room(self, name, objectives):
        many = np.random.default_rng(0).random((50, 3))
        points = build_searcher(name, Problem(3, objectives, initial=many)).ask()
        np.testing.assert_array_equal(points, many)


@pytest.mark.parametrize(("name", "objectives"), [e for e in ENTRIES if e[0] != "random"])
def test_constraints_are_respected(name, objectives):
    """The optimum 0.3 is forbidden: the mean of the variables has to reach 0.5."""

    def score(points, _):
        return sphere(points, objectives), np.maximum(0.5 - points.mean(axis=1), 0)[:, None]

    asked = play(build_searcher(name, Problem(6, objectives, 1, 16, seed=1)), 60, score)
    late = np.concatenate(asked[-10:])
    best = min(sphere(late[late.mean(axis=1) >= 0.5], 1)[:, 0])
    assert 0.04 <= best < 0.045  # (0.5 - 0.3)^2 on the boundary
    assert np.mean(late.mean(axis=1) >= 0.45) > 0.6


def test_cmaes_replaces_only_what_failed():
    searcher = build_searcher("cmaes", Problem(2, 1, population=8))
    batches = []
    for succeeding in (1, 1, 1, 1, 8):
        points = searcher.ask()
        batches.append(len(points))
        losses = sphere(points, 1)
        losses[succeeding:] = np.nan
        searcher.tell(losses, no_constraints(points))
    # It selects 4 of 8: after 1 + 1 + 1 + 1 successes it moves on.
    assert batches == [8, 7, 6, 5, 8]


def test_ranks_put_feasible_before_infeasible_before_failed():
    from evomerge.search.cmaes import ranks

    losses = np.array([3.0, 1.0, np.nan, 3.0, -9.0, -8.0, np.nan])
    violations = np.array([0.0, 0.0, np.nan, 0.0, 2.0, 2.0, 0.0])
    assert ranks(losses, violations).tolist() == [1, 0, 3, 1, 2, 2, 3]


def test_nsga2_fills_a_generation_that_mating_cannot():
    from evomerge.search.nsga2 import NSGAII

    points = NSGAII(Problem(3, 2), 6)._topped_up(None).get("X")
    assert points.shape == (6, 3)
    assert len(np.unique(points, axis=0)) == 6


def budgeted(name, problem, generations, score):
    return np.concatenate(play(build_searcher(name, problem), generations, score))


ONE = [name for name, objectives in ENTRIES if objectives == 1 and name != "random"]
MANY = [name for name, objectives in ENTRIES if objectives == 2 and name != "random"]


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("variables", [1, 10])
def test_beats_random_on_one_objective(name, variables):
    for seed in (1, 2, 3):
        problem = Problem(variables, 1, population=10, seed=seed)
        found = sphere(budgeted(name, problem, 50, plain(1)), 1).min()
        chance = sphere(budgeted("random", problem, 50, plain(1)), 1).min()
        assert found < (0.3 * chance if variables > 1 else 1e-5)


def zdt1(points):
    """Zitzler, Deb, Thiele 2000, problem 1: the front is f2 = 1 - sqrt(f1) where the rest is 0."""
    g = 1 + 9 * points[:, 1:].mean(axis=1)
    return np.stack([points[:, 0], g * (1 - np.sqrt(points[:, 0] / g))], axis=1)


@pytest.mark.parametrize("name", MANY)
def test_beats_random_on_two_objectives(name):
    def volume(algorithm, seed):
        problem = Problem(10, 2, population=20, seed=seed)
        points = budgeted(algorithm, problem, 50, lambda x, _: (zdt1(x), no_constraints(x)))
        return hypervolume(gains(zdt1(points), ["minimize"] * 2), np.array([-6.0, -6.0]))

    # The whole front has volume 36 - 1/3.
    for seed in (1, 2, 3):
        assert volume(name, seed) > volume("random", seed) + 3
        assert volume(name, seed) > 34


@pytest.mark.parametrize("name", ONE)
def test_a_converged_search_goes_on_exploring(name):
    """The driver never scores a recipe twice: a searcher stuck on one point would never end."""
    searcher = build_searcher(name, Problem(2, 1, population=8, seed=2))
    asked = np.concatenate(play(searcher, 400, plain(1)))
    assert len(np.unique(asked.round(5), axis=0)) > 800


@every_entry
def test_memory_does_not_grow_with_generations(name, objectives):
    searcher = build_searcher(name, Problem(20, objectives, population=10))
    play(searcher, 120, plain(objectives))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    play(searcher, 120, plain(objectives))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 400_000
