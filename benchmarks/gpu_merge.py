"""The GPU kernel at the size of Llama-3.1-8B: milliseconds a candidate, share of copy bandwidth.

    python -m benchmarks.gpu_merge [--layers 32] [--experts 3] [--repeats 20] [--json]

Base, experts and result are resident, in bfloat16 (80 GB with 32 layers and 3 experts). A candidate
is timed as a search sees it: from its passes, already planned, to the verdict on every tensor,
tables, upload and launches included. Thresholds and weights change from candidate to candidate.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from evomerge.merge.elements import ElementPass, InputPass, Region
from evomerge.merge.kernels import reference
from evomerge.merge.random_masks import mask_key

_HIDDEN, _INTERMEDIATE, _KEY_VALUE, _VOCABULARY = 4096, 14336, 1024, 128_256
_LAYERS = 32
_SPREAD, _CHANGE = 0.02, 0.001
"""Standard deviation of the base's weights and of an expert's difference from it."""

_TRIMMED = InputPass(low=1.28 * _CHANGE)  # a fifth of a Gaussian is farther out
_BANDED = InputPass(low=0.13 * _CHANGE, high=2.3 * _CHANGE)
_MASKED = InputPass(key=(0, 0), limit=2**23, elect=2.0)
PRESETS: dict[str, tuple[ElementPass, InputPass]] = {
    "linear": (ElementPass("none", (), "none", "divided"), InputPass()),
    "task_arithmetic": (ElementPass("base", ()), InputPass()),
    "ties": (ElementPass("base", (), "sum", "mean"), _TRIMMED),
    "dare_linear": (ElementPass("base", ()), _MASKED),
    "dare_ties": (ElementPass("base", (), "sum", "mean"), _MASKED),
    "breadcrumbs": (ElementPass("base", ()), _BANDED),
    "breadcrumbs_ties": (ElementPass("base", (), "sum", "mean"), _BANDED),
    "consensus": (ElementPass("base", (), "support", "sum"), InputPass()),
    "magmax": (ElementPass("base", (), "none", "largest"), InputPass()),
    "mean_reference": (ElementPass("mean", (), "none", "sum"), InputPass()),
    "clipped": (ElementPass("base", ()), InputPass(clip=_CHANGE)),
}
"""Element-wise presets as passes: the stages, and what every input goes through."""

Models = list[list[torch.Tensor]]
"""Per tensor of a model: base, experts, result; each flat."""


def measure(layers: int, experts: int, repeats: int, device: str = "cuda") -> dict[str, Any]:
    """All presets, and what they are measured against."""
    from evomerge.merge.kernels import gpu

    models = _models(list(_sizes(layers)), experts, device)
    parameters = sum(len(tensors[0]) for tensors in models)
    copying = _milliseconds(lambda: _copy(models), repeats)
    bandwidth = 2 * models[0][0].element_size() * parameters / copying  # bytes per ms
    result: dict[str, Any] = {
        "parameters": parameters,
        "copy_gb_per_s": round(bandwidth / 1e6, 1),
        "of_copy_bandwidth": {},
        "ms_per_candidate": {},
        "equal_to_reference": {},
    }
    for name in PRESETS:
        candidates = [_jobs(name, models, seed) for seed in range(repeats)]
        remaining = iter([candidates[0], candidates[0], *candidates])  # the first two warm up

        def merge(remaining: Iterator[list[Any]] = remaining) -> None:
            assert not gpu.run_many([gpu.Job(*job) for job in next(remaining)]).any().item()

        milliseconds = _milliseconds(merge, repeats, warm_up=2)
        tensors = 1 + experts + (PRESETS[name][0].reference == "base")
        least = tensors * models[0][0].element_size() * parameters / bandwidth
        result["ms_per_candidate"][name] = round(milliseconds, 2)
        result["of_copy_bandwidth"][name] = round(least / milliseconds, 3)
        result["equal_to_reference"][name] = _equals_reference(candidates[-1])
    return result


def _sizes(layers: int) -> Iterator[int]:
    """Elements of each tensor of Llama-3.1-8B, in the order of the checkpoint."""
    yield _VOCABULARY * _HIDDEN
    for _ in range(layers):
        yield from (_HIDDEN * _HIDDEN, _KEY_VALUE * _HIDDEN, _KEY_VALUE * _HIDDEN)
        yield from (_HIDDEN * _HIDDEN, *[_INTERMEDIATE * _HIDDEN] * 3, _HIDDEN, _HIDDEN)
    yield _HIDDEN
    yield _VOCABULARY * _HIDDEN


def _models(sizes: Sequence[int], experts: int, device: str) -> Models:
    torch.manual_seed(0)
    models = []
    for size in sizes:
        base = torch.empty(size, dtype=torch.bfloat16, device=device).normal_(0, _SPREAD)
        tensors = [base]
        for _ in range(experts):
            tensors.append(torch.empty_like(base).normal_(0, _CHANGE).add_(base))
        models.append([*tensors, torch.full_like(base, torch.nan)])
    return models


def _jobs(preset: str, models: Models, seed: int) -> list[tuple[Any, ...]]:
    """The arguments of one candidate's jobs; each tensor has numbers of its own."""
    skeleton, source = PRESETS[preset]
    jobs = []
    for number, (base, *experts, out) in enumerate(models):
        near = 1 + ((seed * 31 + number * 7) % 13 - 6) / 100  # within 6 %
        inputs = tuple(
            replace(
                source,
                low=source.low * near if source.low > 0 else source.low,
                key=source.key and mask_key(seed, i, str(number)),
                elect=source.elect * near * (0.5 + 0.1 * i),
                weight=near * (0.5 + 0.1 * i),
            )
            for i in range(len(experts))
        )
        work = replace(skeleton, inputs=inputs, divisor=len(experts) * near)
        jobs.append((work, base, experts, out, Region.whole(len(base))))
    return jobs


def _equals_reference(jobs: Sequence[tuple[Any, ...]]) -> bool:
    """The last candidate's first layer and norms, byte for byte."""
    for work, base, experts, out, region in jobs[1:10]:
        expected = torch.empty_like(out)
        reference.run(work, base, experts, expected, region)
        if not torch.equal(out.view(torch.int16), expected.view(torch.int16)):
            return False
    return True


def _copy(models: Models) -> None:
    for base, *_, out in models:
        out.copy_(base)


def _milliseconds(action: Callable[[], None], repeats: int, warm_up: int = 2) -> float:
    """Median wall clock, the device's work included."""
    times = []
    for _ in range(warm_up + repeats):
        _wait()
        began = time.perf_counter()
        action()
        _wait()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[warm_up:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=_LAYERS)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    arguments = parser.parse_args()
    line: dict[str, Any] = {"benchmark": "gpu_merge"}
    if torch.cuda.is_available():
        line["device"] = torch.cuda.get_device_name()
        line |= measure(arguments.layers, arguments.experts, arguments.repeats)
    else:
        line["skipped"] = "no GPU"
    print(json.dumps(line))


if __name__ == "__main__":
    main()
