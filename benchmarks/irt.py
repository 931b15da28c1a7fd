"""How near few answers come to the full score: item selections and estimators, on held-out models.

    python -m benchmarks.irt [DATA_FOLDER] [--seeds 10] [--calibration 10,20,50] [--items 10,30,60,100]
                             [--methods variance/ensemble,adaptive/adaptive] [--sets zgsm,crux]

DATA_FOLDER holds `NAME.npz` files with an array `Y` [models, items] of scores in [0, 1]; without it,
matrices are simulated. For each seed, `numpy.random.default_rng(1000 + seed)` permutes the models; the
first three quarters (or the first `--calibration` of them) are the bank, the last quarter is judged.
Prints one JSON line: by set, calibration models and method (selection/estimator), for each number of
items the mean absolute error in points, the coverage of 90 % intervals and Kendall's tau between
estimated and true scores; milliseconds per candidate and seconds to build.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from fitness.banks import ItemBank
from fitness.estimate import Estimate
from fitness.estimators import ESTIMATORS, Estimator, build_estimator
from fitness.estimators.adaptive import Adaptive
from fitness.estimators.blending import NORMAL
from fitness.item_selection import select_items

METHODS = (
    "random/mean",
    "stratified/stratified",
    "kmeans_responses/weighted",
    "random/p_irt_1d",
    "random/p_irt",
    "random/ensemble",
    "kmeans_responses/gp_irt",
    "kmeans_responses/ridge",
    "kmeans_responses/ensemble",
    "variance/p_irt",
    "variance/kriging",
    "variance/ensemble",
    "adaptive/adaptive",
)
BATCH = 5
"""Items per batch of an adaptive test."""


@dataclass
class Tally:
    """What was seen of a method, over seeds."""

    errors: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    covered: dict[int, list[bool]] = field(default_factory=lambda: defaultdict(list))
    taus: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: list[float] = field(default_factory=list)
    build: list[float] = field(default_factory=list)

    def add(self, count: int, estimates: Sequence[Estimate], truth: np.ndarray) -> None:
        """The estimates of the judged models from `count` items, and their true scores."""
        values = np.array([e.value for e in estimates])
        ses = np.array([e.se for e in estimates])
        off = np.abs(values - truth)
        self.errors[count].append(float(off.mean()) * 100)
        self.covered[count] += (off <= NORMAL * ses + 1e-12).tolist()
        if len(np.unique(values)) > 1:
            self.taus[count].append(float(np.asarray(kendalltau(values, truth)[0])))

    def figures(self) -> dict[str, Any]:
        """For the JSON line; keys are numbers of items."""
        return {
            "mae": {n: round(float(np.mean(v)), 2) for n, v in self.errors.items()},
            "coverage": {n: round(float(np.mean(v)), 3) for n, v in self.covered.items()},
            "tau": {n: round(float(np.mean(v)), 3) for n, v in self.taus.items()},
            "ms": round(float(np.median(self.seconds)) * 1000, 3),
            "build_s": round(float(np.mean(self.build)), 2),
        }


def simulated(
    seed: int, models: int, items: int, parents: int = 0, spread: float = 1.0
) -> np.ndarray:
    """Answers [models, items] of models of many skills; with `parents`, of merges of so many.

    Three skills, of which the first counts most, and what else models share: twenty small factors
    of no structure, or each parent's own strengths and weaknesses.
    """
    rng = np.random.default_rng(seed)
    slopes = np.c_[np.exp(rng.normal(0.1, 0.35, items)), rng.normal(0, 0.5, (items, 2))]
    if parents:
        shares = rng.dirichlet(np.full(parents, 0.5), models)
        skills = shares @ rng.normal(0, spread, (parents, 3)) + rng.normal(0, 0.3, (models, 3))
        own = shares @ rng.normal(0, 0.6, (parents, items))
    else:
        skills = rng.normal(0, spread, (models, 3))
        own = rng.normal(0, 0.6 / np.sqrt(20), (models, 20)) @ rng.normal(0, 1, (20, items))
    logits = skills @ slopes.T + rng.normal(0.3, 1.5, items) + own
    return (rng.random((models, items)) < 1 / (1 + np.exp(-logits))).astype(float)


def sets(folder: Path | None) -> dict[str, np.ndarray]:
    """Response matrices by name."""
    if folder is None:
        return {
            "mixed_400x486": simulated(1, 400, 486),
            "family_300x500": simulated(2, 300, 500, parents=6),
            "few_43x1319": simulated(3, 43, 1319),
        }
    found = {path.stem: np.load(path)["Y"].astype(float) for path in sorted(folder.glob("*.npz"))}
    if not found:
        sys.exit(f"{folder}: no NAME.npz file there; each holds an array Y [models, items]")
    return found


def answers(
    how: str,
    estimator: Estimator,
    bank: ItemBank,
    judged: np.ndarray,
    counts: Sequence[int],
    seed: int,
) -> Iterator[tuple[int, list[Estimate], float]]:
    """For each number of items: the judged models' estimates, and seconds per candidate."""
    if how == "adaptive":
        yield from tests(estimator, judged, counts)
        return
    for count in counts:
        items = select_items(how, bank, count, seed=seed)
        estimator.estimate(items, judged[0, items])
        start = time.perf_counter()
        found = [estimator.estimate(items, row[items]) for row in judged]
        yield count, found, (time.perf_counter() - start) / len(judged)


