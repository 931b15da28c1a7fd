"""Models of a family in an engine that was built once, and what plain transformers makes of exports."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from evomerge.merge.depths import LayerKinds
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from evomerge.merge.writer import write_model
from fitness.engines.transformers import TransformersEngine
from search_spaces.recipe import Input, Recipe, Setting, Slice, parameters
from search_spaces.stacking import Hop, Pool
from tests.data_flow.families import LAYERS, VOCABULARY, Kind, save_models

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEEPEST = 9
TOLERANCE = 1e-4
"""Between logits of the engine and of the export, both float32."""


class Running:
    """Sources `a` and `b` of one family, and an engine for candidates of up to `DEEPEST` layers.

    Args:
        root: an empty folder.
        family: see `families.save_models`.
        of_each_kind: see `model_folder`.
    """

    def __init__(self, root: Path, family: str | Kind, *, of_each_kind: bool = False) -> None:
        self.root = root
        self.folders = save_models(root, family)
        self.sources = open_sources(self.folders)
        self.kinds = LayerKinds(self.sources)
        self.weights = MergedWeights(self.sources)
        self.folder = model_folder(self.sources, DEEPEST, of_each_kind=of_each_kind)
        self.engine = TransformersEngine(self.folder, self.weights, device="cpu")
        self._exports: dict[str, PreTrainedModel] = {}

    @property
    def model(self) -> "PreTrainedModel":
        """The resident one."""
        return self.engine._model

    def stack(self, path: Sequence[Hop]) -> Recipe:
        """The recipe of a path over `a`, `b` and their average, `mean`."""
        mean = Recipe(
            "linear",
            (Slice((Input("a"), Input("b"))),),
            parameters=parameters({"weight": Setting.constant(0.5)}),
        )
        return Pool(("a", "b"), LAYERS, {"mean": mean}).stack(path)

    def load(self, path: Sequence[Hop]) -> Recipe:
        """Make the path's model the resident one."""
        recipe = self.stack(path)
        self.engine.load(recipe)
        return recipe

    def exported(self, recipe: Recipe) -> "PreTrainedModel":
        """What plain transformers loads of the export; every weight of it was in the files."""
        from transformers import AutoModelForCausalLM

        if recipe.hash in self._exports:
            return self._exports[recipe.hash]
        out = self.root / f"export{len(self._exports)}"
        write_model(recipe, self.sources, out)
        model, found = AutoModelForCausalLM.from_pretrained(
            out, dtype=torch.float32, output_loading_info=True
        )
        told = {key: sorted(found[key]) for key in ("missing_keys", "unexpected_keys")}
        assert told == {"missing_keys": [], "unexpected_keys": []}
        assert not found["mismatched_keys"]
        self._exports[recipe.hash] = model.eval()
        return model


def random_path(
    rng: np.random.Generator,
    depth: int,
    models: Sequence[str] = ("a", "b"),
    scales: bool = False,
) -> list[Hop]:
    """Layers in any order, with repeats; scales of either sign, log-uniform about 1."""
    return [
        Hop(
            str(rng.choice(models)),
            int(rng.integers(LAYERS)),
            float(rng.choice([-1, 1]) * np.exp(rng.uniform(-0.7, 0.7))) if scales else 1.0,
        )
        for _ in range(depth)
    ]


def straight(model: str) -> list[Hop]:
    """A model as it is."""
    return [Hop(model, layer) for layer in range(LAYERS)]


@torch.no_grad()
def logits(model: "PreTrainedModel", rows: int = 3, tokens: int = 20) -> torch.Tensor:
    """After random tokens (more than a sliding window), shape (rows, tokens, vocabulary)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (rows, tokens), generator=generator)
    return model(input_ids=ids, use_cache=False).logits
