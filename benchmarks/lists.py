"""Stacks found by operators on lists, by operators on coordinates, and by random edits.

Known are two models whole; to be found are stacks some edits away from them, by how far a candidate
is from them (insertions, deletions and changes of layers). All begin with the same points. One JSON
line: per stack and algorithm, the median number of candidates until it is found and how many searches
found it, of the seeds. `python -m benchmarks.lists [--seeds 10] [--budget 800]`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.search.algorithms import build_searcher
from evomerge.search.battery_lists import Item, ListGame
from evomerge.search.searcher import Problem


def layers(model: int, *numbers: int) -> list[Item]:
    """Layers of one model."""
    return [(model, number) for number in numbers]


TARGETS: dict[str, list[Item]] = {
    "a layer in front": layers(1, 0) + layers(0, *range(8)),
    "two layers in front": layers(1, 0, 1) + layers(0, *range(8)),
    "up-scaling": layers(0, *range(6)) + layers(0, *range(2, 8)),
    "layer swap": layers(0, 0, 1) + layers(1, 2, 3, 4, 5) + layers(0, 6, 7),
    "of everything": layers(0, 0, 1, 2) + layers(1, 2, 3) + layers(0, 3, 4, 4, 5, 7),
}
"""Stacks of two models of 8 layers."""

WAYS = (
    ("ga", True),
    ("nsga2", True),
    ("ga", False),
    ("cmaes", False),
    ("random", True),
)
"""Algorithm, and whether it is told that the variables form a list."""


def candidates_to(target: Sequence[Item], name: str, lists: bool, budget: int, seed: int) -> int:
    """How many candidates until `target` is found; `budget` + 1 if it is not."""
    game = ListGame([target], layers=8, least=6, most=14)
    options: dict[str, Any] = {
        **game.options(32, seed),
        "slots": game.bare.slots if lists else None,
    }
    if name == "random":
        options["initial"] = options["initial"][:0]
    problem = Problem(game.bare.variables, 1, steady=True, **options)
    searcher = build_searcher(name, problem)
    for number in range(budget):
        losses, met = game.score(searcher.ask(), number)
        if not losses[0]:
            return number + 1
        searcher.tell(number, losses, met)
    return budget + 1


def measure(seeds: int, budget: int) -> dict[str, Any]:
    """The table, by stack and way."""
    found: dict[str, Any] = {}
    for stack, target in TARGETS.items():
        for name, lists in WAYS:
            spent = [candidates_to(target, name, lists, budget, seed) for seed in range(seeds)]
            found.setdefault(stack, {})[f"{name}, {'list' if lists else 'coordinates'}"] = {
                "median": statistics.median(spent),
                "found": sum(count <= budget for count in spent),
            }
            print(stack, name, lists, spent, file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=800)
    options = parser.parse_args()
    began = time.process_time()
    found = measure(options.seeds, options.budget)
    seconds = round(time.process_time() - began, 1)
    line = {"benchmark": "lists", "seeds": options.seeds, "budget": options.budget}
    print(json.dumps({**line, "candidates": found, "seconds": seconds, "numpy": np.__version__}))


if __name__ == "__main__":
    main()
