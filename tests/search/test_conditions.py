"""Variables that count with some option of another: canonical points, steps, children, repeats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymoo.core.population import Population

from evomerge.search.algorithms import build_searcher
from evomerge.search.conditions import alive, inherited, stepped_at
from evomerge.search.driver import problem_of
from evomerge.search.edits import edited
from evomerge.search.plan import Plan
from evomerge.search.pymoo_operators import operators
from evomerge.search.pymoo_tools import unit_cube
from evomerge.search.searcher import Problem
from search_spaces import (
    Choice,
    HybridSpace,
    IndicatorSpace,
    ParameterSpace,
    PathSpace,
    TemplateSpace,
    from_unit,
    to_unit,
)
from search_spaces.slots import Slots
from tests.runs.planted import goals

MODELS = ("one", "two", "three")
PARAMETERS = ParameterSpace("ties", "base", MODELS[:2], 6)
SPACES = {
    "template": TemplateSpace(MODELS, 8),
    "one template": TemplateSpace(MODELS, 8, ["layer_drop"]),
    "one model": TemplateSpace(MODELS[:1], 8),
    "indicator": IndicatorSpace(MODELS[:2], 6, input_scale=(0.4, 1.2), depth=(4, 9)),
    "indicator, one scale": IndicatorSpace(MODELS[:2], 6, input_scale=0.8),
    "path": PathSpace(MODELS, 6, (4, 8), input_scale=(0.5, 1.5)),
    "hybrid": HybridSpace(PARAMETERS, (4, 8), per_slot=True),
    "parameter": PARAMETERS,
}
CONDITIONAL = ["template", "one model", "indicator"]


def problem(name, **options):
    said = {"algorithm": "ga", "population": None, "seed": 1, "evaluations": 9, **options}
    return problem_of(Plan("search", **said), SPACES[name], goals())


PROBLEMS = {name: problem(name) for name in SPACES}


def points_of(name, data, number=1):
    """Uniform points, at times with half of their variables at one end."""
    generator = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    points = generator.random((number, PROBLEMS[name].variables))
    sparse = generator.random(points.shape) < data.draw(st.sampled_from([0.0, 0.5, 0.95]))
    return np.where(sparse, 0.0, points)


def recipe(name, point):
    return SPACES[name].decode(from_unit(SPACES[name], point)).hash


@pytest.mark.parametrize("name", SPACES)
@given(st.data())
def test_a_canonical_point_is_the_same_recipe(name, data):
    """Indicators with few places in are repaired: what is put in has no scale of its own."""
    [point] = points_of(name, data)
    canonical = PROBLEMS[name].canonical(point)
    assert recipe(name, canonical) == recipe(name, point)
    np.testing.assert_array_equal(PROBLEMS[name].canonical(canonical), canonical)


@pytest.mark.parametrize("name", SPACES)
def test_seeds_survive(name):
    for genome in SPACES[name].seeds().values():
        point = to_unit(SPACES[name], genome)
        assert recipe(name, PROBLEMS[name].canonical(point)) == SPACES[name].decode(genome).hash


@pytest.mark.parametrize("name", CONDITIONAL)
@given(st.data())
def test_what_does_not_count_makes_no_other_candidate(name, data):
    found = PROBLEMS[name]
    point, other = points_of(name, data, 2)
    counting = found.counting(point)
    mixed = np.where(counting, point, other)
    np.testing.assert_array_equal(found.canonical(mixed), found.canonical(point))
    assert recipe(name, mixed) == recipe(name, point)
    assert not counting.all() or name == "indicator"


def test_conditions_name_what_they_say():
    space = SPACES["template"]
    for variable, condition in zip(space.variables[1:], space.conditions[1:], strict=True):
        place, option = condition
        choice = space.variables[place]
        assert isinstance(choice, Choice)
        assert choice.options[option] == variable.name.split(".")[0]
    space = SPACES["indicator"]
    for variable, condition in zip(space.variables, space.conditions, strict=True):
        assert (condition is None) == (not variable.name.startswith("scale."))
        if condition is not None:
            place, option = condition
            assert space.variables[place].options[option] is True
            assert f"scale.{space.variables[place].name}" == variable.name
    assert {SPACES[n].conditions for n in SPACES if n not in CONDITIONAL} == {()}


@pytest.mark.parametrize("name", CONDITIONAL)
@given(st.data())
def test_every_step_changes_what_counts(name, data):
    found = PROBLEMS[name]
    [point] = found.canonical(points_of(name, data))
    generator = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    before = point.copy()
    for variable in alive(point, found):
        moved = stepped_at(point, int(variable), found, generator)
        assert moved[variable] != point[variable]
        np.testing.assert_array_equal(moved, found.canonical(moved))
    np.testing.assert_array_equal(point, before)


def test_another_template_begins_near_a_published_one():
    found = PROBLEMS["template"]
    origins = found.canonical(found.origins)
    for seed in range(40):
        moved = stepped_at(origins[0], 0, found, np.random.default_rng(seed))
        away = (moved != origins).sum(axis=1)
        assert 1 <= away.min() <= 2, "a number or two away from a seed, and no seed"


def test_a_place_that_is_put_in_keeps_the_state_as_it_is():
    found, space = PROBLEMS["indicator"], SPACES["indicator"]
    [origin] = found.canonical(found.origins[:1])
    for place in np.flatnonzero(origin[: len(space.variables) // 2] < 0.5):
        moved = stepped_at(origin, int(place), found, np.random.default_rng(0))
        genome = from_unit(space, moved)
        assert genome[place] is True
        assert genome[len(genome) // 2 + place] == pytest.approx(1.0)


def test_without_origins_what_wakes_is_drawn():
    kinds = {"levels": (2, 0, 3), "conditions": (None, (0, 1), (0, 1))}
    found = Problem(3, 1, **kinds)
    point = found.canonical(np.array([0.1, 0.9, 0.9]))
    np.testing.assert_allclose(point, [0.25, 0, 1 / 6])
    moved = [stepped_at(point, 0, found, np.random.default_rng(s)) for s in range(40)]
    assert {row[0] for row in moved} == {0.75}
    assert len({row[1] for row in moved}) == 40
    assert len({row[2] for row in moved}) == 3


@pytest.mark.parametrize("name", CONDITIONAL)
@given(st.data())
def test_children_take_numbers_from_who_uses_them(name, data):
    found = PROBLEMS[name]
    parents = found.canonical(points_of(name, data, 8)).reshape(2, 4, -1)
    children = np.where(np.isin(np.arange(found.variables), [0, 3]), parents[::-1], parents)
    got = inherited(children, parents, found)
    np.testing.assert_array_equal(got, found.canonical(got))
    counted = found.counting(parents)
    for parent in (0, 1):
        single = found.counting(got) & counted[parent] & ~counted[1 - parent]
        owners = np.broadcast_to(parents[parent], got.shape)
        np.testing.assert_array_equal(got[single], owners[single])


@pytest.mark.parametrize("name", CONDITIONAL)
def test_crossover_and_mutation_on_pymoo(name):
    found = PROBLEMS[name]
    generator = np.random.default_rng(2)
    parents = found.canonical(generator.random((40, found.variables)))
    cube, made = unit_cube(found), operators(found, 15, 0.9)
    told = Population.new(X=parents.copy())
    mating = generator.integers(40, size=(20, 2))
    children = made["crossover"](cube, told, mating, random_state=generator).get("X")
    np.testing.assert_array_equal(children, found.canonical(children))
    np.testing.assert_array_equal(told.get("X"), parents)
    mutated = made["mutation"](cube, told, random_state=generator).get("X")
    np.testing.assert_array_equal(mutated, found.canonical(mutated))
    changed = (mutated != parents).any(axis=1).mean()
    assert changed > 0.75, "nine in ten are mutated, and each of these in what counts"


def test_edits_are_of_what_counts():
    found = PROBLEMS["template"]
    origins = found.canonical(found.origins)
    generator = np.random.default_rng(4)
    for origin in origins:
        for _ in range(10):
            assert not np.array_equal(edited(origin, found, 1, generator), origin)


@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize(
    ("name", "algorithm", "most"),
    [
        ("template", "ga", 60),
        ("template", "nsga2", 60),
        ("template", "random", 60),
        ("indicator", "nsga2", 2),
        ("indicator", "random", 2),
    ],
)
def test_few_asks_repeat_a_recipe(name, algorithm, most, steady):
    """Of 160; with mutations of everything it was 100 and more of the templates. What is left is other
    numbers that come to the same stack (a layer swap of a model with itself)."""
    schedule = "asynchronous" if steady else "generational"
    found = problem(name, algorithm=algorithm, schedule=schedule, evaluations=160)
    searcher = build_searcher(algorithm, found)
    told, asked = 0, []
    while len(asked) < 160:
        for _ in range(1 if steady else min(searcher.batch, 160 - len(asked))):
            asked.append(recipe(name, searcher.ask()))
        while told < len(asked):
            losses = np.full(found.objectives, int(asked[told][:8], 16) % 1000 / 1000)
            searcher.tell(told, losses, np.zeros(found.constraints))
            told += 1
    assert 160 - len(set(asked)) <= most


REFUSED = [
    ({"conditions": (None,)}, "1 conditions: one per variable"),
    ({"conditions": (None, (2, 0), None)}, "option 0 of variable 2: 0 levels"),
    ({"conditions": (None, (0, 2), None)}, "option 2 of variable 0: 2 levels"),
    ({"conditions": (None, (0, -1), None)}, "option -1"),
    ({"conditions": (None, (3, 0), None)}, "variable 1 is governed by 3"),
    ({"conditions": ((0, 0), None, None)}, "variable 0 is governed by 0"),
    ({"conditions": (None, (0, 1), (1, 1))}, "variable 2 is governed by 1"),
    ({"conditions": (None, (0, 1), None), "slots": Slots(None, ((1,), (2,)), 2)}, "part of a list"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Problem(3, 1, levels=(2, 0, 0), **options)
