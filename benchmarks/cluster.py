"""How busy real Ray workers are kept, without a barrier and with one, and what the driver costs.

    python -m benchmarks.cluster [--workers 8 64] [--median 1 6] [--rounds 100 40] [--barrier-rounds 24 3]

NSGA-II searches 20 variables on evaluators that sleep instead of answering: a log-normal time
(sigma 0.6) that is drawn from the recipe's hash, so that every schedule draws alike. Everything else
is real: driver, ledger, run.db, Ray's actors, 160 responses per candidate. Only the seconds drawn
count as busy; what a loaded machine adds to a sleep is the scheduler's loss. About 15 minutes.
"""

import argparse
import heapq
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from evomerge.asking import Asking
from evomerge.cluster.executor import Executor, Job, RayExecutor
from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.driver import Driver
from evomerge.search.goals import Goals
from evomerge.search.plan import Plan, Schedule
from evomerge.search.view import SilentView
from fitness.estimate import Estimate
from fitness.items import Response
from search_spaces.granularity import Granularity
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import Clause, Recipe

SIGMA = 0.6
ITEMS = 160
POPULATION = 32
_WARM_SECONDS = 1.0


def seconds_of(recipe_hash: str, median: float) -> float:
    """How long a recipe takes: log-normal, the same in every schedule and process."""
    generator = np.random.default_rng(int(recipe_hash[:12], 16))
    return median * math.exp(SIGMA * generator.standard_normal())


class Sleeper:
    """Sleeps, then scores a recipe by how near its weights are to either of two points.

    Args:
        median: seconds of an evaluation on `search`; on any other split a second.
    """

    def __init__(self, median: float) -> None:
        self._median = median

    def evaluate(self, recipe: Recipe, split: str, asking: Asking) -> Evaluation:
        """Two objectives that cannot both be best, and a response per item."""
        seconds = seconds_of(recipe.hash, self._median) if split == "search" else _WARM_SECONDS
        time.sleep(seconds)
        weights = np.array([clause.values[0] for clause in _clauses(recipe)], dtype=float)
        objectives = {
            name: Estimate(float(-np.mean((weights - best) ** 2)), 0.05)
            for name, best in (("low", 0.3), ("high", 0.8))
        }
        right = np.random.default_rng(int(recipe.hash[:12], 16)).random(ITEMS) < 0.6
        responses = tuple(Response("task", i, float(score), 4) for i, score in enumerate(right))
        return Evaluation(Outcome.SCORED, "", objectives, responses, 0.0, seconds)

    def close(self) -> None:
        """Nothing to free."""


def _clauses(recipe: Recipe) -> list[Clause]:
    inputs = [i for part in recipe.slices for i in part.inputs]
    settings = [setting for i in inputs for _, setting in i.parameters]
    return [clause for setting in settings for clause in setting.clauses]


class Metered:
    """An executor, and a stopwatch: when jobs went out and came back, what the driver did between.

    Attributes:
        sent, back: job number, over all runs -> seconds.
        hashes: of the jobs, in order of hand-out.
        working: the driver's seconds outside the executor (ask, decode, record, tell; commits
            included), and inside it those of them that its thread was computing, not waiting.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.sent: list[float] = []
        self.back: dict[int, float] = {}
        self.hashes: list[str] = []
        self.working = 0.0
        self._inside = False
        self._since = time.perf_counter(), time.thread_time()

    @property
    def workers(self) -> int:
        """How many jobs can run at once."""
        return self._executor.workers

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Evaluation]]:
        """Every job with its evaluation, as they finish."""
        first = len(self.sent)
        results = self._executor.run(self._sending(jobs))
        while True:
            self._enter(inside=True)
            result = next(results, None)
            self._enter(inside=False)
            if result is None:
                return
            self.back[first + result[0].number] = time.perf_counter()
            yield result

    def close(self) -> None:
        """The executor is its owner's to close."""

    def _sending(self, jobs: Iterable[Job | None]) -> Iterator[Job | None]:
        pulled = iter(jobs)
        while True:
            self._enter(inside=False)
            try:
                job = next(pulled)
            except StopIteration:
                return
            finally:
                self._enter(inside=True)
            if job is not None:
                self.sent.append(time.perf_counter())
                self.hashes.append(job.recipe.hash)
            yield job

    def _enter(self, *, inside: bool) -> None:
        now = time.perf_counter(), time.thread_time()
        spent = [end - begin for end, begin in zip(now, self._since, strict=True)]
        self.working += spent[1] if self._inside else spent[0]
        self._inside, self._since = inside, now


def space() -> ParameterSpace:
    """20 variables: weights of 2 experts for 10 groups of layers."""
    return ParameterSpace(
        rule="task_arithmetic",
        base="base",
        experts=["a", "b"],
        layers=20,
        granularity=Granularity(layers=10),
    )


