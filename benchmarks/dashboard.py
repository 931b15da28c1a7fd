"""What it costs to mirror a run as an Optuna study, and to serve it: 2,000 candidates of 100 variables.

    python -m benchmarks.dashboard [--candidates 2000] [--variables 100]

`load_seconds`: until the dashboard of a finished run answers; `look_seconds`: a look at a run in which
nothing has happened; `follow_ms`: each candidate that has come since the last look; `first_page_seconds`
and `page_bytes`: the browser's first request for all trials.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.database import Database
from evomerge.runs.rows import CandidateRow
from fitness.estimate import Estimate

RUN_FILE = {
    "models": {"base": "base", "experts": {"one": "one", "two": "two"}},
    "space": {"rule": "task_arithmetic"},
    "fitness": {"tasks": {"words": {}, "sums": {}}, "objectives": ["words", "sums"]},
}


def plant(folder: Path, candidates: int, variables: int) -> Database:
    """A run of random candidates."""
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN_FILE))
    database = Database(folder / "run.db", create=True)
    names = [f"weight.expert_{n // 10}.layers_{n % 10}" for n in range(variables)]
    database.set_meta("variables", names)
    facts = [{"name": n, "low": 0.0, "high": 1.5, "whole": False, "when": None} for n in names]
    database.set_meta("search_space", facts)
    described = [{"name": name, "direction": "maximize"} for name in ("words", "sums")]
    database.set_meta("objectives", described)
    record(database, range(candidates), variables)
    return database


def record(database: Database, numbers: range, variables: int) -> None:
    """Candidates of those numbers."""
    rng = np.random.default_rng(numbers.start)
    for number in numbers:
        found = {name: Estimate(float(rng.random()), 0.05) for name in ("words", "sums")}
        evaluation = Evaluation(Outcome.SCORED, "", found, (), 0.1, 2.0, "evaluator-0@host")
        genome = tuple(float(x) for x in rng.uniform(0, 1.5, variables))
        row = CandidateRow("search", number, number // 32, genome, f"{number:064x}", False)
        database.record(row.recipe_hash, "search", evaluation, [row])


def measure(candidates: int, variables: int) -> dict[str, float]:
    """The figures."""
    from optuna.storages import InMemoryStorage
    from optuna_dashboard import wsgi

    from evomerge.live.mirror import Mirror

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(folder, candidates, variables).close()
        began = time.perf_counter()
        storage = InMemoryStorage()
        mirror = Mirror(folder, storage)
        loaded = time.perf_counter()
        mirror.update()
        looked = time.perf_counter()
        app = wsgi(storage)
        environment = {
            "REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/0", "QUERY_STRING": "after=0",
            "wsgi.input": io.BytesIO(), "SERVER_NAME": "localhost", "SERVER_PORT": "0",
            "wsgi.url_scheme": "http",
        }  # fmt: skip
        asked = time.perf_counter()
        page = b"".join(app(environment, lambda *_: None))
        served = time.perf_counter()
        database = Database(folder / "run.db")
        record(database, range(candidates, candidates + 32), variables)
        database.close()
        follow = time.perf_counter()
        new = mirror.update()
        followed = time.perf_counter()
    assert new == 32
    return {
        "candidates": candidates,
        "variables": variables,
        "load_seconds": round(loaded - began, 2),
        "look_seconds": round(looked - loaded, 4),
        "follow_ms": round((followed - follow) / new * 1e3, 2),
        "first_page_seconds": round(served - asked, 2),
        "page_bytes": len(page),
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--variables", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    options = parser.parse_args()
    print(json.dumps({"benchmark": "dashboard"} | measure(options.candidates, options.variables)))


if __name__ == "__main__":
    main()
