"""Building the one resident model, and the names under which its weights are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fitness.errors import FitnessError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNLIMITED = 1 << 40
"""Beyond this a tokenizer's `model_max_length` means "not set"."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One weight of the resident model.

    Attributes:
        checkpoint_name: what to ask the `WeightProvider` for.
        target: the model's own storage, written in place.
        layer: where it is in the stack, from 0; None outside.
    """

    checkpoint_name: str
    target: torch.Tensor
    layer: int | None = None


def pick_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU.

    Raises:
        FitnessError: a GPU where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise FitnessError(
            f"device = '{device}'",
            "this machine has no GPU that PyTorch can use",
            "engine",
            "use `auto` or `cpu`, or install PyTorch's CUDA build",
        )
    return torch.device(device)


def build_model(
    folder: Path, dtype: str, device: torch.device, trust_remote_code: bool
) -> PreTrainedModel:
    """The architecture of `folder` with uninitialised weights, in evaluation mode, on `device`.

    Reads `config.json` only: the first candidate brings the first weights.

    Raises:
        FitnessError: an unknown dtype, or a folder `transformers` cannot make a model of.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    if dtype not in DTYPES:
        raise FitnessError(
            f"dtype = '{dtype}'", "unknown", "engine", f"use one of: {', '.join(DTYPES)}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with no_init_weights(), device:
            model = AutoModelForCausalLM.from_config(
                config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise FitnessError(
            f"model folder {folder}",
            f"transformers cannot build a causal language model: {one_line(error)}",
            "engine",
            "give a folder with config.json of an architecture transformers knows",
        ) from error
    model.tie_weights()
    return model.requires_grad_(False).eval()


def build_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder`.

    Raises:
        FitnessError: the folder holds none that `transformers` can read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise FitnessError(
            f"model folder {folder}",
            f"transformers cannot read a tokenizer: {one_line(error)}",
            "engine",
            "put tokenizer.json and tokenizer_config.json of the base model there",
        ) from error


def end_tokens(folder: Path, config: PreTrainedConfig) -> set[int]:
    """End-of-text tokens named by `config.json` and `generation_config.json` (ids)."""
    named = [getattr(config, "eos_token_id", None)]
    extra = folder / "generation_config.json"
    if extra.is_file():
        named.append(json.loads(extra.read_text(encoding="utf-8")).get("eos_token_id"))
    flat = [token for entry in named for token in (entry if isinstance(entry, list) else [entry])]
    return {token for token in flat if isinstance(token, int)}


def longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens the model can attend to: from its config, else from its tokenizer."""
    text_config = config.get_text_config(decoder=True)
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(text_config, name, None)
        if value is not None:
            return int(value)
    return min(int(tokenizer.model_max_length), UNLIMITED)


def weight_slots(
    model: PreTrainedModel, folder: Path, layers: Mapping[int, int] | None = None
) -> list[Slot]:
    """Every weight of `model` once (tied weights are one), with its checkpoint name.

    Args:
        model: with all its layers in place.
        folder: its configuration, and perhaps weights.
        layers: by the `id` of each weight of the stack, its layer.

    Raises:
        FitnessError: `folder` holds safetensors in which a weight of the model cannot be found.
    """
    stored = stored_names(folder)
    saved = _saved_names(model)
    state = model.state_dict(keep_vars=True)
    tied: dict[int, list[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(id(tensor), []).append(name)
    slots: list[Slot] = []
    for names in tied.values():
        candidates = [*[saved[name] for name in names if name in saved], *names]
        found = [name for name in candidates if name in stored or not stored]
        if not found:
            raise FitnessError(
                f"weight '{names[0]}'",
                f"none of the checkpoint's {len(stored)} tensors has that name, so candidates "
                "could not be written into the running model",
                f"model of type '{model.config.model_type}'",
                "save the model with transformers' save_pretrained, or use another engine",
            )
        target = state[names[0]]
        slots.append(Slot(found[0], target, (layers or {}).get(id(target))))
    return slots


def stored_names(folder: Path) -> frozenset[str]:
    """Names of the tensors in the folder's safetensors; empty if there are none."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names.update(tensors.keys())
    return frozenset(names)


def _saved_names(model: PreTrainedModel) -> dict[str, str]:
    """Checkpoint name by model name, of the weights that `transformers` saves as they are.

    It renames some on saving (GPT-NeoX's `lm_head` is `embed_out` on disk), and splits or joins
    others (the experts of a mixture): those are left out.
    """
    from transformers.core_model_loading import revert_weight_conversion

    state = {n: torch.empty_like(t, device="meta") for n, t in model.state_dict().items()}
    name_of = {id(tensor): name for name, tensor in state.items()}
    saved = revert_weight_conversion(model, state)
    return {name_of[id(t)]: new for new, t in saved.items() if id(t) in name_of}
