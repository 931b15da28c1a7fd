"""Where a candidate's time goes on the quickstart: scoring, merging and swapping, and the rest.

    python -m benchmarks.candidate [--evaluations 60] [--json]

Runs a search on the quickstart zoo with one evaluator in this process, so that wall clock is the sum.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import yaml

from evomerge.cluster.executor import SerialExecutor
from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import prepare
from evomerge.run_file import parse_run_file
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.driver import Driver
from evomerge.search.plan import Plan
from evomerge.search.view import SilentView

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"


def measure(evaluations: int) -> dict[str, float]:
    """The shares, over a search of that many candidates."""
    run_file = QUICKSTART / "run.yaml"
    config = parse_run_file(yaml.safe_load(run_file.read_text()), str(run_file))
    prepared = prepare(config, QUICKSTART, thorough=False)
    evaluator = EvaluatorFactory(config, QUICKSTART, prepared.folders)()
    with tempfile.TemporaryDirectory() as name:
        database = Database(Path(name) / "run.db", create=True)
        ledger = Ledger(database, SerialExecutor(lambda: evaluator), SilentView().finished)
        driver = Driver(prepared.space, prepared.goals, ledger, database, SilentView())
        evaluator.evaluate(
            prepared.space.decode(next(iter(prepared.space.seeds().values()))), "search"
        )
        began = time.perf_counter()
        driver.search(Plan("search", prepared.algorithm, config.search.population, 0, evaluations))
        wall = time.perf_counter() - began
        found = database.evaluations("search").values()
        database.close()
    merging = sum(e.merge_seconds for e in found)
    scoring = sum(e.score_seconds for e in found)
    return {
        "evaluations": len(found),
        "seconds_per_candidate": round(wall / len(found), 4),
        "scoring_share": round(scoring / wall, 3),
        "merge_and_swap_share": round(merging / wall, 3),
        "bookkeeping_share": round(1 - (merging + scoring) / wall, 3),
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    print(json.dumps({"benchmark": "candidate"} | measure(parser.parse_args().evaluations)))


if __name__ == "__main__":
    main()
