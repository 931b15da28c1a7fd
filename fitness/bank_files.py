"""Item banks on disk, and matched to a run's items.

A bank is one file per task, `TASK.npz` (format version 1): a zip of NumPy arrays, never pickled.

| array | type and shape | meaning |
|---|---|---|
| `version` | integer, () | 1 |
| `task` | text, () | the task's name |
| `metric` | text, () | the metric that scored the responses; "" where not known |
| `origin` | text, () | what the models were made from (a hash); "" where not known |
| `models` | text, [models] | names, each once |
| `items` | integer, [items] | indices among the task's documents, each once |
| `digests` | text, [items] | `Item.digest` of each item; "" where not known |
| `responses` | float64, [models, items] | scores in [0, 1]; nan where a model was not asked |

For users: `docs/item_banks.md`.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitness.banks import ItemBank
from fitness.errors import FitnessError, one_line
from fitness.items import Item

VERSION = 1

_KINDS = {
    "task": ("U", "text", 0),
    "metric": ("U", "text", 0),
    "origin": ("U", "text", 0),
    "models": ("U", "text", 1),
    "items": ("iu", "whole numbers", 1),
    "digests": ("U", "text", 1),
    "responses": ("f", "floating-point numbers", 2),
}
"""Array -> its NumPy kinds, what they are called, its number of axes."""

_AGAIN = "write it again with 'evomerge calibrate'"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, MemoryError)
"""What NumPy and zipfile raise for a file that is none of theirs, or is cut off."""

Arrays = Mapping[str, NDArray[Any]]


def bank_file(folder: Path, task: str) -> Path:
    """Where the bank of a task lies in a folder of banks."""
    return folder / f"{task.replace('/', '_')}.npz"


def write_bank(path: Path, bank: ItemBank, origin: str = "") -> None:
    """Write a bank: whole or not at all, equal banks as equal bytes.

    Args:
        path: the file, ending in `.npz`; its folder is made if it is not there.
        bank: what to write.
        origin: what its models were made from, to know them again (`read_origin`).

    Raises:
        FitnessError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                version=np.array(VERSION),
                task=np.array(bank.task),
                metric=np.array(bank.metric),
                origin=np.array(origin),
                models=np.array(bank.models),
                items=np.array(bank.items, dtype=np.int64),
                digests=np.array(bank.digests),
                responses=bank.responses,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise FitnessError(
            f"'{path}'",
            f"it cannot be written ({error})",
            "item bank",
            "choose a folder on a disk with space and write permission",
        ) from None


def read_bank(path: Path) -> ItemBank:
    """Read a bank that `write_bank` wrote.

    Raises:
        FitnessError: no such file, one that is cut off or is no bank, another format version, an
            array that is missing or of another type, shapes that disagree, values outside [0, 1].
    """
    arrays = _checked(path)
    return bank_of(
        arrays["responses"],
        arrays["models"].tolist(),
        arrays["items"].tolist(),
        arrays["digests"].tolist(),
        names=(str(arrays["task"]), str(arrays["metric"])),
        where=str(path),
    )


def read_origin(path: Path) -> str:
    """What the models of a bank's file were made from; "" where not known.

    Raises:
        FitnessError: as `read_bank`, but for the content of the arrays.
    """
    return str(_checked(path)["origin"])


def join_banks(bank: ItemBank, other: ItemBank, without: Collection[str] = ()) -> ItemBank:
    """`bank` with the models of `other` as further rows.

    The items stay those of `bank`: what `other` knows of further items is left out, and what it
    does not know is nan. A model in both keeps the row that `bank` has.

    Args:
        bank: what to widen.
        other: of the same task.
        without: models of `other` to leave out.

    Raises:
        FitnessError: no item in common, another task or metric, an item whose text differs.
    """
    where = f"task '{bank.task}'"
    _same("task", bank.task, other.task, where)
    _same("metric", bank.metric, other.metric, where)
    position = {item: p for p, item in enumerate(other.items)}
    shared = [c for c, item in enumerate(bank.items) if item in position]
    if not shared:
        raise FitnessError(
            f"responses to items {_few(other.items)}",
            f"none of them is among the bank's {len(bank)} items ({_few(bank.items)})",
            where,
            "number the items by their documents' indices, from 0",
        )
    columns = [position[bank.items[c]] for c in shared]
    _same_texts(
        [bank.items[c] for c in shared],
        [bank.digests[c] for c in shared],
        [other.digests[p] for p in columns],
        where,
    )
    rows = np.full((len(other.models), len(bank)), np.nan)
    rows[:, shared] = other.responses[:, columns]
    known = {*bank.models, *without}
    new = [r for r, m in enumerate(other.models) if m not in known and not np.isnan(rows[r]).all()]
    return replace(
        bank,
        responses=np.concatenate([bank.responses, rows[new]]),
        models=(*bank.models, *(other.models[r] for r in new)),
    )


