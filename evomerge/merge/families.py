"""The one table of architectures whose layers can be stacked in any order, and how each is built.

A layer reads the residual stream, works on what it read and adds to the stream. Which of its weights
do what decides how a factor on the stream becomes weights (`evomerge.merge.folding`). An
architecture is here because a test builds models of it, stacks them and compares. All others are
refused: a stack that an architecture does not allow gives no error, only a bad model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from search_spaces.errors import InputError
from search_spaces.roles import role


class Part(Enum):
    """What a tensor has to do with the residual stream."""

    WRITES = "its product is added to the stream"
    GAIN = "gain of a norm that reads the stream"
    READS = "reads the stream without a norm"
    INNER = "sees only what norms have made"
    START = "makes the stream that the first layer gets"
    FINAL_GAIN = "gain of the norm after the last layer"
    FINAL_BIAS = "bias of the norm after the last layer"
    HEAD = "output matrix, or its bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the layers of an architecture are tied to the residual stream.

    Tensors are named by their path inside a layer, with or without `.weight` and `.bias`; `*`
    stands for anything, `[qk]` for one of these letters.

    Attributes:
        name: `model_type` in config.json.
        writes: what they make is added to the stream.
        norms: norms that read the stream. Their biases see nothing of its size.
        reads: what reads the stream without a norm.
        inner: what sees only what norms have made.
        added: what norms add to their stored gains: 1 where g is stored and 1 + g applied.
        unscaled: why input scales cannot be folded; empty: they can.
    """

    name: str = ""
    writes: tuple[str, ...]
    norms: tuple[str, ...]
    reads: tuple[str, ...] = ()
    inner: tuple[str, ...]
    added: float = 0.0
    unscaled: str = ""

    def part(self, tensor: str) -> Part:
        """What `tensor`, a checkpoint's name for it, has to do with the stream.

        Raises:
            InputError: the architecture, as it is known here, has no such tensor.
        """
        found = _part(self, tensor)
        if found is None:
            raise InputError(
                f"tensor {tensor}",
                f"what it does to the residual stream is not known of '{self.name}'",
                "input scales",
                "leave the input scales out",
            )
        return found

    def offset(self, tensor: str) -> float:
        """What the model adds to the stored numbers of `tensor` before it multiplies by them."""
        norm = role(tensor).component == "norm" and tensor.endswith("weight")
        return self.added if norm else 0.0


_INNER = (
    "self_attn.[qkv]_proj",
    "self_attn.qkv_proj",
    "self_attn.[qk]_norm",
    "self_attn.[qk]_layernorm*",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.gate_up_proj",
)
_PRE_NORM = Family(
    writes=("self_attn.o_proj", "mlp.down_proj"),
    norms=("input_layernorm", "post_attention_layernorm"),
    inner=_INNER,
)
"""Llama's: h + attention(norm(h)), then h + mlp(norm(h)); or both of one h, of one or two norms."""

_SANDWICH = Family(
    writes=("post_attention_layernorm", "post_feedforward_layernorm"),
    norms=("input_layernorm", "pre_feedforward_layernorm"),
    inner=(*_INNER, "self_attn.o_proj", "mlp.down_proj"),
    added=1.0,
)
"""Gemma 2's: h + norm(attention(norm(h))). The norm after the branch decides what is added."""

_POST_NORM = Family(
    writes=("post_attention_layernorm", "post_feedforward_layernorm"),
    norms=(),
    reads=("self_attn.[qkv]_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight"),
    inner=(
        "self_attn.[qkvo]_proj.bias",
        "self_attn.[qk]_norm",
        "self_attn.o_proj",
        "mlp.down_proj",
    ),
)
"""OLMo 2's: h + norm(attention(h))."""

_MIXTURE = Family(
    writes=(
        *_PRE_NORM.writes,
        "mlp.experts*.down_proj",
        "mlp.shared_expert.down_proj",
        "block_sparse_moe.experts*.w2",
        "block_sparse_moe.output_linear",
        "block_sparse_moe.experts.down_proj",
    ),
    norms=_PRE_NORM.norms,
    inner=(
        *_INNER,
        "mlp.gate",
        "mlp.shared_expert_gate",
        "mlp.experts*.gate_proj",
        "mlp.experts*.up_proj",
        "mlp.experts.gate_up_proj",
        "mlp.shared_expert.gate_proj",
        "mlp.shared_expert.up_proj",
        "block_sparse_moe.gate",
        "block_sparse_moe.router*",
        "block_sparse_moe.experts*.w[13]",
        "block_sparse_moe.input_linear",
        "block_sparse_moe.experts.gate_up_proj",
    ),
)
"""Llama's with experts. The router sees what the norm has made, so it chooses as before."""

_NEOX = Family(
    writes=("attention.dense", "mlp.dense_4h_to_h"),
    norms=_PRE_NORM.norms,
    inner=(
        "attention.query_key_value",
        "attention.bias",
        "attention.masked_bias",
        "mlp.dense_h_to_4h",
    ),
)
_FALCON = Family(
    writes=("self_attention.dense", "mlp.dense_4h_to_h"),
    norms=(*_PRE_NORM.norms, "ln_attn", "ln_mlp"),
    inner=("self_attention.query_key_value", "mlp.dense_h_to_4h"),
)


def _like(family: Family, *names: str, **changes: Any) -> dict[str, Family]:
    return {name: replace(family, name=name, **changes) for name in names}


