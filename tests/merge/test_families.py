"""The table of architectures: whose tensors it knows, and what it refuses, with which reason."""

import json
from fnmatch import fnmatchcase

import pytest
from safetensors import safe_open

from evomerge.merge.families import FAMILIES, REFUSED, Part, family_of
from search_spaces.errors import InputError
from search_spaces.roles import role
from tests.data_flow.families import LAYERS, random_model
from tests.merge.scaled_stacks import ALL

ONE_NORM = {"cohere", "cohere2", "phi", "falcon", "stablelm"}
"""May have one norm for both branches."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, tuple[dict, list[str]]]:
    """By name of a kind of model: its config.json and the names of its tensors, as saved."""
    found = {}
    for name, kind in ALL.items():
        folder = tmp_path_factory.mktemp(name)
        random_model(kind).save_pretrained(folder)
        with safe_open(folder / "model.safetensors", "pt") as file:
            names = list(file.keys())
        found[name] = json.loads((folder / "config.json").read_text()), names
    return found


def test_every_architecture_of_the_table_is_built_by_a_test(stored):
    assert {family_of(config).name for config, _ in stored.values()} == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert family.name == name


def test_every_tensor_is_known_and_every_layer_is_tied_to_the_stream(stored):
    for kind, (config, names) in stored.items():
        family = family_of(config)
        parts = {name: family.part(name) for name in names}
        outside = [parts[name] for name in names if role(name).layer is None]
        assert outside.count(Part.START) == 1, kind
        assert outside.count(Part.FINAL_GAIN) == (not family.unscaled), kind
        for layer in range(LAYERS):
            inside = [parts[name] for name in names if role(name).layer == layer]
            weights = [p for n, p in parts.items() if role(n).layer == layer and "bias" not in n]
            assert inside.count(Part.WRITES) >= 2, kind
            assert Part.INNER in inside, kind
            if family.reads:
                assert (weights.count(Part.READS), Part.GAIN in inside) == (5, False), kind
            elif not family.unscaled:
                least = 1 if family.name in ONE_NORM else 2
                assert least <= weights.count(Part.GAIN) <= 2, kind


def test_only_norms_have_an_offset():
    gemma = FAMILIES["gemma2"]
    assert gemma.offset("model.layers.0.post_feedforward_layernorm.weight") == 1
    assert gemma.offset("model.norm.weight") == 1
    assert gemma.offset("model.layers.0.mlp.down_proj.weight") == 0
    assert FAMILIES["nemotron"].offset("model.layers.0.input_layernorm.weight") == 1
    assert FAMILIES["nemotron"].offset("model.layers.0.input_layernorm.bias") == 0
    assert FAMILIES["glm4"].offset("model.layers.0.post_mlp_layernorm.weight") == 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"model_type": "gemma3n_text"},
            "model_type 'gemma3n_text': it has several residual streams",
        ),
        (
            {"model_type": "gemma4", "text_config": {}},
            "model_type 'gemma4': its layers have inputs",
        ),
        ({"model_type": "bert"}, "a norm follows every addition"),
        ({"model_type": "gpt2"}, "its positions are learned"),
        ({"model_type": "falcon_mamba"}, "carry a state"),
        ({"model_type": "deepseek_v3"}, "a layer's place decides whether it has experts"),
        ({"model_type": "t5"}, "it has an encoder"),
        ({"model_type": "mine"}, "model_type 'mine': nobody has shown"),
        ({}, "model_type '': nobody has shown"),
    ],
)
def test_other_architectures_are_refused(config, reason):
    with pytest.raises(InputError) as caught:
        family_of(config)
    assert reason in str(caught.value)
    assert "stack models of apertus, arcee," in caught.value.remedy
    assert "llama, ministral," in caught.value.remedy


def test_models_of_pictures_are_refused():
    with pytest.raises(
        InputError, match="model_type 'gemma3' with a text_config: its other towers"
    ):
        family_of({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})
    with pytest.raises(InputError, match="save its language model by itself"):
        family_of({"model_type": "llama", "text_config": {}, "vision_config": {}})


def test_no_architecture_is_both_served_and_refused():
    patterns = [pattern for names in REFUSED.values() for pattern in names]
    assert not [n for n in FAMILIES if any(fnmatchcase(n, pattern) for pattern in patterns)]


@pytest.mark.parametrize(
    "tensor",
    [
        "model.layers.0.layer_scalar",
        "model.layers.0.self_attn.o_proj.lora_A.weight",
        "model.layers.11.per_layer_projection.weight",
        "model.embed_tokens_per_layer.weight",
        "model.wpe.weight",
    ],
)
def test_a_tensor_that_is_not_known_is_refused(tensor):
    with pytest.raises(InputError, match=f"tensor {tensor}: what it does .* not known of 'llama'"):
        FAMILIES["llama"].part(tensor)


def test_layers_are_found_at_any_depth_and_below_any_prefix():
    llama = FAMILIES["llama"]
    for name in ("layers.0.mlp.down_proj.weight", "model.model.layers.117.mlp.down_proj.weight"):
        assert llama.part(name) is Part.WRITES
    mixtral = FAMILIES["mixtral"]
    assert mixtral.part("model.layers.7.block_sparse_moe.experts.7.w2.weight") is Part.WRITES
    assert mixtral.part("model.layers.7.block_sparse_moe.experts.7.w1.weight") is Part.INNER
    assert mixtral.part("model.layers.7.mlp.experts.down_proj") is Part.WRITES