def tests(
    estimator: Estimator, judged: np.ndarray, counts: Sequence[int]
) -> Iterator[tuple[int, list[Estimate], float]]:
    """As `answers`, each model on items of its own. Picking them is not timed."""
    assert isinstance(estimator, Adaptive)
    asked = [np.zeros(0, dtype=np.intp)] * len(judged)
    for count in counts:
        found = []
        seconds = 0.0
        for number, row in enumerate(judged):
            items = asked[number]
            while len(items) < count:
                more = min(BATCH, count - len(items))
                items = np.concatenate([items, estimator.next_items(items, row[items], more)])
            asked[number] = items
            start = time.perf_counter()
            found.append(estimator.estimate(items, row[items]))
            seconds += time.perf_counter() - start
        yield count, found, seconds / len(judged)


def measure(
    matrix: np.ndarray,
    seeds: int,
    calibration: int | None,
    methods: Sequence[str],
    counts: Sequence[int],
) -> dict[str, Any]:
    """Figures by method."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    counts = [count for count in counts if count < matrix.shape[1]]
    for seed in range(seeds):
        order = np.random.default_rng(1000 + seed).permutation(len(matrix))
        cut = int(0.75 * len(matrix))
        bank = ItemBank.of(matrix[order[:cut][:calibration]])
        judged = matrix[order[cut:]]
        built: dict[str, tuple[Estimator, float]] = {}
        for method in methods:
            how, name = method.split("/")
            if len(bank.models) < ESTIMATORS[name].least:
                continue
            if name not in built:
                start = time.perf_counter()
                built[name] = build_estimator(name, bank), time.perf_counter() - start
            estimator, seconds = built[name]
            tallies[method].build.append(seconds)
            for count, found, each in answers(how, estimator, bank, judged, counts, seed):
                tallies[method].add(count, found, judged.mean(axis=1))
                tallies[method].seconds.append(each)
    return {method: tally.figures() for method, tally in tallies.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--calibration", help="numbers of calibration models, with commas")
    parser.add_argument("--items", default="10,30,60,100", help="numbers of items, with commas")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sets", help="names, with commas; all if not given")
    options = parser.parse_args()
    counts = [int(n) for n in options.items.split(",")]
    sizes = [int(n) for n in options.calibration.split(",")] if options.calibration else [None]
    table: dict[str, Any] = {}
    for name, matrix in sets(options.folder).items():
        if options.sets and name not in options.sets.split(","):
            continue
        for size in sizes:
            label = f"{name}, {size or 'all'} models"
            print(label, file=sys.stderr)
            methods = options.methods.split(",")
            table[label] = measure(matrix, options.seeds, size, methods, counts)
    print(json.dumps({"seeds": options.seeds, "table": table}))


if __name__ == "__main__":
    main()
