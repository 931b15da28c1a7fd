"""Files of a model's folder, opened or refused: safetensors, mapped into memory, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from search_spaces.errors import InputError

FLOATS: Mapping[str, torch.dtype] = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Floating dtypes that merge, as safetensors spells them."""


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


def open_file(path: Path, where: str) -> tuple[safe_open, dict[str, Entry]]:
    """A safetensors file, mapped, and its tensors.

    Raises:
        InputError: it is damaged.
    """
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"file {path.name}",
            _damage(path) or str(error),
            where,
            "the file is damaged; download or save it again",
        ) from error
    slices = {tensor: file.get_slice(tensor) for tensor in file.keys()}  # noqa: SIM118 not a dict
    return file, {
        tensor: Entry(path, tuple(part.get_shape()), part.get_dtype())
        for tensor, part in slices.items()
    }


def read_json(path: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file, or an `InputError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"file {path.name}", f"it is not JSON ({error})", where, "download it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"file {path.name}", "it is not a JSON object", where, "download it again")
    return content


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
