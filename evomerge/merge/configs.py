"""Configurations of two sources: what must be equal for their tensors to mean the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from evomerge.merge.checkpoint import Checkpoint, says_tied, text_config
from evomerge.merge.lora import AdaptedCheckpoint
from search_spaces.errors import InputError

_EQUAL = (
    "model_type",
    "architectures",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
"""Keys that change a tensor's meaning without (always) changing its shape."""

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Keys of the number of a mixture's experts."""

_ROUTING = ("num_experts_per_tok", "moe_topk", "norm_topk_prob", "routed_scaling_factor")

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")

AnyCheckpoint = Checkpoint | AdaptedCheckpoint

_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")

_ACTIVATIONS = {
    "swish": "silu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_accurate": "gelu",
    "gelu_pytorch_tanh": "gelu",
}
"""Other names and approximations of one function, as transformers spells them."""

_THETA = 10_000.0
"""What transformers takes where a configuration is silent."""


def check_configs(first: AnyCheckpoint, other: AnyCheckpoint) -> None:
    """Check that two sources are one architecture. A key that one of them leaves out may be any.

    Raises:
        InputError: names the key, both values and both sources.
    """
    values: dict[str, Callable[[AnyCheckpoint], Any]] = {key: _getter(key) for key in _EQUAL}
    values |= {"activation": _activation, "partial_rotary_factor": _partial_rotary_factor}
    for key, value in values.items():
        mine, theirs = value(first), value(other)
        if mine is not None and theirs is not None and mine != theirs:
            raise _error(
                f"{key} {mine} and {theirs}", "sources have one architecture", first, other
            )
    mine, theirs = experts_of(first.text_config), experts_of(other.text_config)
    if mine != theirs and mine is not None and theirs is not None:
        raise _error(
            f"{mine} and {theirs} experts per layer",
            "experts are merged index by index, so all sources have equally many",
            first,
            other,
        )
    if first.layers != other.layers:
        passed = f"{first.layers} and {other.layers} layers"
        raise _error(passed, "sources have equal depth", first, other)


def differences(first: AnyCheckpoint, other: AnyCheckpoint) -> list[str]:
    """What differs although it is often merged: rotary embedding, epsilons, a mixture's routing."""
    mine, theirs = _rope(first), _rope(other)
    found = {"rope_theta": (mine.pop("rope_theta"), theirs.pop("rope_theta"))}
    shared = {key for key in mine if key in theirs}
    if mine["rope_type"] != theirs["rope_type"] or any(mine[k] != theirs[k] for k in shared):
        found["rope_scaling"] = (mine, theirs)
    for key in (*_EPSILONS, *_ROUTING):
        pair = _getter(key)(first), _getter(key)(other)
        if None not in pair:
            found[key] = pair
    return [
        f"source '{other.name}' has {key} {b}, '{first.name}' {a}: "
        f"merged layers use that of '{first.name}'"
        for key, (a, b) in found.items()
        if a != b
    ]


def experts_of(config: Mapping[str, Any]) -> int | None:
    """How many experts each layer of a mixture has; None: it is no mixture."""
    return next((config[key] for key in _EXPERTS if isinstance(config.get(key), int)), None)


def result_config(
    checkpoint: AnyCheckpoint, *, rows: int | None, tokens: dict[str, Any] | None, tied: bool
) -> dict[str, Any]:
    """A source's config.json as the result needs it; the source's own where nothing changes.

    Args:
        checkpoint: the source.
        rows: rows of the result's embedding, if they are not the sources'.
        tokens: configuration that the ids of special tokens come from, if ids change.
        tied: whether the result's head is its embedding.
    """
    untie = not tied and checkpoint.head is None and says_tied(checkpoint.config) is not False
    if rows is None and not untie:
        return checkpoint.config
    config = copy.deepcopy(checkpoint.config)
    inner = text_config(config)
    if untie:
        inner["tie_word_embeddings"] = config["tie_word_embeddings"] = False
    if rows is not None:
        inner["vocab_size"] = rows
        if "vocab_size" in config:
            config["vocab_size"] = rows
    for key in _SPECIAL if tokens else ():
        for part, origin in ((config, tokens or {}), (inner, text_config(tokens or {}))):
            if key in part and key in origin:
                part[key] = origin[key]
    return config


def _getter(key: str) -> Callable[[AnyCheckpoint], Any]:
    return lambda checkpoint: checkpoint.text_config.get(key, checkpoint.config.get(key))


def _activation(checkpoint: AnyCheckpoint) -> Any:
    # Where Gemma says both, `hidden_activation` is the one that counts.
    config = checkpoint.text_config
    name = config.get("hidden_activation") or config.get("hidden_act")
    return _ACTIVATIONS.get(name, name) if isinstance(name, str) else None


def _rope_parameters(checkpoint: AnyCheckpoint) -> dict[str, Any]:
    """`rope_parameters` (transformers 5) or `rope_scaling`; of the full-attention layers."""
    config = checkpoint.text_config
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = found.get("full_attention") if isinstance(found, Mapping) else None
    chosen = nested if isinstance(nested, Mapping) else found
    return dict(chosen) if isinstance(chosen, Mapping) else {}


def _partial_rotary_factor(checkpoint: AnyCheckpoint) -> Any:
    config, inside = checkpoint.text_config, _rope_parameters(checkpoint)
    outside = config.get("partial_rotary_factor", config.get("rotary_pct"))
    return inside.get("partial_rotary_factor", outside)


def _rope(checkpoint: AnyCheckpoint) -> dict[str, Any]:
    """Base and scaling of the rotary embedding in one spelling, whichever transformers wrote it."""
    config, inside = checkpoint.text_config, _rope_parameters(checkpoint)
    outside = config.get("rope_theta", config.get("rotary_emb_base"))
    theta = inside.pop("rope_theta", None) or outside or _THETA
    legacy = inside.pop("type", None)
    kind = inside.pop("rope_type", legacy) or "default"
    inside.pop("partial_rotary_factor", None)
    return {"rope_theta": theta, "rope_type": kind} | ({} if kind == "default" else inside)


def _error(passed: str, rule: str, first: AnyCheckpoint, other: AnyCheckpoint) -> InputError:
    pair = f"sources {first.name} and {other.name}"
    return InputError(passed, rule, pair, "merge fine-tunes of the same base model")
