"""Item banks: how known models answered a task's items, which is what few answers are read by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitness.errors import FitnessError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ItemBank:
    """The responses of calibration models to a pool of items.

    What an estimator estimates is a model's mean score over all items of the pool.

    Attributes:
        responses: [models, items], scores in [0, 1], greater is better; nan where a model was not
            asked. Read-only.
        models: names of the calibration models, each once.
        items: the items' indices among the task's documents, each once.
        digests: the items' digests (`Item.digest`), as `items`; "" where not known.
        task: the task's name.
        metric: the metric that scored the responses; "" where not known.

    Raises:
        FitnessError: a matrix of another shape, values outside [0, 1], an item or a model that
            nobody was asked about, names given twice.
    """

    responses: Array
    models: tuple[str, ...]
    items: tuple[int, ...]
    digests: tuple[str, ...]
    task: str = ""
    metric: str = ""

    def __post_init__(self) -> None:
        matrix = np.array(self.responses, dtype=np.float64)
        _check(matrix, self)
        matrix.flags.writeable = False
        object.__setattr__(self, "responses", matrix)

    @classmethod
    def of(cls, responses: ArrayLike, models: Sequence[str] = (), task: str = "") -> ItemBank:
        """A bank of a bare matrix [models, items]: items are numbered, models too unless named."""
        matrix = np.array(responses, dtype=np.float64)
        rows, columns = matrix.shape if matrix.ndim == 2 else (0, 0)
        names = tuple(models) or tuple(f"model {row}" for row in range(rows))
        return cls(matrix, names, tuple(range(columns)), ("",) * columns, task)

    def __len__(self) -> int:
        """The number of items."""
        return len(self.items)

    def subset(self, positions: Sequence[int]) -> ItemBank:
        """The bank of the items at these positions, in their order; models nobody asked there go."""
        chosen = list(positions)
        matrix = self.responses[:, chosen]
        asked = [bool(count) for count in np.count_nonzero(~np.isnan(matrix), axis=1)]
        return ItemBank(
            matrix[asked],
            tuple(name for name, keep in zip(self.models, asked, strict=True) if keep),
            tuple(self.items[p] for p in chosen),
            tuple(self.digests[p] for p in chosen),
            self.task,
            self.metric,
        )


def _check(matrix: Array, bank: ItemBank) -> None:
    where = f"task '{bank.task}'" if bank.task else "item bank"
    shape = (len(bank.models), len(bank.items))
    if matrix.ndim != 2 or matrix.shape != shape or 0 in shape or len(bank.digests) != shape[1]:
        raise FitnessError(
            f"responses of shape {list(matrix.shape)}",
            f"it has to be [models, items] = {list(shape)}, at least one of each",
            where,
            "transpose or correct the matrix",
        )
    for name, values in (("model", bank.models), ("item", bank.items)):
        if len(set(values)) != len(values):
            twice = next(v for v in values if values.count(v) > 1)
            raise FitnessError(
                f"{name} {twice!r}",
                "it is there twice",
                where,
                f"keep one row or column per {name}",
            )
    wrong = np.argwhere(~np.isnan(matrix) & ~((matrix >= 0) & (matrix <= 1)))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise FitnessError(
            f"response {matrix[row, column]:g} of model '{bank.models[row]}' to item "
            f"{bank.items[column]}",
            "a response is a score in [0, 1], or nan where the model was not asked",
            where,
            "scale the scores to [0, 1]",
        )
    for axis, name, values in ((1, "model", bank.models), (0, "item", bank.items)):
        empty = np.flatnonzero(np.isnan(matrix).all(axis=axis))
        if len(empty):
            raise FitnessError(
                f"{name} {values[int(empty[0])]!r}",
                "it has no response at all",
                where,
                f"leave the {name} out",
            )
