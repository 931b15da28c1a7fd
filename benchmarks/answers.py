"""What the answers kept across runs cost per candidate, next to recording the same in run.db.

    python -m benchmarks.answers [--candidates 2000] [--items 100] [--json]

Every candidate is looked up in vain, recorded in run.db and kept, in turn, as in a first run; then
all are looked up again from a newly opened file, as in a second one.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.answers import AnswerCache
from evomerge.runs.database import Database
from fitness.estimate import Estimate
from fitness.items import Item, Response


def measure(candidates: int, items: int) -> dict[str, float]:
    """The figures: times are medians per candidate, in microseconds."""
    asked = [Item("task", i, (), sha256(str(i).encode()).hexdigest()[:16]) for i in range(items)]
    times: dict[str, list[float]] = {"miss": [], "record": [], "keep": [], "known": []}

    def timed(what: str, call: Callable[..., object], *arguments: object) -> object:
        began = time.perf_counter()
        result = call(*arguments)
        times[what].append(time.perf_counter() - began)
        return result

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.db"
        database = Database(Path(folder) / "run.db", create=True)
        cache = AnswerCache(path)
        answers = cache.fingerprinted("benchmark")
        for number in range(candidates):
            name, evaluation = _candidate(number, asked)
            timed("miss", answers.known, name, asked)
            timed("record", database.record, name, "search", evaluation)
            timed("keep", answers.keep, name, asked, evaluation.responses)
        database.close()
        cache.close()
        size = path.stat().st_size
        cache = AnswerCache(path)
        answers = cache.fingerprinted("benchmark")
        for number in range(candidates):
            name, evaluation = _candidate(number, asked)
            found = timed("known", answers.known, name, asked)
            assert found == dict(enumerate(evaluation.responses))
        cache.close()
    median = {name: statistics.median(values) * 1e6 for name, values in times.items()}
    both = median["miss"] + median["keep"]
    return {
        "candidates": candidates,
        "items": items,
        "bytes_per_answer": round(size / candidates / items, 1),
        **{f"us_{name}": round(value) for name, value in median.items()},
        "of_recording": round(both / median["record"], 2),
    }


def _candidate(number: int, items: list[Item]) -> tuple[str, Evaluation]:
    rng = np.random.default_rng(number)
    scores, tokens = rng.random(len(items)).tolist(), rng.integers(1, 400, len(items)).tolist()
    responses = tuple(
        Response(i.task, i.index, score, count, count > 390)
        for i, score, count in zip(items, scores, tokens, strict=True)
    )
    objectives = {"task": Estimate(float(np.mean(scores)), 0.05)}
    name = sha256(str(number).encode()).hexdigest()
    return name, Evaluation(Outcome.SCORED, "", objectives, responses, 0.01, 0.5, "evaluator-0")


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    options = parser.parse_args()
    line = measure(options.candidates, options.items)
    print(json.dumps({"benchmark": "answers"} | line))


if __name__ == "__main__":
    main()
