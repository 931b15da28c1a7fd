"""What a stack costs: by depth, by a change of depth, by the number of sources, by merging its slots.

    python -m benchmarks.dataflow [--scale 4] [--layers 8] [--repeats 15] [--json]

One engine is built for the deepest candidate; every figure is of the same engine in the same process,
the cases taken in turn. Ratios: a candidate of another depth than the one before, to one of the same
depth; bytes written per second of a stack that is copied, to a plain copy of as many bytes.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.models import Shape, save_models
from evomerge.merge.search_weights import search_weights
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import Sources, open_sources
from fitness.engine import Engine
from search_spaces.parameter import ParameterSpace
from search_spaces.recipe import Recipe
from search_spaces.stacking import Hop, Pool

_SEED = 7


@dataclass(frozen=True)
class Zoo:
    """Opened sources and what is made of them.

    Attributes:
        sources: opened.
        names: of the sources.
        layers: of each.
    """

    sources: Sources
    names: tuple[str, ...]
    layers: int

    def path(self, depth: int, models: int, seed: int, scale: float = 1.0) -> Recipe:
        """A stack of `depth` random layers of the first `models` sources."""
        draw = random.Random(seed)
        hops = [
            Hop(draw.choice(self.names[:models]), draw.randrange(self.layers), scale)
            for _ in range(depth)
        ]
        return Pool(self.names, self.layers, {}).stack(hops)

    def merged(self, depth: int, models: int, seed: int) -> Recipe:
        """A stack each of whose layers is a merge of the base and `models` - 1 experts."""
        draw = random.Random(seed)
        space = ParameterSpace("task_arithmetic", "base", self.names[1:models], self.layers)
        whole = space.decode(tuple(0.3 + 0.1 * i for i in range(models - 1)))
        hops = [Hop("merged", draw.randrange(self.layers)) for _ in range(depth)]
        return Pool((), self.layers, {"merged": whole}).stack(hops)


def seconds(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each case, the cases taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 1):
        for name, work in cases.items():
            began = time.perf_counter()
            work()
            if turn:  # the first builds what later ones find
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in found.items()}


def depth_changes(
    engine: Engine, zoo: Zoo, depths: Sequence[int], repeats: int
) -> tuple[dict[str, float], float]:
    """Seconds of a load by depth where the depth stays, and the cost of a change of depth to that.

    New recipes in both cases: after one of the same depth, and after one of another.
    """
    same: list[float] = []
    changed: list[float] = []
    by_depth: dict[str, list[float]] = {str(depth): [] for depth in depths}
    for number in range(repeats + 1):
        recipes = {depth: zoo.path(depth, 2, number) for depth in depths}
        others = {depth: zoo.path(depth, 2, 1000 + number) for depth in depths}
        for depth in depths:
            engine.load(others[depth])
            spent = _timed(_load(engine, recipes[depth]))
            if number:
                same.append(spent)
                by_depth[str(depth)].append(spent)
        for place, depth in enumerate(depths):
            engine.load(others[depths[place - 1]])
            # Never loaded before, as above: a recipe comes cheaper the second time.
            spent = _timed(_load(engine, zoo.path(depth, 2, 2000 + number)))
            if number:
                changed.append(spent)
    typical = {name: round(statistics.median(v), 5) for name, v in by_depth.items()}
    ratios = [b / a for a, b in zip(same, changed, strict=True)]
    return typical, statistics.median(ratios)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(engine: Engine, zoo: Zoo, repeats: int) -> dict[str, object]:
    """All figures of one engine built for twice the sources' depth."""
    layers, most = zoo.layers, len(zoo.names)
    depths = [layers // 2, layers, layers * 3 // 2, layers * 2]
    by_depth, change = depth_changes(engine, zoo, depths, repeats)
    counts = [n for n in (1, 2, 4, 8) if n <= most]
    recipes = {f"copied from {n}": zoo.path(layers, n, _SEED) for n in counts}
    recipes |= {f"merged of {n}": zoo.merged(layers, n, _SEED) for n in counts if n > 1}
    recipes["scaled"] = zoo.path(layers, 2, _SEED, 0.9)
    cases: dict[str, Callable[[], object]] = {
        name: _load(engine, recipe) for name, recipe in recipes.items()
    }
    written = _bytes(zoo, layers)
    block, place = torch.ones(written, dtype=torch.uint8), torch.empty(written, dtype=torch.uint8)
    cases["plain copy"] = lambda: place.copy_(block)
    found = seconds(cases, repeats)
    return {
        "layers": layers,
        "slots": 2 * layers,
        "new_depth_to_same_depth": round(change, 3),
        "load_seconds_by_depth": by_depth,
        "load_seconds": {name: round(value, 5) for name, value in found.items()},
        "copied_from_most_to_one": round(
            found[f"copied from {counts[-1]}"] / found["copied from 1"], 3
        ),
        "stack_to_plain_copy": round(found["copied from 1"] / found["plain copy"], 2),
    }


def _load(engine: Engine, recipe: Recipe) -> Callable[[], None]:
    return lambda: engine.load(recipe)


def _bytes(zoo: Zoo, layers: int) -> int:
    """Bytes of a model of that many layers, in float32 as the engine holds it."""
    whole = zoo.sources.parameters()
    return 4 * whole * layers // zoo.layers


def transformers_engine(sources: Sources, slots: int) -> Engine:
    """The embedded engine, built for `slots` layers."""
    from fitness.engines.transformers import TransformersEngine

    weights, _ = search_weights(sources, torch.device("cpu"), None)
    return TransformersEngine(model_folder(sources, slots), weights, device="cpu")


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=4, help="divides Qwen2.5-0.5B's widths")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    options = parser.parse_args()
    shape = replace(Shape().divided(options.scale), layers=options.layers)
    with tempfile.TemporaryDirectory() as name:
        folders = save_models(Path(name), shape, options.sources - 1)
        sources = open_sources(folders)
        zoo = Zoo(sources, sources.names, sources.layers)
        engine = transformers_engine(sources, 2 * zoo.layers)
        found = measure(engine, zoo, options.repeats)
        engine.close()
    print(json.dumps({"benchmark": "dataflow", "engine": "transformers"} | found))


if __name__ == "__main__":
    main()
