"""Writing safetensors files piece by piece, so that no file, and no large tensor, is held in memory.

The format (github.com/huggingface/safetensors): the length of the header as 8 bytes, little endian;
the header, JSON that says each tensor's type, shape and place, padded with spaces to a multiple of
8; the tensors' bytes without gaps.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch

from fitness.engine import Box

PIECE = 2**25
"""Bytes that are made and written at a time."""

_ALIGNMENT = 8
_WORTHWHILE = 2**20
"""Bytes of a tensor below which letting go of it is not worth asking what is mapped."""
_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor to be written."""

    sizes: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return prod(self.sizes) * self.dtype.itemsize

    def pieces(self) -> Iterator[Box]:
        """Boxes of whole rows, one after the other, of about `PIECE` bytes each."""
        if self.bytes <= PIECE or not self.sizes:
            yield ()
            return
        row = self.bytes // self.sizes[0]
        rows = max(1, PIECE // row)
        for first in range(0, self.sizes[0], rows):
            yield (slice(first, min(first + rows, self.sizes[0])),)


def write_shard(path: Path, tensors: Mapping[str, Shape], pieces: Iterable[torch.Tensor]) -> None:
    """Write a safetensors file.

    Args:
        path: new file.
        tensors: what it holds, in the order of the file.
        pieces: the tensors' elements in that order, contiguous, cut anywhere.

    Raises:
        OSError: the disk is full, say.
        ValueError: the pieces are not as many bytes as the tensors.
    """
    header = _header(tensors)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little"))
        stream.write(header)
        for piece in pieces:
            if piece.numel():
                stream.write(piece.reshape(-1).view(torch.uint8).numpy().data)
        expected = 8 + len(header) + sum(shape.bytes for shape in tensors.values())
        if stream.tell() != expected:
            raise ValueError(f"{path}: {stream.tell()} bytes written, {expected} announced")


def release(tensors: Iterable[torch.Tensor]) -> None:
    """Let go of the memory that holds what was read of mapped safetensors files.

    Reading again brings it back. Other tensors are left alone, and so is everything where the
    system does not say what is mapped.
    """
    spans = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors if t.nbytes >= _WORTHWHILE]
    for start, stop in _mapped_files() if spans else ():
        for first, last in spans:
            # Whole pages inside: the neighbours at both ends may be in use.
            low = -(-max(start, first) // mmap.PAGESIZE) * mmap.PAGESIZE
            high = min(stop, last) // mmap.PAGESIZE * mmap.PAGESIZE
            if high > low:
                size = ctypes.c_size_t(high - low)
                _libc().madvise(ctypes.c_void_p(low), size, mmap.MADV_DONTNEED)


def _mapped_files() -> Iterator[tuple[int, int]]:
    """Address ranges of safetensors files that are mapped into this process."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if line.endswith(".safetensors"):
            start, stop = line.split(maxsplit=1)[0].split("-")
            yield int(start, 16), int(stop, 16)


def _header(tensors: Mapping[str, Shape]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in tensors.items():
        stop = place + shape.bytes
        entries[name] = {
            "dtype": _NAMES[shape.dtype],
            "shape": list(shape.sizes),
            "data_offsets": [place, stop],
        }
        place = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
