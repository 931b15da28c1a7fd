"""A shipment: all the local files an evaluator needs, so that it can be built on any node.

Sources are parcels of their own, so that runs share what they have in common. The run file's task
folders, the data that the tasks name and the custom objectives' files are one more parcel, laid out
as on the driver's machine, so that paths from one to the other stay right.

Not shipped: what evomerge does not read (pickled and quantised formats, a second copy of the weights),
Python packages, and data sets of the Hub.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.cluster.delivery import Fetch, fetched
from evomerge.cluster.parcels import Parcel
from evomerge.config import RunFile
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.merge.locations import Location

_BESIDE_WEIGHTS = (".json", ".txt", ".model", ".jinja")
_TEMPLATES = "additional_chat_templates"
_NO_TASK = (
    ".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".onnx", ".pyc", ".db", ".db-wal", ".db-shm",
)  # fmt: skip
"""Files that are left behind where a task's folder also holds models or runs."""


@dataclass(frozen=True)
class Shipment:
    """What to bring to a node. Plain data, of the driver's machine.

    Attributes:
        folder: what the run file's relative paths are relative to.
        sources: by source name, the model's parcel and its adapter's.
        tasks: everything that the run file's tasks and objectives read.
        fixed: data that tasks name by absolute paths: it has to be there.
        functions: reference of an objective in an installed module -> SHA-256 of its file.
        code: the models' own Python files go along (`engine.trust_remote_code`).
    """

    folder: str
    sources: Mapping[str, tuple[Parcel, ...]]
    tasks: Parcel
    fixed: Parcel
    functions: Mapping[str, str]
    code: bool = False

    @classmethod
    def of(cls, config: RunFile, folder: Path, folders: Mapping[str, Location]) -> Shipment:
        """List and hash what a run needs.

        Args:
            config: the run file.
            folder: what its relative paths are relative to, absolute.
            folders: source name -> where it lies.

        Raises:
            FitnessError: a task or an objective's file that is not there.
            OSError: a file cannot be read.
        """
        from fitness.functions import function_digest
        from fitness.task_data import task_files

        code = config.engine.trust_remote_code
        sources = {
            name: tuple(Parcel.of(place, model_files(place, code)) for place in at.folders)
            for name, at in folders.items()
        }
        needed: list[Path] = []
        fixed: list[Path] = []
        tops = {folder}
        for task, include in _includes(config, folder):
            named = task_files(task, include)
            needed += (*_task_folder(include), *named.relative)
            fixed += named.fixed
            tops.add(include)
        modules: dict[str, str] = {}
        for reference in _functions(config):
            digest = function_digest(reference, folder)
            file = _file_of(reference, folder)
            if file is None:
                modules[reference] = digest
            else:
                needed.append(file)
                tops.add(file.parent)
        root = Path(os.path.commonpath([*tops, *(path.parent for path in needed)]))
        tasks = Parcel.of(root, needed, tops)
        return cls(str(folder), sources, tasks, Parcel.of(Path("/"), fixed), modules, code)

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 -> absolute path on the driver's machine: what a depot hands out."""
        parcels = [self.tasks, *(parcel for parcels in self.sources.values() for parcel in parcels)]
        return {f.digest: str(Path(p.folder) / f.path) for p in parcels for f in p.files}

    def unpacked(
        self, config: RunFile, fetch: Fetch | None
    ) -> tuple[RunFile, Path, dict[str, Location]]:
        """Make sure that this node has everything.

        Args:
            config: the run file.
            fetch: brings files from the driver's node; None where it cannot be reached.

        Returns:
            On this node: the run file with its paths, what its relative paths are relative to, and
            source name -> where it lies.

        Raises:
            InputError: a file is needed and cannot be had, the disk is full, something arrives
                damaged, or this node has other code.
        """
        from evomerge.merge.locations import Location

        self._check_node()
        places: dict[str, Location] = {}
        for name, parcels in self.sources.items():
            places[name] = Location(*(self._model(parcel, fetch) for parcel in parcels))
        if self.tasks.lies_in(Path(self.tasks.folder)):
            return config, Path(self.folder), places
        root = fetched(self.tasks, fetch)
        here = _Elsewhere(Path(self.folder), Path(self.tasks.folder), root)
        return here.config(config), here.path(Path(self.folder)), places

    def _model(self, parcel: Parcel, fetch: Fetch | None) -> Path:
        """A source's folder: the driver's path, if a loader finds the same there."""
        own = Path(parcel.folder)
        names = {file.path for file in parcel.files}
        if parcel.lies_in(own):
            # Another file may win over those that are alike: model.safetensors over its shards.
            found = {path.relative_to(own).as_posix() for path in model_files(own, self.code)}
            if found == names:
                return own
        return fetched(parcel, fetch)

    def _check_node(self) -> None:
        """Refuse a node where what cannot be shipped differs."""
        from fitness.functions import function_digest

        for reference, digest in self.functions.items():
            if function_digest(reference, Path(self.folder)) != digest:
                raise InputError(
                    f"objective {reference}",
                    "its module differs from the driver's",
                    f"node {platform.node()}",
                    "install the same version on every node, or name a file: path/to/file.py:name",
                )
        if not self.fixed.lies_in(Path(self.fixed.folder)):
            raise InputError(
                f"data files {', '.join('/' + file.path for file in self.fixed.files)}",
                "a task names them by absolute paths, and here they are missing or differ",
                f"node {platform.node()}",
                "name them relative to the task's YAML, or put them there on every node",
            )


