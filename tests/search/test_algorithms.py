"""The table of algorithms, and what is refused before a search begins."""

import subprocess
import sys

import numpy as np
import pytest

from evomerge.search.algorithms import ALGORITHMS, build_searcher, default_algorithm
from evomerge.search.searcher import Problem
from search_spaces.errors import InputError


def test_reading_the_table_imports_no_optimiser():
    code = (
        "import sys, evomerge.search.algorithms, evomerge.search.archive;"
        "print([m for m in ('pymoo', 'cma', 'scipy', 'torch', 'ray') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_defaults():
    assert default_algorithm(1) == "cmaes"
    assert default_algorithm(2) == default_algorithm(5) == "nsga2"
    for objectives in (1, 2, 5):
        assert ALGORITHMS[default_algorithm(objectives)].takes(objectives)


def test_every_entry_says_what_it_is():
    for name, algorithm in ALGORITHMS.items():
        assert name == algorithm.name
        assert algorithm.doc
        assert any(character.isdigit() for character in algorithm.paper)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"search\.algorithm: 'nsga3'.*did you mean 'nsga2'"):
        build_searcher("nsga3", Problem(2, 2))


def test_too_many_objectives_get_a_remedy():
    with pytest.raises(InputError, match=r"'cmaes' with 2.*it takes one; use nsga2 or random"):
        build_searcher("cmaes", Problem(2, 2))


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
