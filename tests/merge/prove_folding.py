"""How exactly input scales fold, architecture by architecture: the tables of docs/data_flow.md.

    python -m tests.merge.prove_folding ROOT [FAMILY ...]

Random stacks of two random models of each family, with repeats and scales of either sign between 0.5
and 2, against the model whose hidden states are multiplied in float64.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge.merge.families import family_of
from evomerge.merge.sources import Sources, open_sources
from search_spaces.stacking import Hop
from tests.data_flow.families import save_models
from tests.data_flow.running import random_path
from tests.merge.scaled_stacks import (
    ALL,
    EXPERTS,
    distance,
    divergence,
    fold_in_place,
    log_probabilities,
    multiplied,
    recipe_of,
    stock_model,
)

SEEDS = 3


def errors(path: list[Hop], sources: Sources, root: Path, exact: bool) -> dict[str, float]:
    """What folding costs on one path, by precision.

    Returns:
        `moved`: what the scales do to log probabilities (greatest difference); `float64`,
        `float32`: what is wrong with the folded model's; `bfloat16`, `hooked`: KL in nats per token
        of the folded model and of hooks in the unfolded one, both stored and run in bfloat16.
    """

    def made(dtype: str, computed: torch.dtype, *, scaled: bool) -> Any:
        recipe = recipe_of(path, sources, dtype, scaled=scaled)
        return stock_model(recipe, sources, root / f"{dtype}-{scaled}", computed)

    model = made("float32", torch.float64, scaled=False)
    plain = log_probabilities(model)
    with multiplied(model, path):
        expected = log_probabilities(model)
    found = {"moved": distance(plain, expected), "float64": float("nan")}
    if exact:
        fold_in_place(model, recipe_of(path, sources, "float32"), sources)
        found["float64"] = distance(log_probabilities(model), expected)
    folded = made("float32", torch.float32, scaled=True)
    found["float32"] = distance(log_probabilities(folded), expected)
    folded = made("bfloat16", torch.bfloat16, scaled=True)
    found["bfloat16"] = divergence(log_probabilities(folded), expected)
    model = made("bfloat16", torch.bfloat16, scaled=False)
    with multiplied(model, path):
        found["hooked"] = divergence(log_probabilities(model), expected)
    return found


def main(root: Path, names: list[str]) -> None:
    """Print one row of a table for each family."""
    torch.set_num_threads(1)
    print("| family | scales move | float64 | float32 | bfloat16 KL | hooks' KL |")
    print("|---|---|---|---|---|---|")
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        sources = open_sources(save_models(folder, ALL[name]))
        if family_of(sources.config("a")).unscaled:
            continue
        rows: list[dict[str, float]] = []
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            path = random_path(rng, int(rng.integers(3, 12)), scales=True)
            rows.append(errors(path, sources, folder / str(seed), name not in EXPERTS))
        worst = {key: max(row[key] for row in rows) for key in rows[0]}
        shown = " | ".join(f"{value:.1e}".replace("nan", "-") for value in worst.values())
        print(f"| {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(ALL))
