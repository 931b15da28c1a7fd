"""`adapter_config.json` of a LoRA adapter: the scale of each module, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from evomerge.merge.checkpoint import ADAPTER
from evomerge.merge.files import read_json
from search_spaces.errors import InputError

_REFUSED = (
    "use_dora",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "megatron_config",
)
"""Options under which an adapter is more than W + s B A."""

_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the model's own weights alone; PiSSA, OLoRA, LoftQ, ... do not."""

_MERGE = (
    "merge it into its model with peft (model.merge_and_unload(), then save_pretrained) "
    "and name that folder"
)


@dataclass(frozen=True, slots=True)
class Scales:
    """What an adapter's configuration says about its numbers.

    Attributes:
        rank, alpha: the default r and lora_alpha.
        ranks, alphas: exceptions: a regular expression for the end of a module's path -> value.
        stabilised: s = alpha / sqrt(r) instead of alpha / r.
        fan_in_fan_out: the model stores its weights as [inputs, outputs].
        ties: head and embedding share one adapter (`ensure_weight_tying`).
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    stabilised: bool
    fan_in_fan_out: bool
    ties: bool

    def scale(self, module: str, rank: int, where: str) -> float:
        """s of `module`, whose A has `rank` rows.

        Raises:
            InputError: the configuration says another rank.
        """
        said = _of(self.ranks, module, self.rank)
        if said != rank:
            raise InputError(
                f"r = {said} in {ADAPTER}",
                f"the adapter's weights for {module} have rank {rank}",
                where,
                "save or download the adapter again: the two files do not belong together",
            )
        alpha = _of(self.alphas, module, self.alpha)
        return alpha / (sqrt(rank) if self.stabilised else rank)


def read_scales(folder: Path, where: str) -> Scales:
    """Read an adapter's configuration.

    Raises:
        InputError: none there, not plain LoRA (DoRA, IA3, ...), biases, or an initialisation that
            changed the model's weights.
    """
    if not (folder / ADAPTER).is_file():
        raise InputError(
            f"no {ADAPTER}", "a LoRA adapter is a folder saved by peft", where, "correct the path"
        )
    config = read_json(folder / ADAPTER, where)
    _check(config, where)
    try:
        return Scales(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            ranks={str(k): int(v) for k, v in (config.get("rank_pattern") or {}).items()},
            alphas={str(k): float(v) for k, v in (config.get("alpha_pattern") or {}).items()},
            stabilised=bool(config.get("use_rslora")),
            fan_in_fan_out=bool(config.get("fan_in_fan_out")),
            ties=bool(config.get("ensure_weight_tying")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"file {ADAPTER}", f"its ranks cannot be read ({error!r})", where, "save it again"
        ) from error


def base_of(folder: Path) -> str | None:
    """The model an adapter says it was trained on."""
    said = read_json(folder / ADAPTER, str(folder)).get("base_model_name_or_path")
    return said if isinstance(said, str) and said else None


def _check(config: dict[str, Any], where: str) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"peft_type {kind}", "only LoRA adapters are merged", where, _MERGE)
    if config.get("bias", "none") != "none":
        raise InputError(
            f"bias = {config['bias']!r}", "LoRA with trained biases is not supported", where, _MERGE
        )
    for key in _REFUSED:
        if config.get(key):
            raise InputError(
                f"{key} = {config[key]!r}", "this kind of LoRA is not supported", where, _MERGE
            )
    initial = config.get("init_lora_weights", True)
    if initial not in _INITIAL:
        raise InputError(
            f"init_lora_weights = {initial!r}",
            "it changes the model's own weights, which the adapter does not hold",
            where,
            "convert it to plain LoRA when saving it (peft: path_initial_model_for_weight_conversion)",
        )


def _of(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that is the end of a module's path, as peft matches them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
