"""The table of algorithms, and what is refused before a search begins."""

import subprocess
import sys

import numpy as np
import pytest

from evomerge.search.algorithms import ALGORITHMS, build_searcher, default_algorithm
from evomerge.search.battery import play
from evomerge.search.searcher import Problem, snapped
from search_spaces.errors import InputError


def test_reading_the_table_imports_no_optimiser():
    code = (
        "import sys, evomerge.search.algorithms, evomerge.search.archive;"
        "heavy = ('pymoo', 'cma', 'optuna', 'numba', 'scipy', 'torch', 'ray');"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_defaults():
    assert default_algorithm(1) == "cmaes"
    assert default_algorithm(2) == default_algorithm(5) == "nsga2"
    for objectives in (1, 2, 5):
        assert ALGORITHMS[default_algorithm(objectives)].takes(objectives, constraints=2)


def test_every_entry_says_what_it_is():
    for name, algorithm in ALGORITHMS.items():
        assert name == algorithm.name
        assert algorithm.doc
        assert any(character.isdigit() for character in algorithm.paper)
        for variables in (1, 30):
            expected = algorithm.default_population(variables)
            objectives = 1 if algorithm.takes(1) else 2
            assert build_searcher(name, Problem(variables, objectives)).batch == expected >= 4


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"search\.algorithm: 'nsga4'.*did you mean 'nsga"):
        build_searcher("nsga4", Problem(2, 2))


def test_too_many_objectives_get_a_remedy():
    with pytest.raises(InputError, match=r"'cmaes' with 2.*it takes one; use nsga2, .*random"):
        build_searcher("cmaes", Problem(2, 2))
    with pytest.raises(InputError, match=r"'moead' with 1.*it takes many; use nsga2, .*or random"):
        build_searcher("moead", Problem(2, 1))


def test_constraints_that_cannot_be_kept_are_refused_naming_what_can():
    with pytest.raises(InputError, match=r"'moead' with 2 constraint.*use nsga2, .*or random") as e:
        build_searcher("moead", Problem(2, 2, constraints=2))
    remedy = str(e.value).split("use ")[1]
    assert "age_moea" in remedy
    assert "moead" not in remedy
    assert "cmaes" not in remedy
    with pytest.raises(InputError, match=r"'optuna_cmaes' with 1 constraint.*cmaes"):
        build_searcher("optuna_cmaes", Problem(2, 1, constraints=1))


@pytest.mark.parametrize("objectives", [3, 5])
@pytest.mark.parametrize("name", [n for n, a in ALGORITHMS.items() if a.takes(3) and n != "gp"])
def test_more_objectives_than_two(name, objectives):
    """Reference directions come in certain numbers; the population and the initial points fit."""
    centres = np.linspace(0, 1, objectives)
    for steady in (False, True):
        initial = np.random.default_rng(3).random((7, 4))
        problem = Problem(4, objectives, population=8, steady=steady, initial=initial)
        points = play(
            build_searcher(name, problem),
            30,
            lambda point, number: ((point.mean() - centres) ** 2, np.zeros(0)),
            steady,
        )
        np.testing.assert_array_equal(points[:7], initial)
        assert len(np.unique(points, axis=0)) == 30


def test_a_population_smaller_than_the_known_points_is_refused():
    with pytest.raises(InputError, match=r"population 3: .* 4 known starting points; use 4"):
        Problem(2, 2, population=3, initial=np.random.default_rng(0).random((4, 2)))
    with pytest.raises(InputError, match="population 1: "):
        Problem(2, 2, population=1)


def test_malformed_problems_are_refused():
    with pytest.raises(ValueError, match="variables=0"):
        Problem(0, 1)
    with pytest.raises(ValueError, match=r"shape \(1, 3\): it is \[k, 2\]"):
        Problem(2, 1, initial=np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        Problem(2, 1, initial=np.array([[0.5, np.nan]]))
    with pytest.raises(ValueError, match=r"levels \(2,\): one per variable \(2\)"):
        Problem(2, 1, levels=(2,))


def test_starting_points_in_the_same_cells_are_one_candidate():
    problem = Problem(2, 1, initial=np.array([[0.1, 0.2], [0.4, 0.2], [0.1, 0.3]]), levels=(2, 0))
    np.testing.assert_array_equal(problem.initial, [[0.1, 0.2], [0.1, 0.3]])


def test_a_snapped_point_is_the_same_genome():
    """What `Choice.from_unit` reads from a point must not change, the ends of [0, 1] included."""
    from search_spaces.variables import Choice

    rng = np.random.default_rng(1)
    for count in (1, 2, 3, 7, 10):
        choice = Choice("c", tuple(range(count)))
        edges = np.arange(count + 1) / count
        for u in np.concatenate([edges, np.nextafter(edges[1:], 0), rng.random(200)]):
            [middle] = snapped(np.array([u]), (count,)).tolist()
            assert choice.from_unit(middle) == choice.from_unit(float(u))
            assert middle == choice.to_unit(choice.from_unit(float(u)))
