"""One source: a local Hugging Face folder of safetensors, opened memory-mapped, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from search_spaces.errors import InputError
from search_spaces.roles import role

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS: Mapping[str, torch.dtype] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Floating dtypes that merge, as safetensors spells them."""

_QUANTISED = ("F8", "F4", "F6", "E8M0", "I8")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor is and what it looks like; `dtype` as safetensors spells it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def floating(self) -> bool:
        """Whether the tensor merges (an integer or boolean one is copied)."""
        return self.dtype in FLOATS


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
        self.config: dict[str, Any] = _read_json(folder / "config.json", self.where)
        if "quantization_config" in self.config:
            raise _quantised("quantization_config in config.json", self.where)
        self._files: dict[Path, safe_open] = {}
        self.entries: dict[str, Entry] = self._open()
        self._tensors: dict[str, torch.Tensor] = {}
        for tensor, entry in self.entries.items():
            if entry.dtype.startswith(_QUANTISED):
                raise _quantised(f"{tensor} of type {entry.dtype}", self.where)

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
    def dtype(self) -> torch.dtype:
        """The floating type that most of the parameters are stored in."""
        count: dict[str, int] = {}
        for entry in self.entries.values():
            if entry.floating:
                elements = torch.Size(entry.shape).numel()
                count[entry.dtype] = count.get(entry.dtype, 0) + elements
        return FLOATS[max(count, key=lambda d: count[d])] if count else torch.float32

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor in its storage dtype: a view of the mapped file. Do not write to it."""
        if name not in self._tensors:
            self._tensors[name] = self._files[self.entries[name].file].get_tensor(name)
        return self._tensors[name]

    def _open(self) -> dict[str, Entry]:
        if (self.folder / SINGLE).is_file():
            return self._entries(self.folder / SINGLE)
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
            found |= self._entries(self.folder / shard)
        for tensor, shard in weight_map.items():
            if tensor not in found or found[tensor].file.name != shard:
                raise InputError(
                    f"{INDEX} says {tensor} is in {shard}",
                    "it is not there",
                    self.where,
                    "download the model again",
                )
        return {tensor: found[tensor] for tensor in weight_map}

    def _entries(self, path: Path) -> dict[str, Entry]:
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"file {path.name}",
                _damage(path) or str(error),
                self.where,
                "the file is damaged; download or save it again",
            ) from error
        self._files[path] = file
        slices = {tensor: file.get_slice(tensor) for tensor in file.keys()}  # noqa: SIM118 not a dict
        return {
            tensor: Entry(path, tuple(part.get_shape()), part.get_dtype())
            for tensor, part in slices.items()
        }


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a configuration: itself, or `text_config` where it is nested."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def layer_key(config: dict[str, Any]) -> str | None:
    """The key of the number of layers in `text_config(config)`."""
    return next((key for key in _LAYER_KEYS if key in text_config(config)), None)


def _check_folder(folder: Path, where: str) -> None:
    if not folder.is_dir():
        raise InputError(f"folder {folder}", "there is no such folder", where, "correct the path")
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            "adapter_config.json",
            "a LoRA adapter is not a whole model",
            where,
            "merge it into its base first: peft's model.merge_and_unload(), then save_pretrained",
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


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"file {path.name}", f"it is not JSON ({error})", where, "download it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"file {path.name}", "it is not a JSON object", where, "download it again")
    return content


def _read_index(path: Path, where: str) -> dict[str, str]:
    weight_map = _read_json(path, where).get("weight_map")
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


def _damage(path: Path) -> str | None:
    """What is cut off, where that is the damage; None: the library's own words say it better."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or 8 + length > size:
            return f"its header needs {8 + length} bytes, the file has {size}"
        try:
            header = json.loads(stream.read(length))
            ends = {t: e["data_offsets"][1] for t, e in header.items() if t != "__metadata__"}
            last = max(ends, key=lambda t: ends[t])
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
    if 8 + length + ends[last] == size:
        return None
    return f"tensor {last} ends at byte {8 + length + ends[last]}, the file at byte {size}"


def _quantised(passed: str, where: str) -> InputError:
    return InputError(
        passed,
        "quantised weights cannot be merged",
        where,
        "use the bfloat16 or float16 checkpoint it was made from, or dequantise it",
    )