def match_bank(bank: ItemBank, items: Sequence[Item], metric: str = "") -> ItemBank:
    """The bank's columns for exactly these items, in their order.

    An item is known by its index and its digest; a digest that is "" in the bank is trusted.

    Args:
        bank: as read.
        items: of one task, at least one.
        metric: that scores them; "": not compared.

    Raises:
        FitnessError: a bank of another task or metric, items that it lacks or whose text changed.
    """
    task = items[0].task
    where = f"item bank of task '{task}'"
    remedy = "calibrate again: 'evomerge calibrate RUN.yaml', into another folder"
    _same("task", task, bank.task, where, remedy)
    _same("metric", metric, bank.metric, where, remedy)
    position = {item: p for p, item in enumerate(bank.items)}
    lacking = [item.index for item in items if item.index not in position]
    if lacking:
        raise FitnessError(
            f"items {_few(lacking)}",
            f"the bank has no responses to {len(lacking)} of the run's {len(items)} items",
            where,
            remedy,
        )
    columns = [position[item.index] for item in items]
    _same_texts(
        [item.index for item in items],
        [item.digest for item in items],
        [bank.digests[p] for p in columns],
        where,
        remedy,
    )
    found = bank.subset(columns)
    return replace(found, task=task, digests=tuple(item.digest for item in items))


def _checked(path: Path) -> Arrays:
    """A bank file's arrays, their types as the format says."""
    arrays = read_arrays(path, _AGAIN)
    if "version" not in arrays:
        raise FitnessError(
            "no array 'version'",
            "an item bank has one",
            str(path),
            "import bare matrices with 'evomerge calibrate RUN.yaml --responses TASK=FILE'",
        )
    found = arrays["version"]
    if found.ndim or found.dtype.kind not in "iu" or int(found) != VERSION:
        raise FitnessError(
            f"format version {found.tolist()!r}",
            f"this evomerge reads version {VERSION}",
            str(path),
            "use the evomerge that wrote it, or " + _AGAIN,
        )
    for name, (kinds, called, axes) in _KINDS.items():
        if name not in arrays:
            raise FitnessError(f"no array '{name}'", "an item bank has one", str(path), _AGAIN)
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != axes:
            raise FitnessError(
                f"array '{name}' of type {array.dtype} with {array.ndim} axes",
                f"it holds {called} on {axes} axes",
                str(path),
                _AGAIN,
            )
    return arrays


def read_arrays(path: Path, remedy: str) -> Arrays:
    """Every array of an npz file.

    Args:
        path: the file.
        remedy: what to do about a file that is none.

    Raises:
        FitnessError: no such file, one that is cut off, pickled objects.
    """
    name = ""
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with opened as archive:
            found: dict[str, NDArray[Any]] = {}
            for name in archive.files:
                found[name] = archive[name]
            return found
    except FileNotFoundError:
        raise FitnessError(f"'{path}'", "there is no such file", "item bank", remedy) from None
    except _BROKEN as error:
        if "Object arrays" in str(error):
            passed, rule = f"array '{name}'", "it holds Python objects, which are never unpickled"
            raise FitnessError(passed, rule, str(path), "store numbers and texts") from None
        what = f"array '{name}'" if name else "the file"
        rule = f"it is cut off, or no npz ({one_line(error)})"
        raise FitnessError(what, rule, str(path), remedy) from None


def bank_of(
    responses: NDArray[Any],
    models: Sequence[str],
    items: Sequence[int],
    digests: Sequence[str],
    *,
    names: tuple[str, str],
    where: str,
) -> ItemBank:
    """An `ItemBank` whose errors name the file it comes from; `names`: task and metric."""
    try:
        return ItemBank(responses, tuple(models), tuple(items), tuple(digests), *names)
    except FitnessError as error:
        raise FitnessError(error.passed, error.rule, where, error.remedy) from None


def _same(
    what: str, wanted: str, found: str, where: str, remedy: str = "give the right file"
) -> None:
    """Refuse two names that differ; "" is not known, and agrees with any."""
    if wanted and found and wanted != found:
        raise FitnessError(f"{what} '{found}'", f"{what} '{wanted}' is needed", where, remedy)


def _same_texts(
    items: Sequence[int],
    wanted: Sequence[str],
    found: Sequence[str],
    where: str,
    remedy: str = "give responses to the items as they are now",
) -> None:
    both = zip(items, wanted, found, strict=True)
    changed = [item for item, now, then in both if now and then and now != then]
    if changed:
        raise FitnessError(
            f"items {_few(changed)}",
            "their text or scoring is not what the models answered (another digest)",
            where,
            remedy,
        )


def _few(items: Sequence[int]) -> str:
    """The first few indices."""
    return ", ".join(map(str, items[:5])) + (", …" if len(items) > 5 else "")
