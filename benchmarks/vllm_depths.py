"""What a candidate's depth costs in one vLLM that was built for the deepest.

    python -m benchmarks.vllm_depths [--scale 2] [--layers 6] [--repeats 10] [--json]

Two engines of twice the sources' layers, one after the other in this process: one leaves layers out
(`left_out`), one runs all and has zeros in those that a candidate lacks (`identities`; what compiled
code and CUDA graphs need, here without these). Ratios are of one engine: a load of another depth than
the one before to one of the same depth; scoring and generating at a depth to the deepest candidate's.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.dataflow import Zoo, depth_changes
from benchmarks.models import Shape, save_models
from evomerge.merge.locations import Location
from evomerge.merge.remote import remote_provider
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import open_sources
from fitness.engines.decoding import Decoding

if TYPE_CHECKING:
    from vllm import LLM

    from fitness.engines.vllm.engine import VllmEngine

_BATCH, _PROMPT, _NEW, _VOCABULARY = 8, 96, 16, 8192
"""Prompts; tokens of each, and of its answer."""


def measure(folders: Mapping[str, Path], repeats: int, *, identities: bool) -> dict[str, object]:
    """The figures of one engine.

    Args:
        folders: of the sources.
        repeats: of every measurement.
        identities: run all layers of the engine.
    """
    from fitness.engines.vllm.engine import VllmEngine

    places = {name: Location(folder) for name, folder in folders.items()}
    sources = open_sources(places)
    zoo = Zoo(sources, sources.names, sources.layers)
    engine = VllmEngine(
        model_folder(sources, 2 * zoo.layers),
        remote_provider(places, sources),
        several_depths=True,
        max_model_len=512,
        arguments={"enforce_eager": not identities, "compilation_config": {"mode": 0}},
    )
    depths = [zoo.layers // 2, zoo.layers, 2 * zoo.layers]
    try:
        loads, change = depth_changes(engine, zoo, depths, repeats)
        answers = _answers(engine, zoo, depths, repeats)
    finally:
        engine.close()
    return {"new_depth_to_same_depth": round(change, 3), "load_seconds": loads, **answers}


def _answers(
    engine: "VllmEngine", zoo: Zoo, depths: Sequence[int], repeats: int
) -> dict[str, dict[str, float]]:
    """Seconds to score and to generate, by depth, to those of the deepest; the depths in turn."""
    found: dict[str, dict[int, list[float]]] = {
        kind: {depth: [] for depth in depths} for kind in ("scoring", "generating")
    }
    for number in range(repeats + 1):
        for depth in depths:
            engine.load(zoo.path(depth, 2, number))  # which also empties the cache of prefixes
            for kind, work in (("scoring", _score), ("generating", _generate)):
                began = time.perf_counter()
                work(engine.llm, number)
                if number:
                    found[kind][depth].append(time.perf_counter() - began)
    return {
        f"{kind}_to_deepest": {
            str(depth): round(
                statistics.median(a / b for a, b in zip(spent, by[depths[-1]], strict=True)), 3
            )
            for depth, spent in by.items()
        }
        for kind, by in found.items()
    }


def _score(llm: "LLM", seed: int) -> None:
    from fitness.engines.vllm.sampling import Ask, score

    score(llm, [Ask(tokens, 3, (5,)) for tokens in _prompts(seed, 0)])


def _generate(llm: "LLM", seed: int) -> None:
    from fitness.engines.vllm.sampling import generate

    prompts = _prompts(seed, 1)
    generate(llm, prompts, [Decoding(new_tokens=_NEW)] * len(prompts), (), {})


def _prompts(seed: int, kind: int) -> list[tuple[int, ...]]:
    draw = random.Random(f"{seed} {kind}")
    return [tuple(draw.randrange(_VOCABULARY) for _ in range(_PROMPT)) for _ in range(_BATCH)]


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=2, help="divides Qwen2.5-0.5B's widths")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    options = parser.parse_args()
    shape = replace(Shape().divided(options.scale), layers=options.layers, vocabulary=_VOCABULARY)
    with tempfile.TemporaryDirectory() as name:
        folders = save_models(Path(name), shape, 1)
        found = {
            "left_out": measure(folders, options.repeats, identities=False),
            "identities": measure(folders, options.repeats, identities=True),
        }
    print(json.dumps({"benchmark": "vllm_depths", "layers": options.layers} | found))


if __name__ == "__main__":
    main()
