"""Delivery: how a parcel comes to a node.

A node that has a parcel's files where the driver has them (a shared filesystem, or a copy) uses them
there. Otherwise they are fetched once per node, into `sources/KEY` of evomerge's cache, where KEY
follows from names and contents. While it is being fetched a parcel is `KEY.partial`, and the file in
flight `KEY.part`; both are continued after an interruption, each file is verified before it gets its
name, and the parcel gets its own last. A lock on `KEY.lock` lets one process of the node do this.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from evomerge.cluster.parcels import Parcel, ParcelFile
from evomerge.merge.cache import VARIABLE, cache_folder
from search_spaces.errors import InputError

logger = logging.getLogger(__name__)

_READ = 2**20
"""Bytes of an interrupted file that are hashed at a time."""

_RESERVE = 64 * 2**20
"""Bytes that fetching leaves free on the disk."""


class Fetch(Protocol):
    """Brings the bytes of a file from the driver's node."""

    def __call__(self, digest: str, start: int, size: int) -> Iterator[bytes]:
        """The bytes from `start` of the file with that SHA-256, of `size` bytes in all, in pieces."""
        ...


def fetched(parcel: Parcel, fetch: Fetch | None) -> Path:
    """The folder of this node's cache that holds the parcel, fetched if it was not there.

    Args:
        parcel: what is needed.
        fetch: brings files from the driver's node; None where it cannot be reached.

    Raises:
        InputError: files are needed and cannot be fetched, the disk is full, or what arrives is not
            what was sent.
    """
    if fetch is None:
        raise _refusal(
            Path(parcel.folder),
            "it is not on this node as it is on the driver's machine, and a driver outside of the "
            "cluster cannot be asked for it",
            "run the driver on a node of the cluster (`ray job submit`), or put the files at the "
            "same path on every node",
        )
    kept = cache_folder() / "sources" / parcel.key
    with _locked(kept):
        if not parcel.lies_in(kept):
            _Delivery(parcel, fetch, kept).receive()
    return kept


class _Delivery:
    """The fetching of one parcel, by the one process of the node that holds its lock."""

    def __init__(self, parcel: Parcel, fetch: Fetch, kept: Path) -> None:
        self._parcel, self._fetch, self._kept = parcel, fetch, kept
        self._partial = kept.with_name(f"{kept.name}.partial")
        self._part = kept.with_name(f"{kept.name}.part")

    def receive(self) -> None:
        """Fetch what is missing, then give the parcel its name."""
        with self._disk(self._kept):
            if self._kept.is_dir():
                logger.warning("%s was changed; what differs is fetched again", self._kept)
                shutil.rmtree(self._partial, ignore_errors=True)
                self._kept.replace(self._partial)
            for folder in ("", *self._parcel.folders):
                (self._partial / folder).mkdir(parents=True, exist_ok=True)
        missing = [f for f in self._parcel.files if not Parcel("", (f,)).lies_in(self._partial)]
        self._check_room(missing)
        logger.info(
            "%s: fetching %d files, %.1f MB, of %s",
            platform.node(), len(missing), sum(f.size for f in missing) / 1e6, self._parcel.folder,
        )  # fmt: skip
        for file in missing:
            if not (self._received(file) or self._received(file)):
                raise _refusal(
                    Path(self._parcel.folder) / file.path,
                    "what arrives on this node is not what the driver hashed, twice",
                    "if the file was changed meanwhile, restore it or start a new run; else check "
                    "the network and this node's memory",
                )
        with self._disk(self._kept):
            self._partial.replace(self._kept)

    def _received(self, file: ParcelFile) -> bool:
        """Fetch one file, from where an earlier attempt ended; False if its content is wrong."""
        target = self._partial / file.path
        with self._disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = self._part.open("a+b")
        with stream:
            hasher = self._resumed(stream, file)
            for piece in self._fetch(file.digest, stream.tell(), file.size):
                hasher.update(piece)
                with self._disk(target):
                    stream.write(piece)
            if hasher.hexdigest() == file.digest:
                with self._disk(target):
                    stream.flush()
                    os.fsync(stream.fileno())
                    os.utime(self._part, ns=(file.changed, file.changed))
                    self._part.replace(target)
                return True
        logger.warning("%s: %s arrived damaged", platform.node(), target)
        self._part.unlink()
        return False

    def _resumed(self, stream: IO[bytes], file: ParcelFile) -> hashlib._Hash:
        """The hash of what is there of the file, with the stream at its end."""
        stream.seek(0)
        hasher = hashlib.sha256()
        while piece := stream.read(_READ):
            hasher.update(piece)
        if stream.tell() < file.size:
            return hasher
        stream.truncate(0)  # of another file, or more than there can be
        stream.seek(0)
        return hashlib.sha256()

    def _check_room(self, missing: list[ParcelFile]) -> None:
        needed = sum(file.size for file in missing)
        free = shutil.disk_usage(self._partial).free
        if needed and free < needed + _RESERVE:
            raise _refusal(
                Path(self._parcel.folder) / max(missing, key=lambda f: f.size).path,
                f"{needed / 1e9:.2f} GB are to be fetched into {self._kept.parent}, whose disk has "
                f"{free / 1e9:.2f} GB free",
                f"free some space there, or set {VARIABLE} to a folder on a larger disk",
            )

    @contextmanager
    def _disk(self, target: Path) -> Iterator[None]:
        """Errors of this node's disk, with what was being written."""
        try:
            yield
        except OSError as error:
            raise _refusal(
                target,
                f"it cannot be written ({error.strerror or error})",
                f"free some space there, or set {VARIABLE} to a folder on another disk",
            ) from error


@contextmanager
def _locked(kept: Path) -> Iterator[None]:
    """Alone on this node, until the block or the process ends."""
    path = kept.with_name(f"{kept.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise _refusal(
            path,
            f"it cannot be written ({error.strerror or error})",
            f"set {VARIABLE} to a folder that can be",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refusal(path: Path, rule: str, remedy: str) -> InputError:
    return InputError(f"'{path}'", rule, f"node {platform.node()}", remedy)
