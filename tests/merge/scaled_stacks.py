"""Scaled stacks twice: as plain weights, and as stock models whose hidden states are multiplied."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evomerge.merge.folding import folds
from evomerge.merge.sources import Sources
from evomerge.merge.writer import write_model
from search_spaces.recipe import Recipe
from search_spaces.stacking import Hop, Pool
from tests.data_flow.families import FAMILIES, MIXTURES, VOCABULARY, Kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HEADS: dict[str, Any] = {"head_dim": 16}
_FALCON: dict[str, Any] = {"num_key_value_heads": None, "intermediate_size": None}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
MORE: dict[str, Kind] = {
    "ministral": Kind("MinistralConfig", {**_HEADS, "sliding_window": 6}),
    "ministral3": Kind("Ministral3Config", _HEADS),
    "seed_oss": Kind("SeedOssConfig", _HEADS),
    "arcee": Kind("ArceeConfig"),
    "helium": Kind("HeliumConfig", _HEADS),
    "glm": Kind("GlmConfig", _HEADS),
    "glm4": Kind("Glm4Config", _HEADS),
    "ernie4_5": Kind("Ernie4_5Config", {**_HEADS, "tie_word_embeddings": True}),
    "apertus": Kind("ApertusConfig"),
    "hunyuan": Kind("HunYuanDenseV1Config", _HEADS),
    "nemotron": Kind("NemotronConfig"),
    "exaone4": Kind("Exaone4Config", _HEADS, mixed=True),
    "falcon": Kind("FalconConfig", _FALCON),
    "falcon_new": Kind(
        "FalconConfig",
        {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True, "bias": True},
    ),
    "stablelm_parallel": Kind("StableLmConfig", {"use_parallel_residual": True}),
    "olmoe": Kind("OlmoeConfig", {**_EXPERTS, "num_experts": 4}),
    "granitemoe": Kind("GraniteMoeConfig", {**_EXPERTS, "num_local_experts": 4}),
    "olmo": Kind("OlmoConfig"),
}
"""The other architectures of `evomerge.merge.families`, and other ways to build them."""

ALL = FAMILIES | MIXTURES | MORE
EXPERTS = (*MIXTURES, "olmoe", "granitemoe")
"""Stored under other names than transformers runs them with."""


def recipe_of(path: Sequence[Hop], sources: Sources, dtype: str, *, scaled: bool = True) -> Recipe:
    """The recipe of a path, with or without its scales."""
    pool = Pool(sources.names, sources.layers, {}, dtype)
    return pool.stack(path if scaled else [Hop(hop.model, hop.layer) for hop in path])


def stock_model(
    recipe: Recipe, sources: Sources, folder: Path, dtype: torch.dtype
) -> "PreTrainedModel":
    """What plain transformers loads of the export, computing in `dtype`."""
    from transformers import AutoModelForCausalLM

    if not folder.exists():
        write_model(recipe, sources, folder)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    ).eval()


@contextmanager
def multiplied(model: "PreTrainedModel", path: Sequence[Hop]) -> Iterator[None]:
    """While this lasts, what flows into each layer is multiplied by its hop's scale."""
    layers = next(
        m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == len(path)
    )

    def hook(scale: float) -> Any:
        return lambda layer, given: (given[0] * scale, *given[1:])

    handles = [
        layer.register_forward_pre_hook(hook(hop.input_scale))
        for layer, hop in zip(layers, path, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def fold_in_place(model: "PreTrainedModel", recipe: Recipe, sources: Sources) -> None:
    """Fold a recipe's scales into a model of the same stack, in the model's own precision."""
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, fold in folds(recipe, sources).items():
            weights[name].mul_(fold.factor).add_(fold.shift)


@torch.no_grad()
def log_probabilities(model: "PreTrainedModel", rows: int = 3, tokens: int = 12) -> torch.Tensor:
    """Of every next token after random ones, float64, shape (rows, tokens, vocabulary)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (rows, tokens), generator=generator)
    return model(ids, use_cache=False).logits.double().log_softmax(-1)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest difference of log probabilities."""
    return (found - expected).abs().max().item()


def divergence(found: torch.Tensor, expected: torch.Tensor) -> float:
    """KL(expected || found) in nats per token, the mean over tokens."""
    return (expected.exp() * (expected - found)).sum(-1).mean().item()
