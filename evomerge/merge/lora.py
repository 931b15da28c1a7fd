"""LoRA adapters as sources (Hu et al. 2021): kept factored, added to their model when asked for.

A weight W becomes W + s B A with s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA
(Kalajdzievski 2023). What is computed is the adapter as it was trained. For a tied model whose
adapter touches only one of embedding and head, peft's `merge_and_unload` changes both; here, as in
the running adapter, the other keeps the model's weight, and the source has a head of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evomerge.merge.adapter_config import Scales, read_scales
from evomerge.merge.checkpoint import ADAPTER, Checkpoint, text_config
from evomerge.merge.files import Entry, open_file
from search_spaces.errors import InputError
from search_spaces.roles import role

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KINDS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_embedding_A": "down",
    "lora_embedding_B": "up",
    "base_layer.weight": "stored",
}
"""Ends of an adapter's names: A of shape [r, inputs], B of shape [outputs, r], W as it was."""

_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Change:
    """How an adapter changes one tensor, in names of its own tensors.

    Attributes:
        down: A, [r, inputs]; None where the tensor is replaced.
        up: B, [outputs, r].
        scale: s.
        transposed: the model stores the tensor as [inputs, outputs].
        stored: what takes the model's tensor's place before B A is added.
    """

    down: str | None = None
    up: str | None = None
    scale: float = 1.0
    transposed: bool = False
    stored: str | None = None


