"""A candidate in a running vLLM against the rival's way, and 500 of them in a row.

    python -m benchmarks.engine [--candidates 500] [--run-file RUN.yaml] [--no-rival] [--json]

Ours: one engine, each candidate merged into it. The rival's way (mergekit-evolve without its in-memory
mode): `mergekit-yaml` writes the merged model, a new vLLM loads it, scores the same items and goes.
Both use the quickstart's models and search items; the rival's scores are compared with ours.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.one_off import RIVAL
from evomerge.config import RunFile
from evomerge.run_file import parse_run_file

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
_LONG_ANSWERS = 20.0
"""Seconds of answering at which the target for overhead is set."""


def load(run_file: Path) -> RunFile:
    """The run file, its candidates answered by vLLM in float32."""
    content = yaml.safe_load(run_file.read_text())
    content["engine"] = content.get("engine", {}) | {"kind": "vllm", "dtype": "float32"}
    content["cluster"] = {"executor": "serial"}
    return parse_run_file(content, str(run_file))


def ours(run_file: Path, candidates: int) -> dict[str, Any]:
    """Evaluate that many candidates in one engine, in this process."""
    from evomerge.evaluator import EvaluatorFactory
    from evomerge.preflight import prepare
    from search_spaces.dialect import dump_recipe
    from search_spaces.space import from_unit

    config = load(run_file)
    prepared = prepare(config, run_file.parent, thorough=False)
    began = time.perf_counter()
    evaluator = EvaluatorFactory(config, run_file.parent, prepared.folders)()
    start = time.perf_counter() - began
    seconds, merging, answering = [], [], []
    resident: dict[int, int] = {}
    first: dict[str, Any] = {}
    written = 0
    for number in range(candidates):
        recipe = prepared.space.decode(from_unit(prepared.space, _point(prepared, number)))
        before, began = _written(), time.perf_counter()
        found = evaluator.evaluate(recipe, "search")
        seconds.append(time.perf_counter() - began)
        if not found.scored:
            raise SystemExit(f"candidate {number}: {found.outcome}: {found.reason}")
        if number >= 5:  # the first ones build the tables, which are kept on disk
            written += _written() - before
        merging.append(found.merge_seconds)
        answering.append(found.score_seconds)
        if number == 0:
            places = {name: str(place.model.resolve()) for name, place in prepared.folders.items()}
            scores = [r.score for r in found.responses]
            first = {"recipe": dump_recipe(recipe.renamed(places)), "scores": scores}
        if number % max(1, candidates // 10) == 0 or number == candidates - 1:
            resident[number] = round(_resident() / 1e6)
    again = evaluator.evaluate(
        prepared.space.decode(from_unit(prepared.space, _point(prepared, 0))), "search"
    )
    evaluator.close()
    return {
        "start_seconds": start,
        "seconds": statistics.median(seconds[5:]),
        "merge_seconds": statistics.median(merging[5:]),
        "answer_seconds": statistics.median(answering[5:]),
        "written_bytes": written,
        "resident_mb": resident,
        "same_again": [r.score for r in again.responses] == first["scores"],
        "first": first,
    }


def rival(run_file: Path, first: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The same candidate as mergekit-evolve does it: to disk, into a new engine, scored."""
    (scratch / "recipe.yaml").write_text(first["recipe"])
    began = time.perf_counter()
    command = [RIVAL, scratch / "recipe.yaml", scratch / "merged"]
    subprocess.run(command, check=True, capture_output=True)
    merged = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.engine", "--score", scratch / "merged"]
    done = subprocess.run(
        [*command, "--run-file", run_file], check=True, capture_output=True, text=True
    )
    ended = time.perf_counter()
    scores = json.loads(done.stdout.splitlines()[-1])
    size = sum(f.stat().st_size for f in (scratch / "merged").rglob("*") if f.is_file())
    return {
        "seconds": ended - began,
        "merge_seconds": merged - began,
        "engine_and_scoring_seconds": ended - merged,
        "written_bytes": size,
        "different_scores": sum(a != b for a, b in zip(scores, first["scores"], strict=True)),
    }


def score(run_file: Path, model: Path) -> list[float]:
    """Scores of a model folder on the search items, in a vLLM started for it."""
    from evomerge.judging import build_judge
    from fitness.engines.vllm.engine import default_arguments, prepare_environment

    config = load(run_file)
    prepare_environment(1)
    from vllm import LLM

    from fitness.engines.encoding import Encoder
    from fitness.engines.resident import build_tokenizer
    from fitness.engines.vllm import scoring

    judge = build_judge(config, run_file.parent, model)
    arguments = default_arguments("cpu", 1) | {"logprobs_mode": "raw_logprobs"}
    llm = LLM(str(model), dtype="float32", **arguments)
    encoder = Encoder(build_tokenizer(model, False))
    version = llm.get_weight_version()
    every = range(judge.size("search"))
    replies = scoring.answer(llm, encoder, judge.requests("search", every), version, {})
    return [response.score for response in judge.responses("search", every, replies)]


def measure(run_file: Path, candidates: int, *, with_rival: bool) -> dict[str, Any]:
    """The figures of the JSON line."""
    command = [sys.executable, "-m", "benchmarks.engine", "--ours", str(candidates)]
    with tempfile.TemporaryDirectory() as name:
        environment = os.environ | {"EVOMERGE_CACHE": f"{name}/cache"}
        done = subprocess.run(
            [*command, "--run-file", run_file],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        found = json.loads(done.stdout.splitlines()[-1])
        line: dict[str, Any] = {"benchmark": "engine", "candidates": candidates}
        line |= {k: _short(v) for k, v in found.items() if k != "first"}
        overhead = found["seconds"] - found["answer_seconds"]
        line["overhead_share"] = round(overhead / found["seconds"], 4)
        line["overhead_share_at_20_s"] = round(overhead / (overhead + _LONG_ANSWERS), 5)
        if with_rival and RIVAL.exists():
            theirs = rival(run_file, found["first"], Path(name))
            line["rival"] = {k: _short(v) for k, v in theirs.items()}
            line["faster_than_rival"] = round(theirs["seconds"] / found["seconds"], 1)
    return line


def _point(prepared: Any, number: int) -> Any:
    """A point of the unit cube that follows from the number alone."""
    import numpy as np

    digest = hashlib.sha256(str(number).encode()).digest()
    seed = int.from_bytes(digest[:8], "big")
    return np.random.default_rng(seed).random(len(prepared.space.variables))


def _written() -> int:
    """Bytes this process has caused to be written to disks."""
    text = Path("/proc/self/io").read_text()
    return int(text.split("\nwrite_bytes: ")[1].split("\n")[0])


def _resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--run-file", type=Path, default=QUICKSTART / "run.yaml")
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--json", action="store_true", help="for symmetry: it is all there is")
    parser.add_argument("--ours", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    run_file = options.run_file.resolve()
    if options.ours:
        print(json.dumps(ours(run_file, options.ours)))
    elif options.score:
        print(json.dumps(score(run_file, options.score)))
    else:
        print(json.dumps(measure(run_file, options.candidates, with_rival=not options.no_rival)))


if __name__ == "__main__":
    main()