def drive(
    executor: Executor, schedule: Schedule, population: int, evaluations: int, median: float
) -> dict[str, float]:
    """One search on those workers; how busy they were, and what the driver cost."""
    goals = Goals(("low", "high"), ("maximize", "maximize"), (1.0, 1.0))
    with tempfile.TemporaryDirectory() as name:
        database = Database(Path(name) / "run.db", create=True)
        metered, view = Metered(executor), SilentView()
        driver = Driver(space(), goals, Ledger(database, metered, view.finished), database, view)
        processor, thread = time.process_time(), time.thread_time()
        driver.search(Plan("search", "nsga2", population, 0, evaluations, schedule=schedule))
        processor, thread = time.process_time() - processor, time.thread_time() - thread
        database.close()
    done = len(metered.sent)
    busy = [seconds_of(recipe_hash, median) for recipe_hash in metered.hashes]
    wall = max(metered.back.values()) - metered.sent[0]
    return {
        "evaluations": done,
        "seconds": round(wall, 1),
        "utilisation": round(sum(busy) / (executor.workers * wall), 4),
        "best_possible": round(best_possible(busy, executor.workers), 4),
        "without_drain": round(before_drain(metered.sent, busy, executor.workers), 4),
        "driver_ms": round(metered.working / done * 1e3, 2),
        "driver_thread_cpu_ms": round(thread / done * 1e3, 2),
        "driver_process_cpu_ms": round(processor / done * 1e3, 2),
    }


def before_drain(sent: Sequence[float], busy: Sequence[float], workers: int) -> float:
    """Utilisation until the last hand-out, after which there is nothing left to do for the free."""
    until = sent[-1]
    within = (min(seconds, until - at) for at, seconds in zip(sent, busy, strict=True))
    return sum(within) / (workers * (until - sent[0]))


def best_possible(busy: Iterable[float], workers: int) -> float:
    """Utilisation if the next job began the moment a worker was free: all the drain leaves."""
    free = [0.0] * workers
    total = 0.0
    for seconds in busy:
        total += seconds
        heapq.heapreplace(free, free[0] + seconds)
    return total / (workers * max(free))


def warm(executor: Executor, workers: int) -> None:
    """Wait until every worker is up: starting them is no part of what is measured."""
    seen: set[str] = set()
    genome = next(iter(space().seeds().values()))
    recipe = space().decode(genome)

    def until_all_are_there() -> Iterator[Job]:
        number = 0
        while len(seen) < workers:
            yield Job(number, recipe, "warm-up")
            number += 1

    for _, evaluation in executor.run(until_all_are_there()):
        seen.add(evaluation.worker)


def compare(workers: int, median: float, rounds: int, barrier_rounds: int) -> dict[str, object]:
    """The same search on `workers` workers: no barrier, one per 32 candidates, one per worker.

    Args:
        workers: Ray actors, on this machine's cores whatever their number.
        median: seconds of an evaluation.
        rounds: candidates per worker without a barrier.
        barrier_rounds: about as many with one; it is slow, and needs no drain made small.
    """
    share = math.floor((os.cpu_count() or 1) / workers * 1e4) / 1e4  # what Ray can count
    executor = RayExecutor(
        partial(Sleeper, median), evaluators=workers, cpus_per_evaluator=min(1.0, share)
    )
    try:
        warm(executor, workers)
        free = drive(executor, "asynchronous", POPULATION, workers * rounds, median)
        barred: dict[int, dict[str, float]] = {}
        for population in sorted({POPULATION, workers}):
            evaluations = population * math.ceil(workers * barrier_rounds / population)
            barred[population] = drive(executor, "generational", population, evaluations, median)
    finally:
        executor.close()
    return {
        "median_seconds": median,
        "asynchronous": free,
        "generational": {f"population_{p}": figures for p, figures in barred.items()},
        "ratio": {
            f"population_{p}": round(free["utilisation"] / figures["utilisation"], 2)
            for p, figures in barred.items()
        },
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    # The others hold a value for each number of workers (see `compare`).
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--median", type=float, nargs="+", default=[1.0, 6.0])
    parser.add_argument("--rounds", type=int, nargs="+", default=[100, 40])
    parser.add_argument("--barrier-rounds", type=int, nargs="+", default=[24, 3])
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    given = parser.parse_args()
    cases = zip(given.workers, given.median, given.rounds, given.barrier_rounds, strict=True)
    line = {
        "benchmark": "cluster",
        "cores": os.cpu_count(),
        "sigma": SIGMA,
        "variables": len(space().variables),
        "workers": {str(w): compare(w, m, r, b) for w, m, r, b in cases},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
