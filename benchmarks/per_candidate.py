"""What one candidate's merge costs once its sources are open and prepared."""

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.models import Shape, save_models
from benchmarks.recipes import draw, moved_bytes

if TYPE_CHECKING:
    import torch

    from evomerge.merge.sources import Sources
    from evomerge.merge.weights import MergedWeights

FEW, MOST = 2, 9
"""Least and greatest number of timed candidates of a preset."""
GROWING = ("ties", "linear")


@dataclass(frozen=True)
class Pool:
    """Checkpoints to merge: folders by name, the base (called so) first."""

    folders: Mapping[str, Path]

    @property
    def experts(self) -> list[str]:
        """The experts' names."""
        return list(self.folders)[1:]

    def first(self, experts: int) -> "Pool":
        """The base and that many experts."""
        return Pool(dict(list(self.folders.items())[: experts + 1]))


@dataclass(frozen=True)
class Timing:
    """One preset's figures.

    Attributes:
        seconds: per candidate, the median of several.
        prepare_seconds: what the first candidate took beyond that (of a process's first preset,
            loading the kernels is a part).
        moved: bytes a candidate cannot avoid to read and write.
        parameters: of the model.
    """

    seconds: float
    prepare_seconds: float
    moved: int
    parameters: int


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def copy_bandwidth(size: int) -> float:
    """Bytes read plus bytes written per second by a `torch` copy of `size` bytes, best of seven."""
    import torch

    source = torch.ones(size // 2, dtype=torch.bfloat16)
    target = torch.zeros_like(source)
    times: list[float] = []
    for _ in range(7):
        began = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - began)
    return 2 * size / min(times)


def open_weights(sources: "Sources") -> "MergedWeights":
    """As a search opens them, with tables of the sources; none from earlier runs."""
    from evomerge.merge.prepared import Prepared
    from evomerge.merge.weights import MergedWeights

    return MergedWeights(sources, Prepared())


def make(weights: "MergedWeights", name: str, target: "torch.Tensor") -> None:
    """Put the candidate's tensor `name` where the resident model has it."""
    weights.write(name, target)


def time_candidates(preset: str, pool: Pool, seconds: float) -> Timing:
    """Time candidates of `preset`, each with other parameters, for about `seconds`."""
    import torch

    from evomerge.merge.sources import open_sources

    sources = open_sources(pool.folders)
    weights = open_weights(sources)
    weights.prepare(draw(preset, "base", pool.experts, 0))
    resident = {
        name: torch.zeros(weights.shape(name), dtype=weights.storage_dtype(name))
        for name in weights.names()
    }
    times: list[float] = []
    while len(times) <= FEW or (len(times) <= MOST and sum(times[1:]) < seconds):
        recipe = draw(preset, "base", pool.experts, len(times))
        began = time.perf_counter()
        weights.prepare(recipe)
        for name, target in resident.items():
            make(weights, name, target)
        times.append(time.perf_counter() - began)
    typical = statistics.median(times[1:])
    parameters = sources.parameters()
    moved = moved_bytes(draw(preset, "base", pool.experts, 0), parameters)
    return Timing(typical, max(0.0, times[0] - typical), moved, parameters)


def grow(scratch: Path, scale: int, most: int) -> dict[str, dict[str, dict[str, float]]]:
    """Nanoseconds per element and expert, of smaller models than the main figures'.

    Args:
        scratch: folder for the models.
        scale: divides their lengths once more.
        most: experts in the largest pool, at least 2.

    Returns:
        `experts`: preset -> number of experts -> ns; `parameters`: preset -> parameters -> ns.
    """
    small, larger = Shape().divided(4 * scale), Shape().divided(2 * scale)
    pool = Pool(save_models(scratch / "many", small, most))
    bigger = Pool(save_models(scratch / "larger", larger, 2))
    by_experts: dict[str, dict[str, float]] = {}
    by_size: dict[str, dict[str, float]] = {}
    for preset in GROWING:
        found = {n: _cost(preset, pool.first(n)) for n in (2, 4, 8, 16) if n <= most}
        by_experts[preset] = {str(n): cost for n, (_, cost) in found.items()}
        by_size[preset] = {str(n): cost for n, cost in (found[2], _cost(preset, bigger))}
    return {"experts": by_experts, "parameters": by_size}


def _cost(preset: str, pool: Pool) -> tuple[int, float]:
    """Parameters of a model, and nanoseconds per element and expert."""
    timing = time_candidates(preset, pool, 2.0)
    cost = timing.seconds / timing.parameters / len(pool.experts) * 1e9
    say(f"{preset}, {len(pool.experts)} experts of {timing.parameters}: {cost:.3f} ns each")
    return timing.parameters, round(cost, 4)
