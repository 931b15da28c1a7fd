"""Starting points where random ones are worthless: seeds, edits of them, and what they are for."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.lists import TARGETS, WAYS, measure
from evomerge.cluster.executor import SerialExecutor
from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.algorithms import ALGORITHMS, build_searcher, default_algorithm
from evomerge.search.battery import failing, play
from evomerge.search.battery_lists import GAME, ListGame, distance
from evomerge.search.driver import Driver, problem_of
from evomerge.search.edits import MANY, edited, filled_up, random_points
from evomerge.search.lists import Lists
from evomerge.search.plan import Plan
from evomerge.search.searcher import Problem
from evomerge.search.view import SilentView
from fitness.estimate import Estimate
from fitness.items import Response
from search_spaces.errors import InputError
from search_spaces.indicator import IndicatorSpace
from search_spaces.path import PathSpace
from search_spaces.space import from_unit, to_unit
from tests.runs.planted import goals
from tests.runs.planted import space as parameter_space

PATHS = PathSpace(("one", "two"), 8, depth=(6, 12), first=1, last=1, input_scale=(0.5, 1.5))
SPACES = {
    "path": PATHS,
    "of one depth": replace(PATHS, depth=(8, 8), input_scale=None),
    "indicator": IndicatorSpace(("one", "two"), 6, repeats=2),
    "indicator with scales": IndicatorSpace(("one", "two"), 6, input_scale=(0.5, 1.5)),
}


def plan(**options):
    return Plan(
        "search", **{"algorithm": "ga", "population": 40, "seed": 3, "evaluations": 9, **options}
    )


def decoded(space, points):
    return [space.decode(from_unit(space, point)).hash for point in points]


@pytest.mark.parametrize("name", SPACES)
def test_a_fragile_space_begins_with_its_seeds_and_edits_of_them(name):
    space = SPACES[name]
    problem = problem_of(plan(), space, goals())
    seeds = [to_unit(space, genome) for genome in space.seeds().values()]
    assert problem.initial.shape == (40, len(space.variables))
    np.testing.assert_allclose(problem.initial[: len(seeds)], problem.canonical(np.array(seeds)))
    hashes = decoded(space, problem.initial)
    assert len(set(hashes)) == len(hashes), "other genomes, other recipes"
    again = problem_of(plan(), space, goals()).initial
    np.testing.assert_array_equal(problem.initial, again)
    assert not np.array_equal(problem.initial, problem_of(plan(seed=4), space, goals()).initial)


def test_a_population_takes_as_many_seeds_as_it_has_places_for():
    seeds = list(PATHS.seeds().values())
    assert len(seeds) > 4
    few = problem_of(plan(population=4), PATHS, goals()).initial
    assert decoded(PATHS, few) == [PATHS.decode(genome).hash for genome in seeds[:4]]
    default = problem_of(plan(population=None, algorithm="cmaes"), PATHS, goals())
    assert len(default.initial) == max(
        len(seeds), ALGORITHMS["cmaes"].default_population(default.variables)
    )


def test_a_space_that_is_not_fragile_is_drawn_from_uniformly():
    space = parameter_space()
    problem = problem_of(plan(), space, goals())
    assert len(problem.initial) == len(space.seeds())
    assert len(problem.origins) == 0
    with pytest.raises(InputError, match=f"holds the {len(problem.initial)} known starting"):
        problem_of(plan(population=2), space, goals())
    random = problem_of(plan(algorithm="random", seeded=False), space, goals())
    asked = play(build_searcher("random", random), 200, lambda *_: (np.zeros(2), np.zeros(0)))
    assert abs(asked.mean() - 0.5) < 0.05


@pytest.mark.parametrize("name", SPACES)
def test_the_random_baseline_edits_seeds_independently(name):
    space = SPACES[name]
    problem = problem_of(plan(algorithm="random", seeded=False), space, goals())
    assert len(problem.initial) == 0
    asked = play(build_searcher("random", problem), 60, lambda *_: (np.zeros(2), np.zeros(0)))
    told = play(build_searcher("random", problem), 60, lambda x, n: (np.ones(2) * n, np.zeros(0)))
    np.testing.assert_array_equal(asked, told)
    near = np.abs(asked[:, None] - problem.canonical(problem.origins)[None]) > 1e-9
    if space.slots is None:
        changed = near.sum(axis=2).min(axis=1)
        assert changed.max() <= MANY
        assert len(set(changed.tolist())) > 3, "some edits are small, some large"
    else:
        _assert_edit_distances(problem, asked)


def _assert_edit_distances(problem, asked):
    """Of discrete columns: most are some items away from a seed, hardly any are all of it."""
    lists = Lists(problem)
    named = np.array(lists.counts) > 0

    def items(point):
        return [tuple([0, *row[named].tolist()][-2:]) for row in lists.read(point)]

    away = [min(distance(items(point), items(o)) for o in problem.origins) for point in asked]
    assert 0.5 < np.median(away) < 5
    assert max(away) < 0.9 * lists.most


def test_edits_are_small_different_and_leave_their_origin_alone():
    game = ListGame(GAME[:1])
    options = game.options(32, 5)
    problem = Problem(game.bare.variables, 1, **options)
    assert len(np.unique(problem.initial, axis=0)) == 32
    origins = [game.items(origin) for origin in problem.origins]
    before = problem.origins.copy()
    for point in problem.initial[2:]:
        assert 0 < min(distance(game.items(point), origin) for origin in origins) <= 9
    generator = np.random.default_rng(1)
    same = edited(problem.origins[0], problem, 0, generator)
    np.testing.assert_array_equal(same, problem.canonical(before[0]))
    np.testing.assert_array_equal(problem.origins, before)
    assert random_points(problem, generator, 7).shape == (7, problem.variables)


def test_a_space_too_small_for_different_edits_is_filled_all_the_same():
    problem = Problem(1, 1, levels=(2,), origins=np.array([[0.25]]))
    points = filled_up(problem, 5)
    assert points.shape == (5, 1)
    assert len(Problem(1, 1, levels=(2,), initial=points).initial) == 2


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("name", [n for n, a in ALGORITHMS.items() if a.takes(1) and a.lists])
def test_where_everything_fails_what_is_asked_stays_near_what_is_known(name, steady):
    """Uniform lists, which it used to fall back to, are 7 items away from the nearest model."""
    game = ListGame(GAME[:1], layers=12, least=8, most=16)
    searcher = build_searcher(
        name, Problem(game.bare.variables, 1, steady=steady, **game.options(8, 1))
    )
    points = play(searcher, 60, failing(game.score, lambda *_: True), steady)
    whole = [[(model, layer) for layer in range(12)] for model in (0, 1)]
    away = [min(distance(game.items(point), w) for w in whole) for point in points]
    uniform = game.bare.canonical(np.random.default_rng(0).random((60, game.bare.variables)))
    far = [min(distance(game.items(point), w) for w in whole) for point in uniform]
    assert np.mean(away) < 0.5 * np.mean(far)


def test_list_operators_find_what_coordinates_do_not():
    """A layer in front of a model: to coordinates, every place of the list is another.

    Both begin with the same points. (benchmarks/lists.py has more games, seeds and algorithms.)
    """
    target = [(1, 0), *((0, layer) for layer in range(6))]
    game = ListGame([target], layers=6, least=4, most=9)
    spent = {True: [], False: []}
    for seed in range(4):
        options = game.options(16, seed)
        options["initial"] = options["initial"][:2]  # the target may be among the edits
        for lists in (True, False):
            slots = game.bare.slots if lists else None
            problem = Problem(game.bare.variables, 1, steady=True, **{**options, "slots": slots})
            searcher = build_searcher("ga", problem)
            count, best = 0, np.inf
            while count < 450 and best > 0:
                losses, met = game.score(searcher.ask(), count)
                searcher.tell(count, losses, met)
                best, count = min(best, losses[0]), count + 1
            spent[lists].append(count)
    assert np.median(spent[True]) < 300
    assert min(spent[False]) == 450, "never"


def test_stacks_are_searched_as_lists_by_default():
    for objectives in (1, 2):
        assert ALGORITHMS[default_algorithm(objectives, chooses=True)].lists


class Counted:
    """Scores a stack by its layers of source `two` and by how few it has; fails where all are."""

    def evaluate(self, recipe, split, asking):
        hops = [
            part.inputs[0].source for part in recipe.slices for _ in range(*part.inputs[0].layers)
        ]
        if set(hops) == {"two"}:
            return Evaluation(Outcome.MERGE_FAILED, "as told")
        scores = {"first": hops.count("two") / 12, "second": 1 - len(hops) / 12}
        responses = tuple(Response("task", i, s) for i, s in enumerate(scores.values()))
        objectives = {name: Estimate(score, 0.01) for name, score in scores.items()}
        return Evaluation(Outcome.SCORED, "", objectives, responses, 0.01, 0.02, "here")

    def close(self):
        pass


@pytest.mark.parametrize("schedule", ["asynchronous", "generational"])
@pytest.mark.parametrize("algorithm", ["nsga2", "moead", "optuna_nsga2", "random"])
def test_a_search_of_stacks_goes_on_where_it_stopped(algorithm, schedule, tmp_path):
    def search(name, budget):
        path = tmp_path / name
        database = Database(path, create=not path.exists())
        ledger = Ledger(database, SerialExecutor(Counted), lambda evaluation, paid: None)
        driver = Driver(PATHS, goals(), ledger, database, SilentView())
        return driver.search(Plan("search", algorithm, 16, 3, budget, schedule=schedule))

    whole = search("whole.db", 60)
    search("parts.db", 27)
    assert [c.genome for c in search("parts.db", 60)] == [c.genome for c in whole]
    assert len({c.recipe_hash for c in whole}) > 45


def test_the_benchmark_of_lists_says_what_was_found():
    found = measure(seeds=1, budget=6)
    assert list(found) == list(TARGETS)
    for ways in found.values():
        assert len(ways) == len(WAYS)
        assert all(way["median"] <= 7 and way["found"] in (0, 1) for way in ways.values())
