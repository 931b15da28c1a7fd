"""Every entry of the table of search algorithms, each way it can be used, passes the battery."""

import json
import os
import subprocess
import sys
import warnings

import pytest

from evomerge.search.algorithms import ALGORITHMS, build_searcher
from evomerge.search.battery import CHECKS, Entry

DEAR = {("gp", 1): 14, ("gp", 2): 10}
"""Candidates for which a Gaussian process is given time, by number of objectives."""

BRIEF = ("choices", "failures", "replay")
"""What it is asked with two objectives, where a point takes it seconds."""


def entries():
    return [
        Entry(
            name,
            lambda problem, name=name: build_searcher(name, problem),
            objectives,
            steady,
            algorithm.constraints,
            learns=name not in ("qmc", "random"),
            unordered=algorithm.choices == "unordered",
            lists=algorithm.lists,
            most=DEAR.get((name, objectives), 10_000),
        )
        for name, algorithm in ALGORITHMS.items()
        for objectives in (1, 2)
        if algorithm.takes(objectives)
        for steady in (False, True)
    ]


def label(value):
    if isinstance(value, Entry):
        return f"{value.name}-{value.objectives}-{'steady' if value.steady else 'generations'}"
    return value.__name__.removeprefix("check_")


def pairs():
    for entry in entries():
        for check in CHECKS:
            brief = entry.most < 15 and not any(word in check.__name__ for word in BRIEF)
            if not brief:
                yield pytest.param(entry, check, id=f"{label(entry)}-{label(check)}")


@pytest.mark.parametrize(("entry", "check"), list(pairs()))
def test_battery(entry, check):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(entry)


SCRIPT = """
import hashlib, json
from evomerge.search.battery import LEVELS, mixed_results, play
from evomerge.search.battery_lists import GAME, ListGame
from tests.search.test_searchers import entries, label
asked = {}
for entry in entries():
    for levels in ((), LEVELS)[entry.most < 100:]:
        searcher = entry.searcher(6, levels=levels, seed=9, population=5,
                                  constraints=int(entry.constraints))
        count = 30 if entry.most > 100 else 9
        points = play(searcher, count, mixed_results(entry, levels), entry.steady)
        asked[f"{label(entry)} {levels}"] = hashlib.sha256(points.tobytes()).hexdigest()
    if entry.most > 100:
        game = ListGame(GAME[:entry.objectives])
        searcher = entry.searcher(game.bare.variables, **game.options(5, 9))
        points = play(searcher, 30, game.score, entry.steady)
        asked[f"{label(entry)} lists"] = hashlib.sha256(points.tobytes()).hexdigest()
print(json.dumps(asked))
"""


def test_another_process_with_another_hash_seed_asks_the_same():
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    first, second = (json.loads(process.communicate()[0]) for process in processes)
    assert first == second
