"""Reading a run's record over hours without leaving a trace in its folder."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from evomerge.runs.database import SCHEMA_VERSION
from evomerge.runs.folder import reading_uri
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
        yield kept.enter_context(_opened(reading_uri(path, kept), path))


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
