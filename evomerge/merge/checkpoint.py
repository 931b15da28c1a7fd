"""One source: a local Hugging Face folder of safetensors, opened memory-mapped, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from evomerge.merge.files import FLOATS, Entry, open_file, read_json
from evomerge.merge.quantised import check_config, check_type
from search_spaces.errors import InputError
from search_spaces.roles import Role, role

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


class Checkpoint:
    """An opened source.

    Args:
        name: the source's name.
        folder: a local Hugging Face folder.

    Raises:
        InputError: the folder is missing, is an adapter, holds pickles only or quantised weights,
            or its files are incomplete or corrupted.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.where = f"source {name} ({folder})"
        _check_folder(folder, self.where)
        self.config: dict[str, Any] = read_json(folder / "config.json", self.where)
        check_config(self.config, self.where)
        self._files: dict[Path, safe_open] = {}
        self.entries: dict[str, Entry] = self._open()
        self._tensors: dict[str, torch.Tensor] = {}
        for tensor, entry in self.entries.items():
            check_type(tensor, entry.dtype, self.where)

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in order."""
        return tuple(self._files)

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of the configuration that describes the language model."""
        return text_config(self.config)

    @cached_property
    def layers(self) -> int:
        """Number of layers, by the configuration or, where it is silent, by the tensors' names."""
        key = layer_key(self.config)
        if key is not None:
            return int(self.text_config[key])
        return 1 + max((role(t).layer or 0) for t in self.entries)

    @cached_property
    def head(self) -> str | None:
        """The source's own output matrix; None where it is the embedding (or there is none)."""
        return None if says_tied(self.config) else find_head(self.entries)

    @cached_property
    def embedding(self) -> str | None:
        """The name of the input embedding; None if no tensor outside the stack looks like it."""
        tables = [
            name
            for name, entry in self.entries.items()
            if role(name) == Role(None, "embed") and len(entry.shape) == 2
        ]
        rows = self.text_config.get("vocab_size")
        fitting = [name for name in tables if self.entries[name].shape[0] == rows]
        return next(iter(fitting or tables), None)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The floating type that most of the parameters are stored in."""
        count: dict[str, int] = {}
        for entry in self.entries.values():
            if entry.floating:
                elements = torch.Size(entry.shape).numel()
                count[entry.dtype] = count.get(entry.dtype, 0) + elements
        return FLOATS[max(count, key=lambda d: count[d])] if count else torch.float32

    def files_of(self, name: str) -> tuple[Path, ...]:
        """The files a tensor's numbers come from."""
        return (self.entries[name].file,)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor in its storage dtype: a view of the mapped file. Do not write to it."""
        if name not in self._tensors:
            self._tensors[name] = self._files[self.entries[name].file].get_tensor(name)
        return self._tensors[name]

    def _open(self) -> dict[str, Entry]:
        if (self.folder / SINGLE).is_file():
            return self._read(self.folder / SINGLE)
        weight_map = _read_index(self.folder / INDEX, self.where)
        found: dict[str, Entry] = {}
        for shard in dict.fromkeys(weight_map.values()):
            if not (self.folder / shard).is_file():
                raise InputError(
                    f"{INDEX} names {shard}",
                    "every shard must be there",
                    self.where,
                    "download the model again",
                )
            found |= self._read(self.folder / shard)
        for tensor, shard in weight_map.items():
            if tensor not in found or found[tensor].file.name != shard:
                raise InputError(
                    f"{INDEX} says {tensor} is in {shard}",
                    "it is not there",
                    self.where,
                    "download the model again",
                )
        return {tensor: found[tensor] for tensor in weight_map}

    def _read(self, path: Path) -> dict[str, Entry]:
        self._files[path], entries = open_file(path, self.where)
        return entries


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a configuration: itself, or `text_config` where it is nested."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def says_tied(config: dict[str, Any]) -> bool | None:
    """Whether the head is the embedding, by the configuration; None: it does not say."""
    value = config.get("tie_word_embeddings", text_config(config).get("tie_word_embeddings"))
    return value if isinstance(value, bool) else None


def find_head(entries: Mapping[str, Entry]) -> str | None:
    """The output matrix among a checkpoint's tensors."""
    return next((name for name, entry in entries.items() if is_head(name, entry)), None)


def is_head(name: str, entry: Entry) -> bool:
    """Whether a tensor is an output matrix."""
    return role(name) == Role(None, "lm_head") and len(entry.shape) == 2


def layer_key(config: dict[str, Any]) -> str | None:
    """The key of the number of layers in `text_config(config)`."""
    return next((key for key in _LAYER_KEYS if key in text_config(config)), None)


def _check_folder(folder: Path, where: str) -> None:
    if not folder.is_dir():
        raise InputError(f"folder {folder}", "there is no such folder", where, "correct the path")
    if (folder / ADAPTER).is_file():
        raise InputError(
            ADAPTER,
            "a LoRA adapter is not a whole model",
            where,
            "name its model as well: {model: MODEL, lora: this folder}, or MODEL+FOLDER in a recipe",
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            "no config.json", "a source is a Hugging Face model folder", where, "name such a folder"
        )
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file():
        return
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise InputError(
            "weights as pickle files only",
            "pickles can run code and are never opened",
            where,
            "on a machine you trust, load it with transformers and "
            "save_pretrained(folder, safe_serialization=True)",
        )
    raise InputError(
        "no weights", f"a source holds {SINGLE} or {INDEX}", where, "complete the download"
    )


def _read_index(path: Path, where: str) -> dict[str, str]:
    weight_map = read_json(path, where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"file {INDEX}", "it has no weight_map", where, "download it again")
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(
                f"{INDEX} names {shard!r}",
                "a shard is a file of the same folder",
                where,
                "download the model again",
            )
    return weight_map
