"""Costs told by headers, against the exported model in plain transformers."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merge.model_costs import RecipeCosts
from evomerge.merge.sources import open_sources
from evomerge.merge.writer import write_model
from evomerge.search.baselines import average
from search_spaces.errors import InputError
from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.stacking import Hop, Pool
from tests.data_flow.families import KINDS, LAYERS, save_models

TOKENS = 4
"""Fewer than a sliding layer sees."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`folders(family)`: two models of it, written once."""
    return cache(lambda family: save_models(tmp_path_factory.mktemp(family), family))


def path_of(seed: str) -> list[Hop]:
    random = Random(seed)
    return [Hop(random.choice("ab"), random.randrange(LAYERS)) for _ in range(7)]


def kept(model: Any) -> Iterator[torch.Tensor]:
    """What a model keeps of `TOKENS` tokens."""
    with torch.no_grad():
        found = model(torch.arange(5, 5 + TOKENS).view(1, -1), use_cache=True)
    for layer in found.past_key_values.layers:
        yield layer.keys
        yield layer.values


@pytest.mark.parametrize("family", KINDS)
def test_costs_are_those_of_the_exported_model(folders: Any, family: str, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    sources = open_sources(folders(family))
    recipe = Pool(("a", "b"), LAYERS, {}).stack(path_of(family))
    found = RecipeCosts(sources, 4).of(recipe)
    write_model(recipe, sources, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert found["layers"] == model.config.num_hidden_layers == 7
    assert found["parameters"] == sum(weight.numel() for weight in model.parameters())
    bytes_kept = sum(tensor.numel() * tensor.itemsize for tensor in kept(model))
    assert found["kv_bytes"] == bytes_kept / TOKENS
    assert all(isinstance(value, float) for value in found.values())


def test_only_what_is_asked_for_and_by_the_itemsize(folders: Any):
    sources = open_sources(folders("llama"))
    recipe = average(["a"], None)
    assert RecipeCosts(sources, 0).of(recipe, ["layers"]) == {"layers": LAYERS}
    assert RecipeCosts(sources, 0).of(recipe, []) == {}
    two, four = (RecipeCosts(sources, n).of(recipe)["kv_bytes"] for n in (2, 4))
    # 2 heads of 16 numbers, keys and values.
    assert (two, four) == (LAYERS * 2 * 2 * 16 * 2, LAYERS * 2 * 2 * 16 * 4)


def test_a_merged_vocabulary_counts(folders: Any, tmp_path: Path):
    """Rows of the embedding follow from the recipe's tokenizer."""
    from transformers import AutoTokenizer

    places = save_models(tmp_path, "llama")
    tokenizer = AutoTokenizer.from_pretrained(places["b"])
    tokenizer.add_tokens(["new", "newer", "newest"])
    tokenizer.save_pretrained(places["b"])
    weights = load_file(places["b"] / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.ones(3, 64)])
    save_file(weights, places["b"] / "model.safetensors", metadata={"format": "pt"})
    sources = open_sources(places)
    alone = Recipe("linear", average(["a", "b"], None).slices, tokenizer="a")
    union = Recipe("linear", alone.slices, tokenizer="union")
    costs = RecipeCosts(sources, 2)
    rows = costs.of(union)["parameters"] - costs.of(alone)["parameters"]
    assert rows == 2 * 3 * 64


def test_layers_that_are_not_there(folders: Any):
    costs = RecipeCosts(open_sources(folders("llama")), 2)
    recipe = Recipe("passthrough", (Slice((Input("a", (3, 6)),)),))
    with pytest.raises(InputError, match=r"layer 5: the sources have layers 0 to 4"):
        costs.of(recipe, ["layers"])


def test_an_unknown_attention_has_no_kv_bytes(folders: Any, tmp_path: Path):
    places = save_models(tmp_path, "llama", ("a",))
    weights = load_file(places["a"] / "model.safetensors")
    renamed = {name.replace("k_proj", "kv_a_proj"): tensor for name, tensor in weights.items()}
    save_file(renamed, places["a"] / "model.safetensors", metadata={"format": "pt"})
    costs = RecipeCosts(open_sources(places), 2)
    recipe = average(["a"], None)
    assert costs.of(recipe, ["layers", "parameters"])["layers"] == LAYERS
    with pytest.raises(InputError, match="kv_bytes of model_type 'llama': what a layer keeps"):
        costs.of(recipe, ["kv_bytes"])
