"""A small chaos run: evaluators and driver killed in the middle, and the record is as if nothing was."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KILLS = {"evaluator_kills": 4, "driver_kills": 2}

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="finds processes in /proc and adopts orphans"
)


@pytest.fixture(scope="module")
def line() -> dict[str, Any]:
    """What `python -m benchmarks.chaos` prints for a search of 40 candidates."""
    kills = [f"--{name.replace('_', '-')}={count}" for name, count in KILLS.items()]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", "--small", "--evaluations", "40", *kills],
        capture_output=True,
        text=True,
        check=False,
        timeout=560,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_everybody_was_killed_who_was_to_be(line: dict[str, Any]):
    """A chaos run that hits nobody passes for nothing."""
    assert {name: line[name] for name in KILLS} == KILLS
    assert line["kills_left"] == 0
    assert line["resumed"] == KILLS["driver_kills"]
    assert line["candidates"] == 40


def test_same_candidates_and_scores_as_in_peace(line: dict[str, Any]):
    """A candidate lost, asked in another order, or scored by half-merged weights would differ."""
    assert line["same_candidates"]
    assert line["same_scores"]
    assert line["not_scored"] == 0, "a retry recorded the kill as the candidate's outcome"


def test_nothing_was_scored_twice_or_lost_from_the_record(line: dict[str, Any]):
    assert line["scored_twice"] == 0
    assert line["records_destroyed"] == 0


def test_no_process_is_left(line: dict[str, Any]):
    """Ray's daemons, actors and what they started, of the killed drivers as well."""
    assert line["orphans"] == []
    assert len(line["killed_drivers_processes_gone_seconds"]) == KILLS["driver_kills"]
