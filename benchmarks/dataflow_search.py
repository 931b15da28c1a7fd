"""What the order of layers adds: searches over merges, over stacks and over both, on one budget.

The same task, models and number of evaluations (examples/data_flow) for each way to search:
`parameter` (how the sources' layers are merged), `path` (which layers follow which, begun with
templates), `hybrid` (both at once) and `staged` (the first half of the budget for the merge, whose
winner joins the pool of the second half). Per seed everything is drawn anew: which items are searched
on, chosen on and tested on, and the searches' random numbers. Winners are chosen on the selection
items; every figure is that of test items, which no search sees.

One JSON line: test scores (mean and standard error over seeds) of each source, the uniform merge and
each winner; paired differences; the score of the best starting point beside that of the winner which
the search made of it; the share of candidates that were alive (at least half of the best source's
score) in the first generation, over the run, and among stacks drawn uniformly.

Results are kept per seed and way in a folder. The same command continues after a kill: finished
searches are read, the one under way is resumed.

    python -m benchmarks.dataflow_search 10 --dir runs/dataflow_search
"""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml

from evomerge.config import RunFile
from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import prepare
from evomerge.report.summary import summarise
from evomerge.run_file import parse_run_file
from evomerge.runs.folder import RunFolder
from evomerge.search.view import SilentView
from evomerge.session import resume, start
from search_spaces.space import from_unit

EXAMPLE = Path(__file__).parents[1] / "examples" / "data_flow"

WAYS = ("parameter", "path", "hybrid", "staged")
"""Run files of the example."""

Found = dict[str, Any]
"""Plain data about one search, as it is kept."""


def run_file(way: str, seed: int, evaluations: int) -> Found:
    """The example's run file of `way`, with this seed's items and random numbers."""
    content = yaml.safe_load((EXAMPLE / f"{way}.yaml").read_text())
    content["models"] = _absolute(content["models"])
    content["fitness"] |= {"seed": seed, "include": str(EXAMPLE / "tasks")}
    content["search"] |= {"seed": seed, "random_baseline": False}
    content["search"]["budget"] = {"evaluations": evaluations}
    content["cluster"] = {"executor": "serial"}
    return content


def _absolute(models: Mapping[str, Any]) -> Found:
    experts = {name: str(EXAMPLE / path) for name, path in models["experts"].items()}
    return {"base": str(EXAMPLE / models["base"]), "experts": experts}


def search(way: str, seed: int, evaluations: int, folder: Path) -> Found:
    """One search, begun or continued in `folder`: what came of it."""
    run = folder / way
    if (run / "run.db").exists():
        resume(run, None, SilentView())
    else:
        path = folder / f"{way}.yaml"
        path.write_text(yaml.safe_dump(run_file(way, seed, evaluations)))
        start(path, run, None, SilentView())
    with closing(RunFolder.open(run)) as opened:
        return told(summarise(opened))


def told(summary: Found) -> Found:
    """What is kept of a run's summary: test scores by name, shares alive, the paths."""
    [objective] = [o["name"] for o in summary["objectives"]]
    stacks = summary.get("stacks") or {}
    return {
        "test": {name: found[objective]["value"] for name, found in summary["baselines"].items()},
        "evaluations": summary["budget"]["evaluations"],
        "alive": stacks.get("alive"),
        "paths": stacks.get("paths"),
        "best_start": stacks.get("best_start"),
    }


def by_chance(seed: int, draws: int) -> Found:
    """How many stacks drawn uniformly from the path space are alive, on this seed's search items."""
    config = parse_run_file(run_file("path", seed, draws), "benchmark")
    prepared = prepare(config, EXAMPLE, thorough=False)
    evaluator = EvaluatorFactory(
        config, prepared.folder, prepared.folders, prepared.banks, layers=prepared.layers
    )()
    space, seeds = prepared.space, prepared.space.seeds()
    sources = [_score(evaluator, space.decode(seeds[name])) for name in _sources(config)]
    points = np.random.default_rng(seed).random((draws, len(space.variables)))
    scores = [_score(evaluator, space.decode(from_unit(space, point))) for point in points]
    evaluator.close()
    living = sum(score >= 0.5 * max(sources) for score in scores)
    return {"alive": living, "of": draws, "share": living / draws, "best": max(scores)}