class AdaptedCheckpoint:
    """A model with a LoRA adapter on top. To `Sources` it is a checkpoint like any other.

    Args:
        model: what the adapter applies to.
        folder: the adapter's, as peft saves it.

    Raises:
        InputError: no adapter, pickled weights, another kind than plain LoRA, a tensor the model
            does not have, shapes that do not fit.
    """

    def __init__(self, model: Checkpoint, folder: Path) -> None:
        self._model = model
        self.name, self.folder = model.name, model.folder
        self.where = f"{model.where}, adapter {folder}"
        scales = read_scales(folder, self.where)
        check_adapter_files(folder, self.where)
        self._file, self._stored = open_file(folder / WEIGHTS, self.where)
        self._changes = self._read(scales)
        self._untied = self._untie(scales)
        self.entries: dict[str, Entry] = dict(model.entries)
        if self._untied:
            self.entries[_HEAD] = model.entries[self._untied]
        for name, change in self._changes.items():
            self._check(name, change)
            entry = self._stored[change.stored] if change.stored else self.entries[name]
            self.entries[name] = replace(entry, dtype="F32" if change.down else entry.dtype)
        self._adapter_files = (folder / WEIGHTS, folder / ADAPTER)
        self.files = (*model.files, folder / WEIGHTS)
        self.layers, self.dtype, self.embedding = model.layers, model.dtype, model.embedding

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's config.json, untied where the adapter unties it. Do not change it."""
        config = self._model.config
        if not self._untied:
            return config
        inner = config.get("text_config")
        nested = {"text_config": inner | {"tie_word_embeddings": False}} if inner else {}
        return config | nested | {"tie_word_embeddings": False}

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of the configuration that describes the language model."""
        return text_config(self.config)

    @property
    def head(self) -> str | None:
        """The source's own output matrix; None where it is the embedding."""
        return _HEAD if self._untied else self._model.head

    def files_of(self, name: str) -> tuple[Path, ...]:
        """The files a tensor's numbers come from."""
        own = self._model.files_of(self._name_in_model(name))
        return (*own, *self._adapter_files) if name in self._changes else own

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor: a view of the model's file, or float32 W + s B A, made anew each time."""
        change = self._changes.get(name)
        if change is not None and change.stored:
            stored = self._file.get_tensor(change.stored)
        else:
            stored = self._model.tensor(self._name_in_model(name))
        if change is None or change.down is None or change.up is None:
            return stored
        down, up = (self._file.get_tensor(part).float() for part in (change.down, change.up))
        left, right = (down.T, up.T) if change.transposed else (up, down)
        return stored.to(torch.float32, copy=True).addmm_(left, right, alpha=change.scale)

    def _name_in_model(self, name: str) -> str:
        return self._untied if self._untied and name == _HEAD else name

    def _read(self, scales: Scales) -> dict[str, Change]:
        """Tensor of the model -> its change."""
        parts: dict[str, dict[str, str]] = {}
        for key in self._stored:
            module, kind = _split(key)
            parts.setdefault(module, {})[kind] = key
        changes: dict[str, Change] = {}
        for module, found in parts.items():
            if scales.ties and self._is_tied_head(module):
                continue  # a copy of the embedding's, which the head follows
            name = self._name_of(module)
            if ("down" in found) != ("up" in found):
                raise self._error(
                    f"module {module}", "LoRA has an A and a B for every module it adapts"
                )
            change = Change(stored=found.get("stored"))
            if "down" in found:
                rank = self._stored[found["down"]].shape[0]
                embedding = found["down"].endswith("lora_embedding_A")
                change = Change(
                    found["down"],
                    found["up"],
                    scales.scale(module, rank, self.where),
                    scales.fan_in_fan_out or embedding,
                    found.get("stored"),
                )
            changes[name] = change
        return changes

    def _untie(self, scales: Scales) -> str | None:
        """The embedding, if the model is tied and the adapter leaves only one of the two alone."""
        embedding = self._model.embedding
        if self._model.head is not None or embedding is None or scales.ties:
            return None
        return embedding if {embedding, _HEAD} & set(self._changes) else None

    def _is_tied_head(self, module: str) -> bool:
        return self._model.head is None and role(f"{module}.weight").component == "lm_head"

    def _name_of(self, module: str) -> str:
        """The model's tensor for a module; checkpoints may leave out the first word of a path."""
        name = f"{module}.weight"
        for candidate in (name, name.partition(".")[2]):
            if candidate in self._model.entries:
                return candidate
        if self._is_tied_head(module) and name == _HEAD:
            return name
        raise self._error(f"module {module}", "the model has no such weight")

    def _check(self, name: str, change: Change) -> None:
        model = self.entries[name].shape
        found = self._stored[change.stored].shape if change.stored else model
        if change.down and change.up:
            down, up = self._stored[change.down].shape, self._stored[change.up].shape
            if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
                raise self._error(
                    f"A of shape {list(down)} and B of shape {list(up)} for {name}",
                    "LoRA's are [r, inputs] and [outputs, r]",
                )
            product = (up[0], down[1])
            found = product[::-1] if change.transposed else product
        if found != model or (change.stored and self._stored[change.stored].shape != model):
            raise self._error(
                f"{name} of shape {list(found)}",
                f"the model's is {list(model)}",
                "name the model it was trained on; if its vocabulary was enlarged for the training, "
                "merge the adapter with peft after resize_token_embeddings",
            )

    def _error(self, passed: str, rule: str, remedy: str | None = None) -> InputError:
        return InputError(
            passed, rule, self.where, remedy or "name the model that the adapter was trained on"
        )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (folder / ADAPTER).is_file()


def _split(key: str) -> tuple[str, str]:
    """Module and kind of an adapter's tensor; a module saved whole is `stored`."""
    path = key.removeprefix(_PREFIX)
    for end, kind in _KINDS.items():
        if path.endswith(f".{end}"):
            return path.removesuffix(f".{end}"), kind
    return path.removesuffix(".weight"), "stored"


def check_adapter_files(folder: Path, where: str) -> None:
    """Check that an adapter's weights are there, as safetensors.

    Raises:
        InputError: they are not.
    """
    if (folder / WEIGHTS).is_file():
        return
    pickled = (folder / "adapter_model.bin").is_file()
    raise InputError(
        "adapter_model.bin" if pickled else f"no {WEIGHTS}",
        "pickles can run code and are never opened" if pickled else "an adapter has weights",
        where,
        "on a machine you trust, load it with peft and save_pretrained(folder)"
        if pickled
        else "complete the download",
    )
