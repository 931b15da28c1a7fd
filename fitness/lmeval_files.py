"""Finding an lm-eval task: its YAML file, and where its local data lies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks._yaml_loader import load_yaml

from fitness.errors import FitnessError, nearest, one_line

LOADERS = ("json", "csv", "parquet", "arrow", "text", "xml")
"""Loaders of `datasets` that read local files; only their paths are relative to the YAML."""


def task_file(name: str, include: Path | None) -> Path:
    """The YAML file that declares task `name`: below `include`, or among lm-eval's own.

    lm-eval's `TaskManager` parses all of its 12,000 files to find one (30 s); files whose text
    does not declare the name are skipped here.

    Raises:
        FitnessError: no such folder or task, two of the name, a group, or a file that cannot be
            read.
    """
    if include is not None and not include.is_dir():
        raise FitnessError(
            f"include = {include}", "there is no such folder", f"task '{name}'", "correct the path"
        )
    root = include or Path(lm_eval.tasks.__file__).parent
    files = sorted(root.glob("**/*.yaml"), key=lambda file: file.as_posix())
    declares = re.compile(
        rf"^([\"']?(task|group|tag)\W+|\s*- [\"']?){re.escape(name)}[\"']?\s*(#.*)?$", re.M
    )
    if include is None:
        files = [file for file in files if declares.search(_text(file))]
    found: list[Path] = []
    for file in files:
        try:
            config = load_yaml(file, resolve_func=False)
        except Exception as error:  # any parser's error; lm-eval skips such files silently
            if name in _text(file):
                raise refused(name, f"file {file}", error) from error
            continue
        if config.get("group") == name or name in _tags(config):
            raise FitnessError(
                f"'{name}'", "it is a group of tasks", f"file {file}", "name its tasks one by one"
            )
        found += [file] * (config.get("task") == name)
    if len(found) == 1 or (found and include is None):
        return found[0]
    if found:
        raise FitnessError(
            f"task '{name}'", f"declared by {found[0]} and {found[1]}", str(root), "rename one"
        )
    raise FitnessError(f"task '{name}'", "unknown", str(root), nearest(name, _declared(root)))


def _tags(config: dict[str, Any]) -> list[str]:
    tags = config.get("tag") or []
    return tags if isinstance(tags, list) else [tags]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _declared(root: Path) -> set[str]:
    pattern = re.compile(r"^[\"']?task[\"']?\s*:\s*[\"']?([\w.+-]+)[\"']?\s*(?:#.*)?$", re.M)
    return {name for file in root.glob("**/*.yaml") for name in pattern.findall(_text(file))}


def with_absolute_paths(config: dict[str, Any], file: Path, name: str) -> dict[str, Any]:
    """The task's configuration with local data paths made relative to its YAML, not to the cwd.

    Raises:
        FitnessError: a data file that does not exist or is empty.
    """
    config = dict(config)
    path = str(config.get("dataset_path", ""))
    if path.startswith(("./", "../")):
        config["dataset_path"] = str((_declaring(file, "dataset_path") / path).resolve())
    if path not in LOADERS:
        return config
    options = dict(config.get("dataset_kwargs") or {})
    folder = _declaring(file, "dataset_kwargs").resolve() / (options.get("data_dir") or "")
    if "data_dir" in options:
        options["data_dir"] = str(folder)
    if "data_files" in options:
        options["data_files"] = _absolute(options["data_files"], folder, name)
    return config | {"dataset_kwargs": options}


def _declaring(file: Path, key: str) -> Path:
    """Folder of the YAML that sets `key`: `file` itself, or the last of its includes that does."""
    config = load_yaml(file, resolve_func=False, recursive=False)
    includes = config.get("include") or []
    for include in reversed(includes if isinstance(includes, list) else [includes]):
        if key not in config and key in load_yaml(file.parent / include, resolve_func=False):
            return _declaring(file.parent / include, key)
    return file.parent


def _absolute(value: Any, folder: Path, task: str) -> Any:
    """`data_files` (a path, a list, or one of these by split) with every path absolute."""
    if isinstance(value, dict):
        return {split: _absolute(paths, folder, task) for split, paths in value.items()}
    if isinstance(value, list):
        return [_absolute(path, folder, task) for path in value]
    if "://" in value:
        return value
    path = folder / value
    if not set(value) & set("*?["):
        if not path.is_file():
            raise FitnessError(
                f"data file '{value}'",
                f"there is no file {path}",
                f"task '{task}'",
                "correct the path: it is relative to the task's YAML",
            )
        if path.stat().st_size < 4096 and not path.read_bytes().strip():
            raise without_items(task, path)
    return str(path)


def refused(task: str, where: str, error: BaseException) -> FitnessError:
    """An error for what lm-eval or the task's code refuses, with its message on one line."""
    return FitnessError(
        f"task '{task}'", f"lm-eval refuses it: {one_line(error)}", where, "correct the task"
    )


def without_items(task: str, where: object) -> FitnessError:
    """An error for a task that has no documents."""
    return FitnessError(f"task '{task}'", "a task without items", str(where), "add documents to it")
