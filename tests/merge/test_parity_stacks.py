"""Parity with mergekit 0.1.5 on stacks: what we write, it merges to the same tensors; and the reverse.

The oracle is that of `test_parity.py`.
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from evomerge.merge.writer import write_model
from search_spaces.dialect import dump_recipe, parse_recipe
from search_spaces.recipe import Recipe
from search_spaces.stacking import Hop, Pool
from tests.merge.models import Family
from tests.merge.test_parity import ORACLE, pytestmark  # noqa: F401 (skips without mergekit)

LAYERS = 3
KINDS = ("llama", "llama_tied", "gemma")
"""mergekit keeps the layer types of others as they were, which transformers refuses."""

EXPANDED = """
merge_method: passthrough
dtype: float32
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources:
      - model: a
        layer_range: [1, 2]
        parameters:
          scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]
  - sources:
      - model: b
        layer_range: [0, 3]
        parameters: {scale: [{filter: o_proj, value: [0.5, -1.5]}, {filter: mlp, value: 0.7}]}
"""
"""Layers repeated without effect (LLaMA Pro, Wu et al. 2024), and others at other strengths."""


def path_of(seed: int, scale: float = 1.0) -> list[Hop]:
    """Nine layers in any order; the fifth scaled."""
    random = Random(seed)
    path = [Hop(random.choice("ab"), random.randrange(LAYERS)) for _ in range(9)]
    path[4] = Hop(path[4].model, path[4].layer, scale)
    return path


def stack(path: list[Hop]) -> Recipe:
    return Pool(("a", "b"), LAYERS, {}, "float32").stack(path)


RECIPES: Mapping[str, tuple[str, str]] = {
    **{f"path_{kind}": (kind, dump_recipe(stack(path_of(n)))) for n, kind in enumerate(KINDS)},
    "expanded": ("llama", EXPANDED),
    "expanded_again": ("llama", dump_recipe(parse_recipe(EXPANDED, "expanded"))),
    "scaled": ("llama", dump_recipe(stack(path_of(0, -0.7)))),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family: Callable[..., Family]) -> Path:
    """Each recipe, and what mergekit made of it in the folder of its name."""
    folder = tmp_path_factory.mktemp("stacks")
    for name, (kind, text) in RECIPES.items():
        paths = {key: str(path) for key, path in family(kind, experts=3).folders.items()}
        renamed = parse_recipe(text, name).renamed(paths)
        # As we write it; of the foreign text only the names change.
        written = dump_recipe(renamed) if text is not EXPANDED else _with_paths(text, paths)
        (folder / f"{name}.yaml").write_text(written)
    command = [str(ORACLE), str(Path(__file__).parent / "oracle.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _with_paths(text: str, paths: Mapping[str, str]) -> str:
    for name in "ab":
        text = text.replace(f"model: {name},", f"model: {paths[name]},")
        text = text.replace(f"model: {name}\n", f"model: {paths[name]}\n")
    return text


def ours(folder: Path, name: str, family: Callable[..., Family]) -> MergedWeights:
    folders = family(RECIPES[name][0], experts=3).folders
    weights = MergedWeights(open_sources({str(path): path for path in folders.values()}))
    weights.prepare(parse_recipe((folder / f"{name}.yaml").read_text(), name))
    return weights


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "scaled"])
def test_a_stack_is_mergekits(folder: Path, family: Callable[..., Family], name: str):
    weights = ours(folder, name, family)
    theirs = load_file(folder / name / "model.safetensors")
    # A tied head, which mergekit may write a second time.
    assert set(weights.names()) <= set(theirs) <= {*weights.names(), "lm_head.weight"}
    for tensor in weights.names():
        assert torch.equal(weights.tensor(tensor), theirs[tensor]), tensor
    config = json.loads((folder / name / "config.json").read_text())
    assert weights.output_config()["num_hidden_layers"] == config["num_hidden_layers"]


def test_it_is_the_same_read_and_written_again(folder: Path):
    first, again = (
        load_file(folder / n / "model.safetensors") for n in ("expanded", "expanded_again")
    )
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    zero = first["model.layers.2.self_attn.o_proj.weight"]
    assert not zero.any(), "the repeated layer has no effect"


def test_mergekit_passes_over_input_scales(folder: Path, family: Callable[..., Family]):
    """What our comment in the file says: mergekit merges the stack without its scales."""
    text = (folder / "scaled.yaml").read_text()
    assert text.startswith("# evomerge: mergekit passes over 'input_scale'")
    theirs = load_file(folder / "scaled" / "model.safetensors")
    unscaled = load_file(folder / "path_llama" / "model.safetensors")
    assert all(torch.equal(theirs[name], unscaled[name]) for name in unscaled)
    weights = ours(folder, "scaled", family)
    name = "model.layers.4.mlp.down_proj.weight"
    torch.testing.assert_close(weights.tensor(name), theirs[name] / -0.7)


@pytest.mark.parametrize("name", ["path_llama_tied", "expanded"])
def test_our_export_loads_as_mergekits_does(
    folder: Path, family: Callable[..., Family], name: str, tmp_path: Path
):
    from transformers import AutoModelForCausalLM

    folders = family(RECIPES[name][0], experts=3).folders
    recipe = parse_recipe((folder / f"{name}.yaml").read_text(), name)
    write_model(recipe, open_sources({str(p): p for p in folders.values()}), tmp_path / "out")
    models = [
        AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        for place in (tmp_path / "out", folder / name)
    ]
    tokens = torch.arange(12).view(1, -1)
    with torch.no_grad():
        mine, theirs = (model(tokens).logits for model in models)
    assert torch.equal(mine, theirs)
