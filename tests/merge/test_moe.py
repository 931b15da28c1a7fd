"""Mixtures of experts: merged index by index, whichever way a checkpoint stores its experts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from evomerge.merge.sources import open_sources
from evomerge.merge.writer import write_model
from search_spaces.errors import InputError
from search_spaces.roles import Role, role, with_layer
from tests.merge.models import Family
from tests.merge.plans import recipe_of
from tests.merge.test_sources import configure, edit, refused

_SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}


def config_of(kind: str, experts: int) -> Any:
    if kind == "mixtral":
        return MixtralConfig(**_SMALL, num_local_experts=experts)
    return Qwen3MoeConfig(**_SMALL, num_experts=experts, moe_intermediate_size=8, head_dim=4)


def save(root: Path, kind: str, tokenizer: Path, *, experts: int = 3) -> Family:
    folders: dict[str, Path] = {}
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_of(kind, experts))
        model.save_pretrained(root / name)
        shutil.copyfile(tokenizer / "tokenizer.json", root / name / "tokenizer.json")
        folders[name] = root / name
    return Family(folders)


@pytest.fixture
def mixture(tmp_path: Path, family: Callable[..., Family]) -> Callable[..., Family]:
    """`mixture(kind, experts)`: a base and two others, of this test's own."""
    tokenizer = family("llama").folders["base"]
    return lambda kind, experts=3: save(
        tmp_path / f"{kind}{experts}", kind, tokenizer, experts=experts
    )


def fuse(folder: Path) -> None:
    """Rewrite a Qwen3-MoE as checkpoints with one 3-D tensor for all experts of a layer have it."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(2):
            experts = f"model.layers.{layer}.mlp.experts"
            for part in ("gate_proj", "up_proj", "down_proj"):
                stack = [tensors.pop(f"{experts}.{i}.{part}.weight") for i in range(3)]
                tensors[f"{experts}.{part}"] = torch.stack(stack)

    edit(folder, change)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_experts_merge_index_by_index(tmp_path: Path, mixture: Callable[..., Family], kind: str):
    made = mixture(kind)
    sources = open_sources(made.folders)
    sources.check_compatible()
    assert sources.warnings() == []
    weights = {"a": {"weight": 0.25}, "b": {"weight": 0.75}}
    write_model(recipe_of("linear", weights), sources, tmp_path / "out")
    a, b = (load_file(made.folders[name] / "model.safetensors") for name in "ab")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(a)
    experts = [name for name in written if ".experts." in name]
    assert len(experts) == 2 * 3 * 3
    for name, tensor in written.items():
        torch.testing.assert_close(tensor, 0.25 * a[name] + 0.75 * b[name])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert bool(model(torch.arange(6).view(1, 6)).logits.isfinite().all())


def test_one_tensor_for_all_experts_merges_to_the_same_numbers(
    tmp_path: Path, mixture: Callable[..., Family]
):
    made = mixture("qwen3_moe")
    recipe = recipe_of("task_arithmetic", {"a": {"weight": 0.5}, "b": {"weight": 0.25}})
    write_model(recipe, open_sources(made.folders), tmp_path / "split")
    for folder in made.folders.values():
        fuse(folder)
    sources = open_sources(made.folders)
    sources.check_compatible()
    write_model(recipe, sources, tmp_path / "fused")
    fuse(tmp_path / "split")
    expected = load_file(tmp_path / "split" / "model.safetensors")
    found = load_file(tmp_path / "fused" / "model.safetensors")
    assert set(found) == set(expected)
    assert found["model.layers.1.mlp.experts.up_proj"].shape == (3, 8, 16)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.block_sparse_moe.experts.7.w1.weight",
        "model.layers.1.block_sparse_moe.gate.weight",
        "model.layers.1.mlp.experts.12.down_proj.weight",
        "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.1.mlp.shared_expert_gate.weight",
    ],
)
def test_roles(name: str):
    assert role(name) == Role(1, "mlp")
    assert with_layer(name, 5) == name.replace("layers.1.", "layers.5.")


def test_other_numbers_of_experts(mixture: Callable[..., Family]):
    folders = {
        "base": mixture("mixtral").folders["base"],
        "b": mixture("mixtral", 4).folders["b"],
    }
    with refused(r"sources base and b: 3 and 4 experts per layer: .*index by index"):
        open_sources(folders).check_compatible()


def test_two_ways_of_storing_experts(mixture: Callable[..., Family]):
    folders = mixture("qwen3_moe").folders
    fuse(folders["b"])
    with refused(
        r"tensor model\.layers\.\d\.mlp\.experts\.\d\.\w+\.weight: base has it, b does not, and has "
        r"model\.layers\.0\.mlp\.experts\.down_proj instead; .*save both with the same transformers"
    ):
        open_sources(folders).check_compatible()


def test_other_routing_is_merged_with_a_warning(mixture: Callable[..., Family]):
    folders = mixture("mixtral").folders
    configure(folders["b"], num_experts_per_tok=1)
    sources = open_sources(folders)
    sources.check_compatible()
    assert sources.warnings() == [
        "source 'b' has num_experts_per_tok 1, 'base' 2: merged layers use that of 'base'"
    ]


def test_dense_and_sparse(mixture: Callable[..., Family], family: Callable[..., Family]):
    folders = {"base": family("llama").folders["base"], "b": mixture("mixtral").folders["b"]}
    with pytest.raises(InputError, match="model_type llama and mixtral"):
        open_sources(folders).check_compatible()
    assert json.loads((folders["b"] / "config.json").read_text())["num_local_experts"] == 3