FAMILIES: Mapping[str, Family] = {
    **_like(_PRE_NORM, "llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "phi3"),
    **_like(_PRE_NORM, "granite", "smollm3", "seed_oss", "arcee", "helium", "glm", "ernie4_5"),
    **_like(_PRE_NORM, "stablelm", "cohere", "cohere2"),
    **_like(_PRE_NORM, "gemma", "nemotron", added=1.0),
    **_like(_SANDWICH, "gemma2", "gemma3_text"),
    **_like(
        _SANDWICH,
        "glm4",
        writes=("post_self_attn_layernorm", "post_mlp_layernorm"),
        norms=_PRE_NORM.norms,
        added=0.0,
    ),
    **_like(_POST_NORM, "olmo2", "olmo3", "exaone4"),
    **_like(_MIXTURE, "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"),
    **_like(
        _PRE_NORM,
        "phi",
        writes=("self_attn.dense", "mlp.fc2"),
        inner=(*_INNER, "mlp.fc1"),
    ),
    **_like(
        _PRE_NORM,
        "starcoder2",
        writes=("self_attn.o_proj", "mlp.c_proj"),
        inner=(*_INNER, "mlp.c_fc"),
    ),
    **_like(
        _PRE_NORM,
        "apertus",
        norms=("attention_layernorm", "feedforward_layernorm"),
        inner=(*_INNER, "mlp.act_fn.*"),
    ),
    **_like(
        _PRE_NORM,
        "hunyuan_v1_dense",
        inner=(*_INNER, "self_attn.query_layernorm", "self_attn.key_layernorm"),
    ),
    **_like(_NEOX, "gpt_neox"),
    **_like(_FALCON, "falcon"),
    **_like(
        _PRE_NORM, "olmo", unscaled="its norms have no gains, which would hold the scales' sign"
    ),
}
"""By `model_type`, what stacks are made of."""

REFUSED: Mapping[str, tuple[str, ...]] = {
    "it has several residual streams, and inputs of its own for every layer": ("gemma3n*",),
    "its layers have inputs and factors of their own, and share keys with others": ("gemma4*",),
    "a norm follows every addition (post-LN), so that no stream runs through its layers": (
        *("openai-gpt", "bert", "roberta", "xlm-roberta", "electra"),
    ),
    "its positions are learned, and stacks are proven with rotary ones": (
        *("gpt2", "gpt_bigcode", "gpt_neo", "opt", "biogpt", "xglm"),
    ),
    "it has an encoder: it is no single stack of layers": ("*t5*", "*bart*", "pegasus*", "whisper"),
    "some of its layers carry a state along the text, which is not proven in a stack": (
        *("*mamba*", "jamba", "zamba*", "rwkv*", "recurrent_gemma", "nemotron_h*", "minimax"),
        *("granitemoehybrid", "falcon_h1", "lfm2*", "qwen3_next", "qwen3_5*", "olmo_hybrid"),
    ),
    "a layer's place decides whether it has experts, and a stack moves layers": (
        *("deepseek_v2", "deepseek_v3", "glm4_moe*", "ernie4_5_moe", "llama4*"),
    ),
}
"""Why architectures that are asked for cannot be had: reason -> patterns of `model_type`."""

_OUTSIDE = {
    "embed_tokens": Part.START,
    "embed_in": Part.START,
    "word_embeddings": Part.START,
    "lm_head": Part.HEAD,
    "embed_out": Part.HEAD,
    "norm": Part.FINAL_GAIN,
    "final_layernorm": Part.FINAL_GAIN,
    "final_layer_norm": Part.FINAL_GAIN,
    "ln_f": Part.FINAL_GAIN,
}
"""Modules outside the layers, by the last word of their path."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The architecture of a model's config.json.

    Raises:
        InputError: stacks do not work there, or nobody has shown that they do. It names the
            `model_type`, the reason and what can be stacked.
    """
    kind = str(config.get("model_type", ""))
    nested = isinstance(config.get("text_config"), Mapping)
    if kind in FAMILIES and not nested:
        return FAMILIES[kind]
    reasons = [why for why, names in REFUSED.items() if any(fnmatchcase(kind, n) for n in names)]
    if nested and not reasons:
        raise _refused(
            f"model_type '{kind}' with a text_config",
            "its other towers have numbered layers too, which a stack would move along",
            "save its language model by itself and stack that",
        )
    raise _refused(
        f"model_type '{kind}'",
        reasons[0] if reasons else "nobody has shown that its layers work in another order",
        f"stack models of {', '.join(sorted(FAMILIES))}; or merge without moving layers",
    )


def _refused(passed: str, rule: str, remedy: str) -> InputError:
    return InputError(passed, rule, "architecture (config.json)", remedy)


@lru_cache(maxsize=65536)
def _part(family: Family, tensor: str) -> Part | None:
    module, _, kind = tensor.rpartition(".")
    if kind not in ("weight", "bias"):
        module = tensor
    layer = role(tensor).layer
    if layer is None:
        part = _OUTSIDE.get(module.rpartition(".")[2])
        return Part.FINAL_BIAS if part is Part.FINAL_GAIN and kind == "bias" else part
    paths = [whole.partition(f".{layer}.")[2] for whole in (tensor, module)]
    for part, patterns in (
        (Part.WRITES, family.writes),
        (Part.READS, family.reads),
        (Part.INNER, family.inner),
        (Part.GAIN, family.norms),
    ):
        if any(fnmatchcase(path, pattern) for path in paths for pattern in patterns):
            return Part.INNER if part is Part.GAIN and kind == "bias" else part
    return None
