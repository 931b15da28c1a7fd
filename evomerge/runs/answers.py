"""`answers.db`: what candidates answered, kept for every run of a workspace (SQLite; `SCHEMA` is its text).

A recipe that was answered in one run need not be answered in the next, as long as nothing else that
an answer depends on has changed: that is the fingerprint's part (`fingerprint.py`).

Nothing here is needed, so nothing here fails: a file that is damaged, locked, full or not ours is
left as it is, a warning says so once, and the run works without it. Any number of processes on one
machine may share the file (its write-ahead log needs memory that they share, so not over a network).
"""

import logging
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from math import ceil
from pathlib import Path

from fitness.items import Item, Response

SCHEMA_VERSION = 1
SCHEMA = (
    """
    CREATE TABLE batches (         -- answers of a candidate that came in together, as packed rows
        id        INTEGER PRIMARY KEY, -- order of writing
        candidate BLOB NOT NULL,   -- 16 bytes, from fingerprint and recipe hash
        answers   BLOB NOT NULL,   -- see _ANSWER
        checksum  INTEGER NOT NULL -- CRC-32 of candidate and answers
    )
    """,
    "CREATE INDEX batches_by_candidate ON batches (candidate)",
)
LIMIT = 2 * 2**30
"""Bytes that the file may take when it is opened: the oldest answers go first."""

_APPLICATION = 0x65764D41  # "evMA", in the header of the file
_ANSWER = struct.Struct("<12sdIdB")
"""An answer: the item's key, its score, tokens, loss, and the flags below."""
_PAGE_BYTES = 8192
_TRUNCATED, _PARSE_FAILURE, _LOSS = 1, 2, 4
_WAIT_SECONDS = 5.0
"""How long another process may hold the file. Then writing ends: not every candidate can wait."""

_Answer = tuple[float, int, bool, bool, float | None]
"""A response without its item: score, tokens, truncated, parse_failure, loss."""

_FAILURES = (OSError, sqlite3.Error, UnicodeError)
"""What SQLite raises; the last where a damaged file's text enters a message."""

logger = logging.getLogger(__name__)


