"""What the driver costs per candidate at 200 variables and 10,000 recorded ones, and what resuming costs.

    python -m benchmarks.driver [--recorded 10000] [--json]

The executor answers at once, so everything measured is the driver: ask, decode, hash, record, archive,
tell. The limit it is held against is a bare SQLite transaction of the same bytes with the same sync.
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from evomerge.cluster.executor import Job
from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.driver import Driver
from evomerge.search.goals import Goals
from evomerge.search.plan import Plan
from evomerge.search.standing import Standing
from evomerge.search.view import SilentView
from fitness.estimate import Estimate
from fitness.items import Response
from search_spaces.granularity import Granularity
from search_spaces.parameter import ParameterSpace

ITEMS = 160


class InstantExecutor:
    """Answers at once: two objectives from a hash of the recipe, and a response per item."""

    workers = 1

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Evaluation]]:
        """One scored evaluation per job."""
        for job in jobs:
            rng = np.random.default_rng(int(job.recipe.hash[:12], 16))
            scores = (rng.random(ITEMS) < 0.6).astype(float)
            half = ITEMS // 2
            objectives = {
                "one": Estimate(float(scores[:half].mean()), 0.05),
                "two": Estimate(float(scores[half:].mean()), 0.05),
            }
            responses = tuple(Response("task", i, float(s), 4) for i, s in enumerate(scores))
            yield (
                job,
                Evaluation(Outcome.SCORED, "", objectives, responses, 0.01, 0.5, "evaluator-0"),
            )

    def close(self) -> None:
        """Nothing to free."""


class Stopwatch(SilentView):
    """Notes when each generation ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, float]] = [(0, time.perf_counter())]

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        """A generation is complete; its hypervolume is part of the driver's work."""
        standing.hypervolume()
        self.ends.append((asked, time.perf_counter()))


def space() -> ParameterSpace:
    """200 variables: weights of 4 experts for 3 components of 16 layer groups, embeddings and head."""
    return ParameterSpace(
        rule="task_arithmetic",
        base="base",
        experts=["a", "b", "c", "d"],
        layers=32,
        granularity=Granularity(layers=16, components="all"),
    )


def drive(path: Path, evaluations: int, *, create: bool) -> Stopwatch:
    """Run (or replay) a search of that many candidates on the database at `path`."""
    database = Database(path, create=create)
    goals = Goals(("one", "two"), ("maximize", "maximize"), (1.0, 1.0))
    watch = Stopwatch()
    driver = Driver(
        space(), goals, Ledger(database, InstantExecutor(), watch.finished), database, watch
    )
    driver.search(Plan("search", "nsga2", 32, 0, evaluations))
    database.close()
    return watch


def bare_transaction(path: Path, size: int) -> float:
    """Seconds for one synced SQLite transaction that inserts `size` bytes: the floor."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (content TEXT)")
    times: list[float] = []
    for _ in range(200):
        began = time.perf_counter()
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (?)", ("x" * size,))
        connection.execute("COMMIT")
        times.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(times)


def measure(recorded: int) -> dict[str, float]:
    """The figures, for a run with `recorded` candidates."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run.db"
        drive(path, recorded, create=True)
        size = path.stat().st_size / recorded
        began = time.perf_counter()
        watch = drive(path, recorded + 320, create=False)
        resumed = next(at for asked, at in watch.ends if asked >= recorded)
        last = watch.ends[-1]
        first = next(end for end in watch.ends if end[0] >= recorded)
        per_candidate = (last[1] - first[1]) / (last[0] - first[0])
        floor = bare_transaction(Path(name) / "floor.db", int(size))
    return {
        "variables": len(space().variables),
        "recorded": recorded,
        "ms_per_candidate": round(per_candidate * 1e3, 3),
        "of_bare_transaction": round(per_candidate / floor, 2),
        "resume_seconds": round(resumed - began, 2),
        "bytes_per_candidate": round(size),
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recorded", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    print(json.dumps({"benchmark": "driver"} | measure(parser.parse_args().recorded)))


if __name__ == "__main__":
    main()
