"""Responses of other models, which widen an item bank: CSV, or a bare npz.

CSV: a header `model,<item>,<item>,...`, then a line per model; an empty cell: not asked.
npz: `Y` or `responses` [models, items]; if given, `names` or `models` [models], `items` [items]
and `digests` [items]. A bank's own file is one, too.

An item is the index of its document: a whole number, or a text that ends in `#` and one
(`gsm8k-main-test-#17`). Without names models are numbered, without items they are the documents in
their order, from 0.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from fitness.bank_files import bank_of, read_arrays
from fitness.banks import ItemBank
from fitness.errors import FitnessError, one_line


def read_responses(path: Path, task: str = "") -> ItemBank:
    """Read how other models answered a task.

    Args:
        path: the file, ending in `.csv` or `.npz`.
        task: whose items they are.

    Raises:
        FitnessError: names the file and, where it can, the row and the column.
    """
    if path.suffix == ".csv":
        return _from_csv(path, task)
    if path.suffix == ".npz":
        return _from_npz(path, task)
    raise FitnessError(
        f"'{path}'", "responses are a .csv or an .npz file", "responses", "convert it to one"
    )


def _from_npz(path: Path, task: str) -> ItemBank:
    arrays = read_arrays(path, "write it with numpy.savez")
    matrix = next((arrays[name] for name in ("responses", "Y") if name in arrays), None)
    if matrix is None or matrix.dtype.kind not in "fiub" or matrix.ndim != 2:
        passed = "no array 'responses' or 'Y'"
        if matrix is not None:
            passed = f"responses of type {matrix.dtype} and shape {list(matrix.shape)}"
        raise FitnessError(
            passed, "a matrix of numbers [models, items] is needed", str(path), "add it"
        )
    rows, columns = matrix.shape
    names = next((arrays[name] for name in ("models", "names") if name in arrays), None)
    items = arrays["items"] if "items" in arrays else np.arange(columns)
    return bank_of(
        matrix.astype(np.float64),
        [f"model {r}" for r in range(rows)] if names is None else list(map(str, names.ravel())),
        [_index(str(item), f"{path}, items, column {c}") for c, item in enumerate(items.ravel())],
        [str(d) for d in arrays["digests"].ravel()] if "digests" in arrays else [""] * items.size,
        names=(task, str(arrays["metric"]) if "metric" in arrays else ""),
        where=str(path),
    )


def _from_csv(path: Path, task: str) -> ItemBank:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [(n, cells) for n, cells in enumerate(csv.reader(file), 1) if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        rule = f"it cannot be read ({one_line(error)})"
        raise FitnessError(f"'{path}'", rule, "responses", "give a CSV file in UTF-8") from None
    if len(lines) < 2:
        rule = "a header `model,<item>,<item>,...` and a line per model are needed"
        raise FitnessError(f"{len(lines)} line(s)", rule, str(path), "add what is missing")
    header, rows = lines[0][1], lines[1:]
    items = [_index(name, f"{path}, line 1, column {c}") for c, name in enumerate(header[1:], 2)]
    matrix = np.full((len(rows), len(items)), np.nan)
    for row, (line, cells) in enumerate(rows):
        where = f"{path}, line {line} (model '{cells[0]}')"
        if len(cells) != len(header):
            rule = f"the header has {len(header)}"
            raise FitnessError(f"{len(cells)} cells", rule, where, "give each item a cell")
        matrix[row] = [
            _score(cell, f"{where}, column {c + 2} (item {items[c]})")
            for c, cell in enumerate(cells[1:])
        ]
    models = [cells[0].strip() for _, cells in rows]
    return bank_of(matrix, models, items, [""] * len(items), names=(task, ""), where=str(path))


def _score(cell: str, where: str) -> float:
    """A cell's score; nan for an empty one."""
    if not cell.strip():
        return np.nan
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        rule = "a response is a number in [0, 1], or empty where the model was not asked"
        raise FitnessError(f"'{cell}'", rule, where, "scale the scores to [0, 1]")
    return value


def _index(name: str, where: str) -> int:
    """A document's index from an item's name."""
    digits = name.rpartition("#")[2].strip()
    if not (digits.isascii() and digits.isdigit()):
        rule = "an item is its document's index, a whole number, or a text that ends in # and one"
        raise FitnessError(f"item '{name}'", rule, where, "name the items by their indices, from 0")
    return int(digits)
