"""Configurations of two sources: what must be equal for their tensors to mean the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evomerge.merge.checkpoint import Checkpoint
from search_spaces.errors import InputError

_EQUAL = (
    "model_type",
    "architectures",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
"""Keys that change a tensor's meaning without (always) changing its shape."""

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


def check_configs(first: Checkpoint, other: Checkpoint) -> None:
    """Check that two sources are one architecture. A key that one of them leaves out may be any.

    Raises:
        InputError: names the key, both values and both sources.
    """
    values: dict[str, Callable[[Checkpoint], Any]] = {key: _getter(key) for key in _EQUAL}
    values |= {"activation": _activation, "partial_rotary_factor": _partial_rotary_factor}
    for key, value in values.items():
        mine, theirs = value(first), value(other)
        if mine is not None and theirs is not None and mine != theirs:
            raise _error(
                f"{key} {mine} and {theirs}", "sources have one architecture", first, other
            )
    if first.layers != other.layers:
        passed = f"{first.layers} and {other.layers} layers"
        raise _error(passed, "sources have equal depth", first, other)


def differences(first: Checkpoint, other: Checkpoint) -> list[str]:
    """What differs although it is often merged: rotary base and scaling, epsilons of the norms."""
    mine, theirs = _rope(first), _rope(other)
    found = {"rope_theta": (mine.pop("rope_theta"), theirs.pop("rope_theta"))}
    shared = {key for key in mine if key in theirs}
    if mine["rope_type"] != theirs["rope_type"] or any(mine[k] != theirs[k] for k in shared):
        found["rope_scaling"] = (mine, theirs)
    for key in _EPSILONS:
        pair = _getter(key)(first), _getter(key)(other)
        if None not in pair:
            found[key] = pair
    return [
        f"source '{other.name}' has {key} {b}, '{first.name}' {a}: "
        f"merged layers use that of '{first.name}'"
        for key, (a, b) in found.items()
        if a != b
    ]


def _getter(key: str) -> Callable[[Checkpoint], Any]:
    return lambda checkpoint: checkpoint.text_config.get(key, checkpoint.config.get(key))


def _activation(checkpoint: Checkpoint) -> Any:
    # Where Gemma says both, `hidden_activation` is the one that counts.
    config = checkpoint.text_config
    name = config.get("hidden_activation") or config.get("hidden_act")
    return _ACTIVATIONS.get(name, name) if isinstance(name, str) else None


def _rope_parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """`rope_parameters` (transformers 5) or `rope_scaling`; of the full-attention layers."""
    config = checkpoint.text_config
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = found.get("full_attention") if isinstance(found, Mapping) else None
    chosen = nested if isinstance(nested, Mapping) else found
    return dict(chosen) if isinstance(chosen, Mapping) else {}


def _partial_rotary_factor(checkpoint: Checkpoint) -> Any:
    config, inside = checkpoint.text_config, _rope_parameters(checkpoint)
    outside = config.get("partial_rotary_factor", config.get("rotary_pct"))
    return inside.get("partial_rotary_factor", outside)


def _rope(checkpoint: Checkpoint) -> dict[str, Any]:
    """Base and scaling of the rotary embedding in one spelling, whichever transformers wrote it."""
    config, inside = checkpoint.text_config, _rope_parameters(checkpoint)
    outside = config.get("rope_theta", config.get("rotary_emb_base"))
    theta = inside.pop("rope_theta", None) or outside or _THETA
    legacy = inside.pop("type", None)
    kind = inside.pop("rope_type", legacy) or "default"
    inside.pop("partial_rotary_factor", None)
    return {"rope_theta": theta, "rope_type": kind} | ({} if kind == "default" else inside)


def _error(passed: str, rule: str, first: Checkpoint, other: Checkpoint) -> InputError:
    pair = f"sources {first.name} and {other.name}"
    return InputError(passed, rule, pair, "merge fine-tunes of the same base model")
