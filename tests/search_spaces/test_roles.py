"""Tensor names of real checkpoints and what each weight is."""

import pytest

from search_spaces.roles import COMPONENTS, Role, role, with_layer

NAMES = [
    # Llama
    ("model.embed_tokens.weight", None, "embed"),
    ("model.layers.0.self_attn.q_proj.weight", 0, "attn"),
    ("model.layers.11.mlp.gate_proj.weight", 11, "mlp"),
    ("model.layers.3.input_layernorm.weight", 3, "norm"),
    ("model.layers.3.post_attention_layernorm.weight", 3, "norm"),
    ("model.norm.weight", None, "norm"),
    ("lm_head.weight", None, "lm_head"),
    # Qwen2, Qwen3: biases, norms inside attention
    ("model.layers.2.self_attn.k_proj.bias", 2, "attn"),
    ("model.layers.2.self_attn.q_norm.weight", 2, "norm"),
    # GPT-2
    ("transformer.wte.weight", None, "embed"),
    ("transformer.wpe.weight", None, "embed"),
    ("transformer.h.5.ln_1.bias", 5, "norm"),
    ("h.5.attn.c_attn.weight", 5, "attn"),
    ("transformer.h.5.mlp.c_fc.weight", 5, "mlp"),
    ("transformer.ln_f.weight", None, "norm"),
    # GPT-NeoX: the head is called embed_out
    ("gpt_neox.embed_in.weight", None, "embed"),
    ("embed_out.weight", None, "lm_head"),
    ("gpt_neox.layers.7.attention.query_key_value.weight", 7, "attn"),
    ("gpt_neox.layers.7.attention.dense.bias", 7, "attn"),
    ("gpt_neox.layers.7.mlp.dense_h_to_4h.weight", 7, "mlp"),
    ("gpt_neox.final_layer_norm.weight", None, "norm"),
    # Falcon: the norm of the attention branch
    ("transformer.word_embeddings.weight", None, "embed"),
    ("transformer.h.1.ln_attn.weight", 1, "norm"),
    ("transformer.h.1.ln_mlp.bias", 1, "norm"),
    ("transformer.h.1.self_attention.dense.weight", 1, "attn"),
    # Phi-3: fused projections
    ("model.layers.4.self_attn.qkv_proj.weight", 4, "attn"),
    ("model.layers.4.mlp.gate_up_proj.weight", 4, "mlp"),
    # Gemma 2: four norms a layer
    ("model.layers.0.pre_feedforward_layernorm.weight", 0, "norm"),
    ("model.layers.0.post_feedforward_layernorm.weight", 0, "norm"),
    # Mixtral: the second number is an expert, not a layer
    ("model.layers.9.block_sparse_moe.experts.7.w1.weight", 9, "mlp"),
    ("model.layers.9.block_sparse_moe.gate.weight", 9, "mlp"),
    # OLMo, in transformers' names and its own
    ("model.layers.1.self_attn.k_norm.weight", 1, "norm"),
    ("model.transformer.wte.weight", None, "embed"),
    ("model.transformer.blocks.6.att_proj.weight", 6, "attn"),
    ("model.transformer.blocks.6.attn_out.weight", 6, "attn"),
    ("model.transformer.blocks.6.attn_norm.weight", 6, "norm"),
    ("model.transformer.blocks.6.ff_out.weight", 6, "mlp"),
    ("model.transformer.ff_out.weight", None, "lm_head"),
    # InternLM 2, ChatGLM
    ("model.tok_embeddings.weight", None, "embed"),
    ("model.layers.8.attention_norm.weight", 8, "norm"),
    ("model.layers.8.feed_forward.w2.weight", 8, "mlp"),
    ("output.weight", None, "lm_head"),
    ("transformer.output_layer.weight", None, "lm_head"),
]


@pytest.mark.parametrize(("name", "layer", "component"), NAMES)
def test_role(name: str, layer: int | None, component: str) -> None:
    assert role(name) == Role(layer, component)


def test_every_component_is_tried() -> None:
    assert {component for _, _, component in NAMES} == set(COMPONENTS)


def test_with_layer_changes_the_layer_and_not_the_expert() -> None:
    name = "model.layers.9.block_sparse_moe.experts.7.w1.weight"
    assert with_layer(name, 0) == "model.layers.0.block_sparse_moe.experts.7.w1.weight"
    assert with_layer("lm_head.weight", 3) == "lm_head.weight"
