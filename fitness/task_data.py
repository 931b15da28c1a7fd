"""Which local files a task reads besides lm-eval's own: what another machine needs to ask it too."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.tasks._yaml_loader import load_yaml

from fitness.lmeval_files import LOADERS, task_file, with_absolute_paths


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """Local files that a task names, all of them absolute paths.

    Attributes:
        relative: the task's YAML files, and data they name relative to themselves: these move with
            the YAML files.
        fixed: data they name by an absolute path: a copy elsewhere would not be found.
    """

    relative: tuple[Path, ...]
    fixed: tuple[Path, ...]


def task_files(name: str, include: Path) -> TaskFiles:
    """The files that task `name` of the folder `include` names, also outside of that folder.

    Python files that a YAML refers to with `!function` lie beside it and are not listed.

    Args:
        name: the task's.
        include: folder of the user's own task files, absolute, links resolved.

    Raises:
        FitnessError: as `task_file`, or a data file that does not exist.
    """
    file = task_file(name, include)
    config = load_yaml(file, resolve_func=False)
    whole = with_absolute_paths(config, file, name)
    relative, fixed = list(_declared_in(file)), list[Path]()
    path = str(config.get("dataset_path", ""))
    if path.startswith(("./", "../")):
        relative += _files_at(str(whole["dataset_path"]))
    if path in LOADERS:
        written = config.get("dataset_kwargs") or {}
        meant = whole["dataset_kwargs"]
        stays = Path(written.get("data_dir") or "").is_absolute()
        if "data_dir" in written and "data_files" not in written:
            (fixed if stays else relative).extend(_files_at(meant["data_dir"]))
        pairs = zip(
            _strings(written.get("data_files")), _strings(meant.get("data_files")), strict=True
        )
        for given, absolute in pairs:
            if "://" not in given:
                own = stays or Path(given).is_absolute()
                (fixed if own else relative).extend(_files_at(absolute))
    return TaskFiles(tuple(dict.fromkeys(relative)), tuple(dict.fromkeys(fixed)))


def _declared_in(file: Path) -> Iterator[Path]:
    """A task's YAML file and those it includes, and so on."""
    yield file
    includes = load_yaml(file, resolve_func=False, recursive=False).get("include") or []
    for include in includes if isinstance(includes, list) else [includes]:
        yield from _declared_in(Path(os.path.normpath(file.parent / include)))


def _strings(value: Any) -> list[str]:
    """`data_files` (a path, a list, or one of these by split) as one list."""
    if value is None or isinstance(value, str):
        return [value] if value else []
    parts = value.values() if isinstance(value, dict) else value
    return [path for part in parts for path in _strings(part)]


def _files_at(pattern: str) -> list[Path]:
    """The files of a path: itself, all below a folder, or those that a pattern finds."""
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    nested = [sorted(p.rglob("*")) if p.is_dir() else [p] for p in found]
    return [Path(os.path.normpath(p)) for paths in nested for p in paths if p.is_file()]