@dataclass(frozen=True)
class _Elsewhere:
    """The driver's paths below `old`, on a node that has them below `new`."""

    folder: Path
    old: Path
    new: Path

    def path(self, path: Path) -> Path:
        """Where a path of the driver's lies here."""
        return self.new / path.relative_to(self.old)

    def config(self, config: RunFile) -> RunFile:
        """The run file with the paths of its task folders and of its objectives' files."""
        fitness = config.fitness
        update = {
            "include": self._include(fitness.include),
            "tasks": {
                name: task.model_copy(update={"include": self._include(task.include)})
                for name, task in fitness.tasks.items()
            },
            "objectives": [
                o.model_copy(update={"function": self._function(o.function)})
                for o in fitness.objectives
            ],
        }
        return config.model_copy(update={"fitness": fitness.model_copy(update=update)})

    def _include(self, include: str | None) -> str | None:
        return str(self.path((self.folder / include).resolve())) if include else include

    def _function(self, reference: str | None) -> str | None:
        file = _file_of(reference, self.folder) if reference else None
        if reference is None or file is None:
            return reference
        return f"{self.path(file)}:{reference.rpartition(':')[2]}"


def model_files(folder: Path, code: bool = False) -> list[Path]:
    """What evomerge reads of a model's or an adapter's folder, weights as its loader picks them.

    Args:
        folder: as a Hugging Face folder is laid out.
        code: Python files, too.
    """
    from evomerge.merge.checkpoint import INDEX, SINGLE
    from evomerge.merge.files import read_json
    from evomerge.merge.lora import WEIGHTS

    kinds = (*_BESIDE_WEIGHTS, ".py") if code else _BESIDE_WEIGHTS
    files = [p for p in sorted(folder.iterdir()) if p.suffix in kinds and p.is_file()]
    files += sorted((folder / _TEMPLATES).glob("*.jinja"))
    files += [folder / name for name in (WEIGHTS, SINGLE) if (folder / name).is_file()]
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        shards = read_json(folder / INDEX, str(folder)).get("weight_map", {})
        files += [folder / shard for shard in sorted(set(shards.values()))]
    return files


def _task_folder(include: Path) -> Iterator[Path]:
    """Every file of a folder of tasks, but nothing hidden, no models and no runs."""
    for path, folders, names in os.walk(include):
        kept = [f for f in folders if not f.startswith((".", "__")) and not _is_run(path, f)]
        folders[:] = sorted(kept)
        for name in sorted(names):
            file = Path(path, name)
            if not name.startswith(".") and not name.endswith(_NO_TASK) and file.is_file():
                yield file


def _is_run(path: str, folder: str) -> bool:
    return Path(path, folder, "run.db").is_file()


def _includes(config: RunFile, folder: Path) -> Iterator[tuple[str, Path]]:
    """Tasks that are the user's own, with their folders, links resolved."""
    for name, task in config.fitness.tasks.items():
        include = task.include or config.fitness.include
        if include:
            yield name, (folder / include).resolve()


def _functions(config: RunFile) -> Iterable[str]:
    return [o.function for o in config.fitness.objectives if o.function]


def _file_of(reference: str, folder: Path) -> Path | None:
    """The file of a custom objective that is given by a path."""
    place = reference.rpartition(":")[0]
    return Path(os.path.normpath(folder / place)) if place.endswith(".py") else None