def _sources(config: RunFile) -> Sequence[str]:
    return list(config.models.sources)


def _score(evaluator: Any, recipe: Any) -> float:
    """The objective on the search items; 0 if it could not be scored."""
    found = evaluator.evaluate(recipe, "search")
    return next(iter(found.objectives.values())).value if found.scored else 0.0


def kept(path: Path, make: Any) -> Found:
    """What `path` holds; made and written first where it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(make()))
        os.replace(draft, path)
    return json.loads(path.read_text())


def measure(seeds: Iterable[int], evaluations: int, draws: int, folder: Path, ways: Sequence[str]):
    """Every way on every seed; the figures over those seeds."""
    found: list[dict[str, Found]] = []
    for seed in seeds:
        own = folder / f"seed_{seed}"
        one = {
            way: kept(
                own / f"{way}.json",
                lambda way=way, seed=seed, own=own: search(way, seed, evaluations, own),
            )
            for way in ways
        }
        one["uniform stacks"] = kept(own / "chance.json", lambda seed=seed: by_chance(seed, draws))
        found.append(one)
    return {
        "benchmark": "dataflow_search",
        "seeds": len(found),
        "evaluations": evaluations,
        **figures(found, ways),
    }


def figures(found: Sequence[Mapping[str, Found]], ways: Sequence[str]) -> Found:
    """Means, errors and paired differences over seeds.

    Args:
        found: per seed, what `told` says of each way, and `by_chance`.
        ways: those searched.
    """
    stacked = [way for way in ways if way != "parameter"]
    scores: dict[str, list[float]] = {}
    for name in next(iter(found[0].values()))["test"]:
        if name not in ("winner", "best_start"):
            scores[name] = [one[ways[0]]["test"][name] for one in found]
    sources = [n for n in scores if n not in ("uniform", "greedy_soup", "merged")]
    best = [max(scores[name][i] for name in sources) for i in range(len(found))]
    winners = {way: [one[way]["test"]["winner"] for one in found] for way in ways}
    starts = {way: [one[way]["test"]["best_start"] for one in found] for way in stacked}
    gaps = {f"{way} - best source": _gap(winners[way], best) for way in ways}
    gaps |= {f"{way} - its best start": _gap(winners[way], starts[way]) for way in stacked}
    if "parameter" in ways:
        gaps |= {f"{way} - parameter": _gap(winners[way], winners["parameter"]) for way in stacked}
    alive = {way: _alive([one[way]["alive"] for one in found]) for way in stacked}
    chance = [one["uniform stacks"]["share"] for one in found]
    return {
        "test": {name: _mean(values) for name, values in scores.items()}
        | {"best source of each seed": _mean(best)}
        | {f"best start of {way}": _mean(values) for way, values in starts.items()}
        | {f"winner of {way}": _mean(values) for way, values in winners.items()},
        "differences": gaps,
        "alive": alive | {"uniform stacks": _mean(chance)["mean"]},
        "layers": {way: [one[way]["paths"]["winner"] for one in found] for way in stacked},
    }


def _alive(found: Sequence[Found]) -> dict[str, float]:
    return {
        when: round(fmean(one[when]["share"] for one in found), 3)
        for when in ("first_generation", "run")
    }


def _gap(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """The paired difference over seeds; `ahead`: in how many seeds it is above 0."""
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return _mean(differences) | {"ahead": sum(d > 0 for d in differences)}


def _mean(values: Sequence[float]) -> dict[str, float]:
    mean = {"mean": round(fmean(values), 4)}
    if len(values) > 1:
        mean["se"] = round(stdev(values) / len(values) ** 0.5, 4)
    return mean


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description="stacks against merges on one budget")
    parser.add_argument("seeds", type=int, nargs="?", default=10)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--evaluations", type=int, default=240, help="of each search, in all")
    parser.add_argument("--draws", type=int, default=60, help="stacks drawn uniformly, per seed")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--dir", type=Path, default=Path("runs/dataflow_search"))
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    print(json.dumps(measure(seeds, given.evaluations, given.draws, given.dir, given.ways)))


if __name__ == "__main__":
    main()
