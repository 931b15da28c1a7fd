"""What an exported folder holds, read back from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CHUNK = 2**24
"""Bytes of a file read at a time, and elements of a tensor looked at at a time."""


@dataclass(frozen=True)
class File:
    """A weight file as it lies on disk.

    Attributes:
        name: in the folder.
        bytes: its size.
        sha256: of its contents, as hex.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FolderFacts:
    """What was found on disk.

    Attributes:
        files: the weight files, by name.
        tensors: how many there are.
        rows: of the embedding; None: nothing looks like one.
        tokens: ids the tokenizer knows; None: the folder holds no tokenizer.
        problems: sentences: what is wrong; empty: all is well.
        warnings: sentences: what is odd, but was so in a source already.
    """

    files: tuple[File, ...]
    tensors: int
    rows: int | None
    tokens: int | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read_back(folder: Path, *, matched: bool, trust_remote_code: bool = False) -> FolderFacts:
    """Read every weight file of a folder again: sizes, hashes, names, finite numbers, vocabulary.

    Holds one file's header and a piece of one tensor at a time.

    Args:
        folder: of a model.
        matched: whether rows were matched by token, so that each token has to have one.
        trust_remote_code: whether a tokenizer's own code may run.
    """
    from evomerge.merge.checkpoint import Checkpoint
    from search_spaces.errors import InputError

    paths = sorted(folder.glob("*.safetensors"))
    files = tuple(File(p.name, p.stat().st_size, digest(p)) for p in paths)
    problems = [text for path in paths for text in _sizes(path)] + _index(folder, paths)
    if problems:
        return FolderFacts(files, 0, None, None, tuple(problems))
    try:
        checkpoint = Checkpoint("export", folder)
    except InputError as error:
        return FolderFacts(files, 0, None, None, (str(error),))
    count = 0
    for name, tensor in tensors_of(folder):
        count += 1
        if not finite(tensor):
            problems.append(f"tensor {name} holds NaN or infinity")
    embedding = checkpoint.embedding
    rows = checkpoint.entries[embedding].shape[0] if embedding else None
    warnings: list[str] = []
    odd = problems if matched else warnings
    stated = checkpoint.text_config.get("vocab_size")
    if rows is None and stated is not None:
        odd.append(f"config.json says vocab_size {stated}, and no embedding has as many rows")
    tokens = _tokens(folder, trust_remote_code, problems)
    if rows is not None and tokens is not None and tokens > rows:
        odd.append(f"the tokenizer knows ids up to {tokens - 1}, {embedding} has {rows} rows")
    problems += _loadable(folder, trust_remote_code)
    return FolderFacts(files, count, rows, tokens, tuple(problems), tuple(warnings))


def tensors_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a folder by name, mapped; what was read of one is let go of after it."""
    from safetensors import safe_open

    from evomerge.merge.shards import release

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 it is no dict
                tensor = opened.get_tensor(name)
                yield name, tensor
                release([tensor])


def finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; looked at piece by piece."""
    if not tensor.is_floating_point():
        return True
    pieces = tensor.reshape(-1).split(_CHUNK)
    return all(bool(end.isfinite()) for p in pieces if p.numel() for end in p.aminmax())


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _sizes(path: Path) -> list[str]:
    """Whether a file is as long as its header announces."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(min(length, size)))
        ends = [entry["data_offsets"][1] for n, entry in header.items() if n != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return [f"{path.name}: its header cannot be read ({type(error).__name__})"]
    announced = 8 + length + max(ends, default=0)
    return [] if announced == size else [f"{path.name}: {size} bytes, {announced} announced"]


def _index(folder: Path, paths: list[Path]) -> list[str]:
    """Whether the index names the files that are there."""
    file = folder / "model.safetensors.index.json"
    if not file.is_file():
        return [] if len(paths) == 1 else [f"{len(paths)} weight files and no index"]
    named = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
    there = {path.name for path in paths}
    return [f"{name}: in the index or on disk, not in both" for name in sorted(named ^ there)]


def _tokens(folder: Path, trust_remote_code: bool, problems: list[str]) -> int | None:
    from evomerge.merge.skeleton import TOKENIZER_FILES
    from fitness.engines.resident import build_tokenizer
    from fitness.errors import FitnessError

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        tokenizer = build_tokenizer(folder, trust_remote_code)
    except FitnessError as error:
        problems.append(str(error))
        return None
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _loadable(folder: Path, trust_remote_code: bool) -> list[str]:
    """Whether transformers reads the configurations."""
    from transformers import AutoConfig, GenerationConfig

    found: list[str] = []
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        found.append(f"config.json cannot be read: {_line(error)}")
    if (folder / "generation_config.json").is_file():
        try:
            GenerationConfig.from_pretrained(folder)
        except (OSError, ValueError, TypeError) as error:
            found.append(f"generation_config.json cannot be read: {_line(error)}")
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
