"""The example stacks, decoded at their real size: headers of the real shapes, without the weights."""

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evomerge.merge.model_costs import RecipeCosts
from evomerge.merge.sources import Sources, open_sources
from evomerge.merge.weights import MergedWeights
from search_spaces.dialect import dump_recipe, load_recipe, parse_recipe
from search_spaces.recipe import Recipe
from search_spaces.roles import role

FOLDER = Path(__file__).parent.parent / "examples" / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))

MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
LLAMA_70B: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
PUBLISHED = {
    # File: (configuration of its sources, layers, parameters of the result).
    "solar-10.7b": (MISTRAL_7B, 48, 10_731_524_096),
    "goliath-120b": (LLAMA_70B, 137, 117_748_948_992),
    "sakana-style-10b": (MISTRAL_7B, 64, 14_221_316_096),
}


def meta_model(config: dict[str, Any]) -> Any:
    """What transformers makes of a configuration, without memory for the weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **options), dtype=torch.bfloat16
        )


def write_shapes(folder: Path, config: dict[str, Any]) -> None:
    """A model's folder whose weight files have the headers of real ones, and holes for their data.

    A file per layer: a machine may refuse to map at once what its memory cannot hold.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in meta_model(config).state_dict().items():
        shards.setdefault(f"layer-{role(name).layer}.safetensors", {})[name] = tensor
    for file, tensors in shards.items():
        write_header(folder / file, tensors)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_header(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.itemsize
        offsets = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
        header[name] = offsets
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


Opened = Callable[[Path], tuple[Recipe, Sources]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """`opened(file)`: its recipe and sources of real shapes."""

    def get(file: Path) -> tuple[Recipe, Sources]:
        recipe = load_recipe(file)
        folder = tmp_path_factory.mktemp(file.stem)
        places = {name: folder / name for name in recipe.sources}
        for place in places.values():
            write_shapes(place, PUBLISHED[file.stem][0])
        return recipe, open_sources(places)

    return get


def test_each_file_has_its_figures():
    assert {path.stem for path in FILES} == set(PUBLISHED)
    readme = (FOLDER / "README.md").read_text()
    assert all(f"`{path.name}` | {PUBLISHED[path.stem][1]} |" in readme for path in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_it_is_read_and_written_unchanged(file: Path):
    recipe = load_recipe(file)
    text = dump_recipe(recipe)
    assert parse_recipe(text, "again") == recipe
    assert yaml.safe_load(text) == yaml.safe_load(file.read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_it_decodes_to_a_model_of_the_published_size(file: Path, opened: Opened):
    recipe, sources = opened(file)
    _, layers, parameters = PUBLISHED[file.stem]
    weights = MergedWeights(sources)
    weights.prepare(recipe)
    found = {name: weights.shape(name) for name in weights.names()}
    assert sum(math.prod(shape) for shape in found.values()) == parameters
    assert RecipeCosts(sources, 2).of(recipe)["parameters"] == parameters
    config = weights.output_config()
    assert config["num_hidden_layers"] == recipe.depth(sources.layers) == layers
    # Plain transformers wants exactly these tensors, and the head is one of them: it is not tied.
    model = meta_model(config)
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == found
    assert "lm_head.weight" in found
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_the_sakana_style_stack_has_its_shape(opened: Opened):
    recipe, sources = opened(FOLDER / "sakana-style-10b.yaml")
    weights = MergedWeights(sources)
    weights.prepare(recipe)
    first, second = recipe.sources
    hops = [
        (part.inputs[0].source, layer)
        for part in recipe.slices
        for layer in range(*(part.inputs[0].layers or (0, 0)))
    ]
    assert len(hops) == 64
    assert hops[-1] == (first, 31)
    # Three passes: within one, the layers of the first model, then those of the second, in order.
    order = [layer + 32 * (source == second) for source, layer in hops]
    assert sum(b <= a for a, b in pairwise(order)) == 2
    distinct = set(hops)
    by_layer = Counter[int | None]()
    for name, shape in sources.shapes.items():
        by_layer[role(name).layer] += math.prod(shape)
    stored = by_layer[None] + sum(by_layer[layer] for _, layer in distinct)
    assert round(stored / 1e9) == 10
    assert all(0.5 < part.input_scale < 1.5 for part in recipe.slices)
    assert sum(part.input_scale != 1 for part in recipe.slices) == len(recipe.slices) - 1
