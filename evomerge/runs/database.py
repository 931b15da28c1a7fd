"""`run.db`: the durable record of a run (SQLite, write-ahead log, full sync; `schema.sql` is its text)."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from evomerge.evaluation import AS_SEARCHED, Evaluation, latest
from evomerge.runs.rows import (
    CandidateRow,
    ItemRow,
    as_evaluation,
    as_responses,
    columns_of,
    compact,
    insert_evaluation,
    now,
)
from fitness.items import Response
from search_spaces.errors import InputError

SCHEMA_VERSION = 3


class RecordingError(Exception):
    """The database could not be written (disk full, say). What was recorded before is safe."""

    def __init__(self, path: Path, error: sqlite3.Error) -> None:
        super().__init__(
            f"{path}: a record could not be written ({error}): everything recorded before it is safe;"
            f" free some space, then run 'evomerge resume {path.parent}'"
        )


class Database:
    """A run's record. Writers hold the run's lock; readers need nothing.

    Args:
        path: of `run.db`.
        create: make a new, empty one.
        uri: how SQLite is to open it (`folder.reading_uri`); None: to read and to write.

    Raises:
        InputError: no database there, or one of another schema version.
    """

    def __init__(self, path: Path, *, create: bool = False, uri: str | None = None) -> None:
        self.path = path
        self._items: list[ItemRow] = []
        if not create and not path.is_file():
            raise InputError(
                f"'{path.parent}'", "it holds no run (no run.db)", str(path), "name a run's folder"
            )
        self._connection = sqlite3.connect(
            uri or path, isolation_level=None, timeout=30, uri=uri is not None
        )
        if create:
            self._connection.execute("PRAGMA journal_mode = WAL")  # stays with the file
            schema = files("evomerge.runs").joinpath("schema.sql").read_text()
            self._connection.executescript(schema)
            self.set_meta("schema_version", SCHEMA_VERSION)
        else:
            self._check_version()
        self._connection.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        """Close the connection; the write-ahead log is folded in."""
        self._connection.close()

    def _check_version(self) -> None:
        try:
            version = self.meta("schema_version")
        except sqlite3.OperationalError as error:  # of the machine, not of the file
            raise InputError(
                f"run.db ({error})",
                "it cannot be read here now; nothing says that it is damaged",
                str(self.path),
                "free some space on its disk, see to the folder's permissions, and try again",
            ) from None
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"run.db ({error})",
                "it is not a run's database",
                str(self.path),
                "restore it from a copy, or start a new run",
            ) from None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"schema version {version}",
                f"this evomerge reads version {SCHEMA_VERSION}",
                str(self.path),
                "use the evomerge that wrote it (see run.yaml, frozen.packages)",
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:  # Ctrl-C too must not leave a transaction open
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise RecordingError(self.path, error) from None
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one moment of the record, whatever a driver writes meanwhile. One within another reads
        the outer one's moment."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    def meta(self, key: str, default: Any = None) -> Any:
        """The fact `key`, or `default`."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set_meta(self, key: str, value: Any) -> None:
        """State the fact `key`."""
        self.set_facts({key: value})

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """State several facts: all of them, or none."""
        rows = [(key, compact(value)) for key, value in facts.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def event(self, kind: str, **detail: Any) -> None:
        """Add a line to the run's log."""
        row = (now(), kind, compact(detail))
        with self._transaction() as connection:
            connection.execute("INSERT INTO events (at, kind, detail) VALUES (?, ?, ?)", row)

    def set_items(self, items: Sequence[ItemRow]) -> None:
        """State which items the splits hold (once, when the run begins)."""
        rows = [(i.split, i.position, i.task, i.item, i.digest) for i in items]
        with self._transaction() as connection:
            connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)

    def items(self) -> list[ItemRow]:
        """Every split's items, in order."""
        if not self._items:  # stated once, they never change
            rows = self._connection.execute("SELECT * FROM items ORDER BY split, position")
            self._items = [ItemRow(*row) for row in rows]
        return list(self._items)

    def set_recipe(self, name: str, recipe_hash: str, yaml_text: str) -> None:
        """Keep the recipe of a source or a baseline."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO recipes VALUES (?, ?, ?)", (name, recipe_hash, yaml_text)
            )

    def recipes(self) -> dict[str, tuple[str, str]]:
        """Name -> (hash, YAML) of every recipe that no genome gives."""
        rows = self._connection.execute("SELECT name, hash, yaml FROM recipes")
        return {name: (digest, text) for name, digest, text in rows}

    def record(
        self,
        recipe_hash: str,
        split: str,
        evaluation: Evaluation | None,
        candidates: Sequence[CandidateRow] = (),
        part: int = 0,
    ) -> None:
        """Record a finished evaluation and the candidates that waited for it, whole or not at all.

        Args:
            recipe_hash, split: what was evaluated.
            evaluation: what came out; None if it had been recorded before.
            candidates: rows of `candidates` that this evaluation answers.
            part: how often it was measured before; the responses are those of this part.

        Raises:
            RecordingError: the disk is full or read-only.
        """
        with self._transaction() as connection:
            if evaluation is not None:
                insert_evaluation(connection, recipe_hash, split, part, evaluation)
            connection.executemany(
                "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [columns_of(row) for row in candidates],
            )

    def candidates(self, phase: str) -> dict[int, CandidateRow]:
        """The recorded candidates of a phase by id."""
        rows = self._connection.execute(
            "SELECT phase, id, generation, genome, recipe_hash, cached, told, asked FROM candidates"
            " WHERE phase = ? ORDER BY id",
            (phase,),
        )
        return {
            r[1]: CandidateRow(
                r[0], r[1], r[2], tuple(json.loads(r[3])), r[4], bool(r[5]), r[6], r[7]
            )
            for r in rows
        }

    def evaluations(self, split: str) -> dict[str, Evaluation]:
        """Recipe hash -> evaluation on a split by all of its parts, without responses."""
        return {digest: latest(parts) for digest, parts in self.parts(split).items()}

    def parts(self, split: str) -> dict[str, list[Evaluation]]:
        """Recipe hash -> evaluation on a split after each of its parts, without responses.

        In the order in which the first parts were completed.
        """
        rows = self._connection.execute(
            "SELECT recipe_hash, outcome, reason, objectives, merge_seconds, score_seconds, worker,"
            " items, answers, tokens FROM evaluations LEFT JOIN responses ON evaluation = id"
            " WHERE split = ? ORDER BY id",
            (split,),
        )
        found: dict[str, list[Evaluation]] = {}
        for digest, *columns in rows:
            parts = found.setdefault(digest, [])
            parts.append(as_evaluation(columns, sum(part.tokens for part in parts[-1:])))
        return found

    def responses(self, split: str) -> dict[str, list[Response]]:
        """Recipe hash -> what it did on a split's items, those of all parts, in the split's order."""
        return {
            digest: [found[position] for position in sorted(found)]
            for digest, found in self._answers(split, None, None).items()
        }

    def answers(self, recipe_hash: str, split: str, parts: int | None) -> dict[int, Response]:
        """What a recipe did on a split's items in its first `parts` parts, by position there."""
        return self._answers(split, recipe_hash, parts).get(recipe_hash, {})

    def _answers(
        self, split: str, only: str | None, parts: int | None
    ) -> dict[str, dict[int, Response]]:
        places = [row for row in self.items() if row.split == items_of(split)]
        rows = self._connection.execute(
            "SELECT recipe_hash, positions, scores, tokens, truncated, parse_failures, losses"
            " FROM responses JOIN evaluations ON evaluations.id = evaluation"
            " WHERE split = :split AND (:only IS NULL OR recipe_hash = :only)"
            " AND (:parts IS NULL OR part < :parts) ORDER BY evaluation",
            {"split": split, "only": only, "parts": parts},
        )
        found: dict[str, dict[int, Response]] = {}
        for digest, *columns in rows:
            found.setdefault(digest, {}).update(as_responses(places, columns))
        return found

    def select(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a reader's own query."""
        return self._connection.execute(query).fetchall()

    def set_bank(self, task: str, content: bytes) -> None:
        """Keep a task's item bank (once, when the run begins)."""
        with self._transaction() as connection:
            connection.execute("INSERT INTO item_banks VALUES (?, ?)", (task, content))

    def banks(self) -> dict[str, bytes]:
        """Task -> the file of its item bank."""
        return dict(self._connection.execute("SELECT task, content FROM item_banks"))


def items_of(split: str) -> str:
    """The split whose items a split is judged on."""
    return "test" if split == AS_SEARCHED else split
