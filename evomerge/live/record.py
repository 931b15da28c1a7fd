"""Reading a run's record over hours without leaving a trace in its folder.

SQLite's write-ahead log wants a reader to write, too: whoever closes a database last folds the log in.
So a run that is being driven is opened for reading alone, one that is not as a file that never changes,
and one that died with a log, from a copy of both.
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from evomerge.runs.database import SCHEMA_VERSION
from evomerge.runs.folder import is_driven
from search_spaces.errors import InputError


class Record:
    """A run's record at one moment."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def select(self, query: str, arguments: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._connection.execute(query, arguments).fetchall()

    def meta(self, key: str) -> Any:
        """The fact `key`; None: there is none."""
        found = self.select("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(found[0][0]) if found else None


@contextmanager
def reading(folder: Path) -> Iterator[Record]:
    """The record of the run in `folder`, at this moment.

    Raises:
        InputError: no run there, or one of another version.
    """
    path = folder / "run.db"
    if not path.is_file():
        raise InputError(
            f"'{folder}'", "it holds no run (no run.db)", str(path), "name a run's folder"
        )
    with ExitStack() as kept:
        yield kept.enter_context(_opened(_uri(path, kept), path))


def _uri(path: Path, kept: ExitStack) -> str:
    """Of the database as it is to be opened; `kept`: its copy, if one had to be made."""
    log = path.with_name("run.db-wal")
    if is_driven(path.parent):
        return f"file:{_quoted(path)}?mode=ro"
    try:
        if log.stat().st_size:
            place = kept.enter_context(tempfile.TemporaryDirectory(prefix="evomerge-record-"))
            for file in (path, log):  # the log last: what is folded in meanwhile, it still has
                shutil.copy(file, place)
            return f"file:{_quoted(Path(place) / path.name)}"
    except FileNotFoundError:
        if log.exists():
            raise  # the database itself is gone
        # There is no log, or none any more: it was folded in by somebody who closed the run.
    return f"file:{_quoted(path)}?mode=ro&immutable=1"


@contextmanager
def _opened(uri: str, path: Path) -> Iterator[Record]:
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)) as connection:
        record = Record(connection)
        try:
            connection.execute("BEGIN")
            version = record.meta("schema_version")
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"run.db ({error})", "it cannot be read as a run's database", str(path),
                "name a run's folder",
            ) from None  # fmt: skip
        if version != SCHEMA_VERSION:
            raise InputError(
                f"schema version {version}",
                f"this evomerge reads version {SCHEMA_VERSION}",
                str(path),
                "use the evomerge that wrote it (see run.yaml, frozen.packages)",
            )
        yield record


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
