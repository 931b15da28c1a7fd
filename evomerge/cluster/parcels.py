"""A parcel: the files of one folder by their content, recognised wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.merge.cache import Cache

_SMALL = 2**20
"""Bytes below which a file's hash is not worth remembering."""


@dataclass(frozen=True, slots=True)
class ParcelFile:
    """A file as the driver saw it.

    Attributes:
        path: relative to the parcel's folder, with slashes.
        size: bytes.
        changed: time of the last change, ns.
        digest: SHA-256, as hex digits.
    """

    path: str
    size: int
    changed: int
    digest: str


@dataclass(frozen=True, slots=True)
class Parcel:
    """Files below one folder of the driver's machine. Plain data.

    Attributes:
        folder: the folder, absolute.
        files: sorted by path.
        folders: paths of folders that have to exist, files in them or not.
    """

    folder: str
    files: tuple[ParcelFile, ...]
    folders: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path, files: Iterable[Path], folders: Iterable[Path] = ()) -> Parcel:
        """The parcel of `files`, all below `folder`.

        A file's hash is remembered on disk by path, size and time of change (see `Cache.contents`).

        Raises:
            OSError: a file cannot be read.
        """
        paths = sorted(set(files))
        stats = [path.stat() for path in paths]
        parts = zip(paths, stats, digests(paths), strict=True)
        return cls(
            str(folder),
            tuple(
                ParcelFile(path.relative_to(folder).as_posix(), s.st_size, s.st_mtime_ns, digest)
                for path, s, digest in parts
            ),
            tuple(sorted(path.relative_to(folder).as_posix() for path in folders)),
        )

    @property
    def key(self) -> str:
        """What names and contents come to, as hex digits: the parcel's name in the cache."""
        facts = [(file.path, file.digest) for file in self.files]
        return hashlib.sha256(repr((facts, self.folders)).encode()).hexdigest()[:40]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)

    def lies_in(self, folder: Path) -> bool:
        """Whether `folder` has every file, with this content.

        Equal size and time of change are taken for equal content; where the time alone differs, the
        content decides.
        """
        doubtful: list[ParcelFile] = []
        for file in self.files:
            try:
                stat = (folder / file.path).stat()
            except OSError:
                return False
            if stat.st_size != file.size:
                return False
            if stat.st_mtime_ns != file.changed:
                doubtful.append(file)
        try:
            found = digests([folder / file.path for file in doubtful])
        except OSError:
            return False
        return found == [f.digest for f in doubtful] and all(
            (folder / path).is_dir() for path in self.folders
        )


def digests(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, as hex digits; those of large ones are remembered on disk.

    Raises:
        OSError: a file cannot be read.
    """
    large = [path for path in paths if path.stat().st_size >= _SMALL]
    known = dict(zip(large, Cache().contents(large), strict=True))
    return [known.get(p) or hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]