class AnswerCache:
    """The answers of a workspace. Never raises for what is wrong with its file.

    Args:
        path: of the file; made if it is not there.
        limit: most bytes it may have now; older answers are removed.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._writes = True
        self._complained = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_SECONDS)
            _prepare(self._connection)
        except _FAILURES as error:
            self._give_up(error)
        else:
            self._change(lambda connection: _trim(connection, limit))

    def fingerprinted(self, fingerprint: str) -> "Answers":
        """The answers given under the same conditions (`evomerge.runs.fingerprint`)."""
        return Answers(self, fingerprint)

    def close(self) -> None:
        """Close the file; afterwards nothing is known and nothing is kept."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, candidate: bytes) -> Mapping[bytes, _Answer]:
        """A candidate's answers by item key; none if the file cannot be read."""
        if self._connection is None:
            return {}
        try:
            return _answers(self._connection, candidate)
        except _FAILURES as error:
            self._give_up(error)
            return {}

    def write(self, candidate: bytes, answers: Mapping[bytes, bytes]) -> None:
        """Add packed answers, by item key, to those of a candidate; what is there stays."""

        def add(connection: sqlite3.Connection) -> None:
            known = _answers(connection, candidate)
            added = b"".join(packed for key, packed in answers.items() if key not in known)
            if added:
                connection.execute(
                    "INSERT INTO batches (candidate, answers, checksum) VALUES (?, ?, ?)",
                    (candidate, added, zlib.crc32(candidate + added)),
                )

        self._change(add)

    def _change(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do `work` in a transaction; where the file does not allow it, warn and write no more."""
        connection = self._connection
        if connection is None or not self._writes:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            work(connection)
            connection.execute("COMMIT")
        except _FAILURES as error:
            self._writes = False
            self._complain("written", "its answers are not kept for other runs", error)
        finally:
            if connection.in_transaction:  # Ctrl-C, too, must not leave the file locked
                with suppress(*_FAILURES):
                    connection.execute("ROLLBACK")

    def _give_up(self, error: Exception) -> None:
        self.close()
        remedy = "move the file away if that does not mend itself"
        self._complain("used", f"every answer is asked for again; {remedy}", error)

    def _complain(self, what: str, consequence: str, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            logger.warning(
                "answers of earlier runs: %s cannot be %s (%s); the run goes on, and %s",
                self.path, what, error, consequence,
            )  # fmt: skip


class Answers:
    """The part of a cache whose answers were given under the same conditions."""

    def __init__(self, cache: AnswerCache, fingerprint: str) -> None:
        self._cache = cache
        self._fingerprint = fingerprint

    def known(self, recipe_hash: str, items: Sequence[Item]) -> dict[int, Response]:
        """Position in `items` -> the response of the candidate, where there is one."""
        answers = self._cache.read(self._candidate(recipe_hash))
        if not answers:
            return {}
        return {
            position: Response(item.task, item.index, *answers[key])
            for position, item in enumerate(items)
            if (key := _key_of(item.task, item.digest)) in answers
        }

    def keep(self, recipe_hash: str, items: Sequence[Item], responses: Sequence[Response]) -> None:
        """Write down what a candidate answered, all or nothing; what was known before stays.

        Args:
            recipe_hash: of the candidate.
            items: that it answered.
            responses: one per item.
        """
        answers: dict[bytes, bytes] = {}
        for item, response in zip(items, responses, strict=True):
            key = _key_of(item.task, item.digest)
            answers.setdefault(key, _packed(key, response))
        self._cache.write(self._candidate(recipe_hash), answers)

    def _candidate(self, recipe_hash: str) -> bytes:
        return blake2b(f"{self._fingerprint} {recipe_hash}".encode(), digest_size=16).digest()


@lru_cache(maxsize=2**16)
def _key_of(task: str, digest: str) -> bytes:
    """12 bytes: among a million items, two have the same key with a probability of 1e-17."""
    return blake2b(f"{task} {digest}".encode(), digest_size=12).digest()


def _packed(key: bytes, response: Response) -> bytes:
    flags = _TRUNCATED * response.truncated | _PARSE_FAILURE * response.parse_failure
    loss = 0.0
    if response.loss is not None:
        flags, loss = flags | _LOSS, response.loss
    return _ANSWER.pack(key, response.score, response.tokens, loss, flags)


def _unpacked(batch: bytes) -> Iterator[tuple[bytes, _Answer]]:
    for key, score, tokens, loss, flags in _ANSWER.iter_unpack(batch):
        cut, unparsed = bool(flags & _TRUNCATED), bool(flags & _PARSE_FAILURE)
        yield key, (score, tokens, cut, unparsed, loss if flags & _LOSS else None)


def _answers(connection: sqlite3.Connection, candidate: bytes) -> dict[bytes, _Answer]:
    """A candidate's answers by item key; a batch whose checksum differs does not count."""
    found: dict[bytes, _Answer] = {}
    for batch, checksum in connection.execute(
        "SELECT answers, checksum FROM batches WHERE candidate = ?", (candidate,)
    ):
        # in a damaged file a column may be of any type
        if isinstance(batch, bytes) and zlib.crc32(candidate + batch) == checksum:
            found.update(_unpacked(batch))
    return found


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file; refuse a file that is not ours.

    Raises:
        sqlite3.Error: it is damaged, another program's, or of another version.
    """
    if _stamp(connection) == (0, 0) and not _tables(connection):
        _create(connection)
    application, version = _stamp(connection)
    if application != _APPLICATION:
        raise sqlite3.DatabaseError("it is another program's")
    if version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError(
            f"schema version {version}, and this evomerge reads version {SCHEMA_VERSION}"
        )
    connection.execute("PRAGMA journal_mode = WAL")  # stays with the file
    # What the last seconds before a power cut brought may be lost; the file stays whole.
    connection.execute("PRAGMA synchronous = NORMAL")


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, unless another process just has."""
    # These two take effect in an empty file only. A batch of 100 answers has 3,300 bytes.
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("BEGIN IMMEDIATE")
    if not _tables(connection):
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _stamp(connection: sqlite3.Connection) -> tuple[int, int]:
    return _pragma(connection, "application_id"), _pragma(connection, "user_version")


def _tables(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]


def _trim(connection: sqlite3.Connection, limit: int) -> None:
    """Remove the oldest batches until the file has at most `limit` bytes."""
    while (size := _size(connection)) > limit:
        (count,) = connection.execute("SELECT COUNT(*) FROM batches").fetchone()
        if not count:
            break
        surplus = ceil(count * (1 - limit / size))
        connection.execute(
            "DELETE FROM batches WHERE id IN (SELECT id FROM batches ORDER BY id LIMIT ?)",
            (surplus,),
        )
    for _ in range(_pragma(connection, "freelist_count")):
        connection.execute("PRAGMA incremental_vacuum")  # one page for each step of a cursor


def _size(connection: sqlite3.Connection) -> int:
    """Bytes of the pages in use."""
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
