"""What a race saves: the winner's true score against the items answered for it.

The same search (quickstart models, the mean of four tasks, CMA-ES) is run with every search item answered
by every candidate (`full`), a fixed random subset (`subset`), a fixed subset read by item banks (`bank`),
and rungs of items read by item banks (`racing`). The winner's true score is that on test items, which
no search sees. One JSON line: per method the mean true score with its standard error over seeds, items
answered per run (calibration apart), and ratios to `full`.

    python -m benchmarks.racing --seeds 20
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from evomerge.calibration import calibrate
from evomerge.cluster.executor import SerialExecutor
from evomerge.evaluation import Evaluation
from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import Prepared, plan_of, prepare
from evomerge.race_rules import rules_of
from evomerge.run_file import parse_run_file
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger, Wanted
from evomerge.search.choice import choose
from evomerge.search.driver import Driver
from evomerge.search.view import SilentView

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"

SIZES = {"lunari_words": 120, "tovek_words": 120, "sums": 180, "lunari_sums": 180}
"""Search items; a sixth of that for selection, the rest for the test."""

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "subset": {"racing": {"rungs": [8], "again": 0}},
    "bank": {"racing": {"rungs": [8], "again": 0}, "bank": True},
    "racing": {"racing": {"rungs": [8, 24, 72]}, "bank": True},
    "small rungs": {"racing": {"rungs": [4, 16, 64]}, "bank": True},
}


def run_file(seed: int, evaluations: int, method: dict[str, Any]) -> dict[str, Any]:
    """A run file of the benchmark."""
    tasks = {n: {"items": size, "selection": size // 6} for n, size in SIZES.items()}
    fitness: dict[str, Any] = {
        "include": "tasks",
        "tasks": tasks,
        "objectives": [{"name": "mean", "tasks": dict.fromkeys(SIZES, 1.0)}],
        "seed": seed,
    }
    if "racing" in method:
        fitness["racing"] = method["racing"]
    return {
        "models": {
            "base": "models/base",
            "experts": {name: f"models/{name}" for name in ("lunari", "tovek", "abacus")},
        },
        "space": {
            "rule": "task_arithmetic",
            "granularity": {"layers": 2, "components": ["attn", "mlp"]},
            "weight": [0, 1.5],
        },
        "fitness": fitness,
        "search": {
            "schedule": "generational",
            "seed": seed,
            "budget": {"evaluations": evaluations},
            "finalists": 12,
        },
        "cluster": {"executor": "serial"},
    }


class Counting:
    """An evaluator that counts answers by split, shared by the searches of one seed."""

    def __init__(self, prepared: Prepared) -> None:
        factory = EvaluatorFactory(
            prepared.config, prepared.folder, prepared.folders, prepared.banks
        )
        self._evaluator = factory()
        self.answers: dict[str, int] = {}

    def evaluate(self, recipe: Any, split: str, asking: Any) -> Evaluation:
        """As the evaluator does."""
        found = self._evaluator.evaluate(recipe, split, asking)
        self.answers[split] = self.answers.get(split, 0) + found.answers
        return found

    def close(self) -> None:
        """Free the engine."""
        self._evaluator.close()


def search(content: dict[str, Any]) -> dict[str, float]:
    """One search: the winner's score on the test items, and the items answered before that."""
    config = parse_run_file(content, "benchmark")
    prepared = prepare(config, QUICKSTART, thorough=False)
    evaluator = Counting(prepared)
    with tempfile.TemporaryDirectory() as name:
        database = Database(Path(name) / "run.db", create=True)
        database.set_items(prepared.judge.rows())
        ledger = Ledger(database, SerialExecutor(lambda: evaluator), SilentView().finished)
        searched = prepared.judge.items["search"]
        rules = rules_of(config, prepared.banks, searched, database)
        driver = Driver(prepared.space, prepared.goals, ledger, database, SilentView(), rules)
        candidates = driver.search(plan_of(prepared, config.search.budget))
        choice = choose(driver, candidates, config.search.finalists, "knee")
        assert choice is not None
        [tested] = ledger.evaluate([Wanted(driver.recipe(choice.winner))], "test")
        database.close()
    evaluator.close()
    spent = evaluator.answers.get("search", 0) + evaluator.answers.get("selection", 0)
    return {"score": tested.objectives["mean"].value, "answers": spent}


def measure(seeds: range, evaluations: int, models: int, methods: list[str]) -> dict[str, Any]:
    """Every method on every seed."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    calibration: list[int] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as name:
            banks = Path(name) / "banks"
            if any(METHODS[method].get("bank") for method in methods):
                content = run_file(seed, evaluations, {})
                content["fitness"]["bank"] = str(banks)
                content["models"] = _absolute(content["models"])
                content["fitness"]["include"] = str(QUICKSTART / "tasks")
                path = Path(name) / "run.yaml"
                path.write_text(yaml.safe_dump(content))
                calibration.append(calibrate(path, models, [], SilentView()).answers)
            for method in methods:
                content = run_file(seed, evaluations, METHODS[method])
                if METHODS[method].get("bank"):
                    content["fitness"]["bank"] = str(banks)
                found[method].append(search(content))
    return {
        "benchmark": "racing",
        "seeds": len(seeds),
        "evaluations": evaluations,
        "pool": sum(SIZES.values()),
        "calibration_answers": fmean(calibration) if calibration else 0,
        "methods": {name: _told(runs, found.get("full")) for name, runs in found.items()},
    }


def _absolute(models: dict[str, Any]) -> dict[str, Any]:
    experts = {name: str(QUICKSTART / path) for name, path in models["experts"].items()}
    return {"base": str(QUICKSTART / models["base"]), "experts": experts}


def _told(runs: list[dict[str, float]], full: list[dict[str, float]] | None) -> dict[str, float]:
    scores, answers = [r["score"] for r in runs], [r["answers"] for r in runs]
    told = {"score": round(fmean(scores), 4), "answers": round(fmean(answers))}
    if len(runs) > 1:
        told["se"] = round(stdev(scores) / len(runs) ** 0.5, 4)
    if full:
        gaps = [r["score"] - f["score"] for r, f in zip(runs, full, strict=True)]
        told["score_minus_full"] = round(fmean(gaps), 4)
        told["fewer_answers"] = round(fmean(f["answers"] for f in full) / fmean(answers), 1)
        if len(runs) > 1:
            told["score_minus_full_se"] = round(stdev(gaps) / len(gaps) ** 0.5, 4)
    return told


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--evaluations", type=int, default=200)
    parser.add_argument("--models", type=int, default=50, help="calibration models")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    print(json.dumps(measure(seeds, given.evaluations, given.models, given.methods)))


if __name__ == "__main__":
    main()
