"""The blocks of docs/adding_an_algorithm.md, carried out."""

import re

import numpy as np
import pytest

from evomerge.search import battery
from evomerge.search.algorithms import ALGORITHMS, Algorithm, build_searcher
from evomerge.search.batches import ByGeneration, InBatches
from evomerge.search.battery import CHECKS, Entry
from evomerge.search.pending import Pending
from evomerge.search.searcher import Problem
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "adding_an_algorithm.md").read_text()
BLOCKS = dict(re.findall(r"^```python (\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def test_the_page_s_algorithm_is_one_class_and_one_line_and_passes_the_battery(monkeypatch):
    names = {
        "np": np, "Pending": Pending, "Algorithm": Algorithm, "ByGeneration": ByGeneration,
        "InBatches": InBatches, "CHECKS": CHECKS, "Entry": Entry,
        "build": lambda problem: build_searcher("one_plus_one", problem),
    }  # fmt: skip
    exec(BLOCKS["class"], names)
    algorithm = eval(BLOCKS["line"], names)
    monkeypatch.setitem(ALGORITHMS, algorithm.name, algorithm)
    exec(BLOCKS["battery"], names)
    generational = Entry("one_plus_one", names["build"], constraints=False, unordered=False)
    for check in CHECKS:
        check(generational)


class Forgetful:
    """Proposes whatever the global generator says, and worse things."""

    def __init__(self, problem, population, fault):
        self._problem, self.batch, self._fault = problem, population, fault
        self._generator = np.random.default_rng(problem.seed)
        self._known = list(problem.initial)

    def ask(self):
        if self._known:
            return self._known.pop(0)
        if self._fault == "global":
            return np.random.random(self._problem.variables)
        if self._fault == "outside":
            return self._generator.random(self._problem.variables) * 1.2
        if self._fault == "unseeded":
            return np.random.default_rng().random(self._problem.variables)
        return self._generator.random(self._problem.variables)

    def tell(self, number, losses, violations):
        pass


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("global", "global_state_is_neither_read_nor_disturbed"),
        ("outside", "points_lie_in_the_unit_cube"),
        ("unseeded", "replay_restores_the_state"),
        ("repeats", "nothing_is_asked_twice_at_once"),
        ("random", "it_beats_random_search"),
    ],
)
def test_the_battery_finds_what_is_wrong(fault, check):
    from evomerge.search.searcher import Checked

    def build(problem):
        return Checked(Forgetful(problem, 10, fault), problem)

    with pytest.raises(AssertionError):
        getattr(battery, f"check_{check}")(Entry("forgetful", build, steady=True))


def test_the_files_that_the_page_names_exist():
    for path in re.findall(r"`((?:evomerge|docs|tests)/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
    assert build_searcher("random", Problem(2, 1)).batch
