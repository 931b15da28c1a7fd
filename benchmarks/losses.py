"""Which of 40 merges is best, by the score or by the loss on a few items: the truth of the pick.

    python -m benchmarks.losses [--merges 40] [--draws 200] [--json]

Merges of the quickstart's models with random weights answer all items of three tasks. Then a few items
are drawn, again and again, and the merge that is best on them is picked, ties by lot. What counts is
the pick's score on all items. Nothing is timed.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from fitness.engine import Box, Stack
from fitness.engines.transformers import TransformersEngine
from fitness.tasks import TaskSpec, compile_tasks

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
TASKS = ("lunari_words", "sums", "tovek_words")
EXPERTS = ("lunari", "tovek", "abacus")
COUNTS = (5, 10, 30, 100)


class Sums:
    """The base plus the experts' weighted deltas."""

    def __init__(self) -> None:
        self._models = {
            name: {k: v.float() for k, v in load_file(_folder(name) / "model.safetensors").items()}
            for name in ("base", *EXPERTS)
        }
        self._weights: Mapping[str, float] = {}

    def prepare(self, payload: Any) -> None:
        """Take the experts' weights."""
        self._weights = dict(payload)

    def stack(self) -> Stack:
        """As deep as the base."""
        return Stack(json.loads((_folder("base") / "config.json").read_text())["num_hidden_layers"])

    def tensor(self, name: str, box: Box = ()) -> torch.Tensor:
        """The merged tensor."""
        base = self._models["base"][name]
        deltas = (w * (self._models[n][name] - base) for n, w in self._weights.items())
        return sum(deltas, base)[box or ...]

    def write(self, name: str, out: torch.Tensor, box: Box = ()) -> None:
        """The same, in place."""
        out.copy_(self.tensor(name, box))


def _folder(name: str) -> Path:
    return QUICKSTART / "models" / name


def answers(merges: int, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By task, scores and losses [merges, items]."""
    engine = TransformersEngine(_folder("base"), Sums(), device="cpu")
    tasks = compile_tasks([TaskSpec(name, QUICKSTART / "tasks", loss=True) for name in TASKS])
    draw = np.random.default_rng(seed)
    found: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in TASKS}
    for _ in range(merges):
        engine.load(dict(zip(EXPERTS, draw.uniform(0, 1.2, len(EXPERTS)).tolist(), strict=True)))
        for name in TASKS:
            items = tasks.items(name)
            replies = iter(engine.answer([r for item in items for r in item.requests]))
            responses = tasks.score(items, [[next(replies) for _ in i.requests] for i in items])
            losses = [r.loss for r in responses if r.loss is not None]
            found[name].append(([r.score for r in responses], losses))
    return {
        name: (np.array([s for s, _ in rows]), np.array([x for _, x in rows]))
        for name, rows in found.items()
    }


def picks(scores: np.ndarray, losses: np.ndarray, count: int, draws: int) -> dict[str, float]:
    """Mean true score of the merge that is best on `count` items, by score and by loss."""
    draw = np.random.default_rng(count)
    truth = scores.mean(1)
    found: dict[str, list[float]] = {"score": [], "loss": []}
    for _ in range(draws):
        asked = draw.choice(scores.shape[1], count, replace=False)
        ties = 1e-9 * draw.random(len(truth))
        found["score"].append(truth[np.argmax(scores[:, asked].mean(1) + ties)])
        found["loss"].append(truth[np.argmin(losses[:, asked].mean(1) + ties)])
    return {how: float(np.mean(values)) for how, values in found.items()}


def main() -> None:
    """Print the table, or one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merges", type=int, default=40)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    line: dict[str, Any] = {"benchmark": "losses", "merges": options.merges, "tasks": {}}
    for name, (scores, losses) in answers(options.merges).items():
        by_count = {n: picks(scores, losses, n, options.draws) for n in COUNTS}
        line["tasks"][name] = {"best": float(scores.mean(1).max()), "picked": by_count}
    if options.json:
        print(json.dumps(line))
        return
    for name, found in line["tasks"].items():
        print(f"{name}: best {found['best']:.3f}")
        for count, by in found["picked"].items():
            print(f"  {count:4} items: by score {by['score']:.3f}, by loss {by['loss']:.3f}")


if __name__ == "__main__":
    main()
