"""Tables of sources on disk, so that the next start need not read the sources to build them.

A file of the cache holds the tables of one kind for one set of source files, and is found by their
contents: wherever a model lies and whatever it is called, its tables fit. Format: safetensors;
entries `I/FIELD` belong to the table named at place I of the metadata's list `tables` (JSON).
Metadata also has `schema`, `shelf` (kind and contents, JSON) and `checksum` (BLAKE2b of `tables` and
the entries).

Nothing here is needed, so nothing here fails: what cannot be read is built anew, what cannot be
written is not. Files appear whole (temporary file, then rename), so any number of processes may
share a folder; of two that write the same file at once, one is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

SCHEMA = "1"
LIMIT = 4 * 2**30
"""Bytes of tables kept; the least recently used go first."""

VARIABLE = "EVOMERGE_CACHE"

Arrays: TypeAlias = dict[str, np.ndarray]
"""A table: its fields by name."""

_DAMAGED = (SafetensorError, ValueError, LookupError, TypeError)
_ABANDONED_SECONDS = 3600
_HASH_THREADS = 4

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """$EVOMERGE_CACHE, or `evomerge` in the user's cache folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "evomerge" / "cache"
    if sys.platform == "darwin":
        return home / "Library/Caches/evomerge"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "evomerge"


class Cache:
    """Tables by shelf and name.

    Args:
        folder: made when it is needed; None: `cache_folder()`.
        limit: bytes of tables kept.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder = folder or cache_folder()
        self._limit = limit
        self._contents: dict[tuple[str, int, int], str] = {}
        self._complained = False

    def contents(self, files: Sequence[Path]) -> list[str]:
        """The SHA-256 of each file, remembered by its real path, size and time of change.

        Raises:
            OSError: a file cannot be read.
        """
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            return list(pool.map(self._content, files))

    def load(self, shelf: str) -> dict[str, Arrays]:
        """The tables on a shelf by name; none if its file is missing, damaged or another's."""
        path = self._path(shelf)
        if not path.exists():
            return {}
        try:
            tables = _read(path, shelf)
            os.utime(path)  # used now
        except OSError as error:
            self._complain("read", error)
        except _DAMAGED as error:
            logger.warning("cache: %s is not usable (%s); its tables are built anew", path, error)
        else:
            return tables
        return {}

    def store(self, shelf: str, tables: Mapping[str, Arrays]) -> None:
        """Add tables to a shelf, and make room for them."""
        path = self._path(shelf)
        try:
            _replace(path, _written(shelf, {**self.load(shelf), **tables}))
            self._trim()
        except OSError as error:
            self._complain("written", error)

    def _path(self, shelf: str) -> Path:
        name = hashlib.sha256(f"{SCHEMA} {shelf}".encode()).hexdigest()[:40]
        return self.folder / "tables" / f"{name}.safetensors"

    def _content(self, file: Path) -> str:
        real = file.resolve()
        before = _identity(real)
        if before in self._contents:
            return self._contents[before]
        name = hashlib.sha256(json.dumps(before).encode()).hexdigest()[:40]
        remembered = self.folder / "files" / name
        digest = _remembered(remembered)
        if digest is None:
            with real.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if _identity(real) != before:  # changed under our eyes
                return digest
            try:
                _replace(remembered, digest.encode())
            except OSError as error:
                self._complain("written", error)
        self._contents[before] = digest
        return digest

    def _trim(self) -> None:
        """Remove the least recently used tables beyond the limit, and what writers left behind."""
        found = sorted((s.st_mtime, s.st_size, p) for p, s in _files(self.folder / "tables"))
        excess = sum(size for _, size, _ in found) - self._limit
        for changed, size, path in found:
            abandoned = path.suffix == ".tmp" and changed < time.time() - _ABANDONED_SECONDS
            if excess > 0 or abandoned:
                path.unlink(missing_ok=True)
                excess -= size

    def _complain(self, what: str, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            logger.warning(
                "cache: %s cannot be %s (%s); tables are built at every start",
                self.folder,
                what,
                error.strerror or error,
            )


def _identity(file: Path) -> tuple[str, int, int]:
    stat = file.stat()
    return str(file), stat.st_size, stat.st_mtime_ns


def _remembered(file: Path) -> str | None:
    try:
        digest = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return digest if len(digest) == 64 and set(digest) <= set("0123456789abcdef") else None


def _files(folder: Path) -> Iterable[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        try:
            yield path, path.stat()
        except FileNotFoundError:  # another process has removed it
            continue


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _written(shelf: str, tables: Mapping[str, Arrays]) -> bytes:
    names = sorted(tables)
    entries = {
        f"{i}/{field}": np.ascontiguousarray(array)
        for i, name in enumerate(names)
        for field, array in tables[name].items()
    }
    metadata = {"schema": SCHEMA, "shelf": shelf, "tables": json.dumps(names)}
    return save(entries, {**metadata, "checksum": _checksum(entries, metadata["tables"])})


def _read(path: Path, shelf: str) -> dict[str, Arrays]:
    """The tables in a file.

    Raises:
        SafetensorError, ValueError, LookupError, TypeError: they are not what they should be.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("schema") != SCHEMA or metadata.get("shelf") != shelf:
            raise ValueError("it holds something else")
        entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
    if _checksum(entries, metadata["tables"]) != metadata.get("checksum"):
        raise ValueError("its checksum differs")
    names = json.loads(metadata["tables"])
    tables: dict[str, Arrays] = {name: {} for name in names}
    for entry, array in entries.items():
        number, field = entry.split("/", 1)
        tables[names[int(number)]][field] = array
    return tables


def _checksum(entries: Mapping[str, np.ndarray], tables: str) -> str:
    digest = hashlib.blake2b(tables.encode(), digest_size=16)
    for name in sorted(entries):
        array = entries[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
