"""Steps of single variables, and crossover and mutation of mixed points on pymoo."""

import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.operators.mutation.pm import PM

from evomerge.search.algorithms import build_searcher
from evomerge.search.battery import play
from evomerge.search.lists import Lists
from evomerge.search.pymoo_operators import Redraw, operators
from evomerge.search.pymoo_tools import unit_cube
from evomerge.search.searcher import Problem
from evomerge.search.steps import step
from tests.search.list_problems import KINDS, problem

OUTSIDE = [(0, 0), (4, 0), (0, 9), (0, 0)]


@pytest.mark.parametrize(("levels", "cells"), [(2, 0), (5, 0), (0, 2), (0, 3), (0, 12), (0, 200)])
def test_a_step_is_another_value_and_reaches_all(levels, cells):
    count, generator = levels or cells, np.random.default_rng(1)
    reached = set()
    value = 0.5 / count
    for _ in range(60 * count):
        before, value = value, step(value, levels, cells, generator)
        assert value != before
        cell = value * count - 0.5
        assert abs(cell - round(cell)) < 1e-9
        reached.add(round(cell))
    assert len(reached) > 0.9 * count


def test_the_only_value_stays_and_numbers_stay_inside():
    generator = np.random.default_rng(2)
    assert step(0.5, 1, 0, generator) == step(0.5, 0, 1, generator) == 0.5
    values = [0.01]
    for _ in range(500):
        values.append(step(values[-1], 0, 0, generator))
    assert 0 <= min(values) < 0.1
    assert 0.9 < max(values) <= 1


def test_whole_numbers_go_to_their_neighbours_and_at_times_far():
    generator = np.random.default_rng(3)
    steps = np.array([step(0.5, 0, 25, generator) * 25 - 12.5 for _ in range(2000)])
    assert np.mean(np.abs(steps) < 3.5) > 0.6
    assert np.mean(np.abs(steps) < 1.5) > 0.2
    assert np.abs(steps).max() > 10


def mutations(operator, point, cube, count=4000):
    told = Population.new(X=np.tile(point, (count, 1)))
    return operator(cube, told, random_state=np.random.default_rng(5)).get("X")


@pytest.mark.parametrize("cells", [4, 12, 30])
def test_mutation_moves_whole_numbers_as_often_as_numbers(cells):
    """Polynomial mutation leaves one of 4 where it is 97 times in 100."""
    found = Problem(1, 1, cells=(cells,))
    middle = (cells // 2 + 0.5) / cells
    left = {}
    for name, operator in (("polynomial", PM(eta=20)), ("ours", Redraw(found, eta=20))):
        moved = mutations(operator, np.array([middle]), unit_cube(found))
        cell = np.minimum(np.floor(moved[:, 0] * cells), cells - 1)
        left[name] = np.mean(cell != cells // 2)
    assert left["ours"] > 0.4, "one variable is mutated at odds of a half, nine times in ten"
    assert left["polynomial"] < {4: 0.04, 12: 0.2, 30: 0.35}[cells]


@pytest.mark.parametrize("fixed", [False, True])
def test_children_on_pymoo_are_canonical_and_parents_are_untouched(fixed):
    for seed in range(30):
        kinds = [KINDS[seed % len(KINDS)], (0, 0)]
        found = problem(kinds, 3, 8, fixed, OUTSIDE[: seed % 5])
        parents = found.canonical(np.random.default_rng(seed).random((40, found.variables)))
        cube, made = unit_cube(found), operators(found, 15, 0.9)
        told = Population.new(X=parents.copy())
        mating = np.random.default_rng(seed).integers(40, size=(20, 2))
        generator = np.random.default_rng(seed)
        children = made["crossover"](cube, told, parents=mating, random_state=generator)
        crossed = children.get("X").copy()
        children = made["mutation"](cube, children, random_state=generator).get("X").astype(float)
        np.testing.assert_array_equal(told.get("X").astype(float), parents)
        for points in (crossed.astype(float), children):
            assert points.min() >= 0
            assert points.max() <= 1
            np.testing.assert_array_equal(
                points[:, Lists(found).columns.ravel()],
                found.canonical(points)[:, Lists(found).columns.ravel()],
            )
        np.testing.assert_array_equal(children, found.canonical(children))
        assert 0.15 < np.mean((children != crossed).any(axis=1)) < 0.95
        assert len(np.unique(children, axis=0)) > 30


def test_numbers_of_items_are_blended_where_they_meet():
    found = problem([(2, 0), (0, 0)], 4, 4, fixed=True)
    low, high = np.full(found.variables, 0.25), np.full(found.variables, 0.75)
    told = Population.new(X=found.canonical(np.stack([low, high])))
    crossover = operators(found, 15, 1.0)["crossover"]
    mating = np.tile([0, 1], (200, 1))
    children = crossover(
        unit_cube(found), told, parents=mating, random_state=np.random.default_rng(1)
    )
    numbers = children.get("X").astype(float)[:, 1::2]
    assert 0.1 < np.mean(~np.isin(numbers, (0.25, 0.75))) < 0.4


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("name", ["ga", "nsga2", "de", "pso", "cmaes", "optuna_cmaes", "tpe"])
def test_whole_numbers_are_searched(name, steady):
    """Twelve values each, the best 8; three out of six right within 200, where random finds two."""
    cells = (12,) * 6

    def score(point, number):
        return np.array([np.abs(np.floor(point * 12) - 8).mean()]), np.zeros(0)

    searcher = build_searcher(
        name, Problem(6, 1, population=10, seed=1, steady=steady, cells=cells)
    )
    points = play(searcher, 200, score, steady)
    np.testing.assert_allclose(points * 12 - 0.5, np.round(points * 12 - 0.5))
    chance = np.random.default_rng(0).random((20, 200, 6))
    lucky = [min(score(point, 0)[0][0] for point in points) for points in chance]
    assert min(score(point, 0)[0][0] for point in points) < min(lucky)
