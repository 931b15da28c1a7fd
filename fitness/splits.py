"""Disjoint sets of items: to search on, to select on, to report on."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fitness.errors import FitnessError


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """Items per task for each purpose.

    Attributes:
        search: items candidates are scored on during the search, at least 1.
        selection: items the winner is chosen on.
        test: items the winner is reported on, never seen before; None is all the rest.
    """

    search: int
    selection: int = 0
    test: int | None = None


@dataclass(frozen=True, slots=True)
class Splits:
    """Item indices of one task, disjoint, in random order: any prefix is a random subset."""

    search: tuple[int, ...]
    selection: tuple[int, ...]
    test: tuple[int, ...]


def split_items(total: int, sizes: SplitSizes, seed: int, task: str) -> Splits:
    """Deal a task's items 0 .. `total` - 1 to the three splits.

    The order is keyed by seed and task name alone: it depends neither on other tasks nor on the
    process. Search items come from its front and the others from its back, so more search items
    leave the selection items as they were.

    Raises:
        FitnessError: sizes that make no sense, or fewer items than asked for.
    """
    _check(sizes, task)
    asked = sizes.search + sizes.selection + (1 if sizes.test is None else sizes.test)
    if total < asked:
        rest = "at least 1" if sizes.test is None else sizes.test
        raise FitnessError(
            f"{asked} items (search {sizes.search}, selection {sizes.selection}, test {rest})",
            f"the task has {total}",
            f"task '{task}'",
            "ask for fewer, or add items to the task",
        )
    order = list(range(total))
    # A string seed goes through SHA-512, so it does not depend on Python's hash seed.
    random.Random(f"{seed}/{task}").shuffle(order)
    back = total - sizes.selection
    front = sizes.search if sizes.test is None else back - sizes.test
    return Splits(tuple(order[: sizes.search]), tuple(order[back:]), tuple(order[front:back]))


def _check(sizes: SplitSizes, task: str) -> None:
    wrong = sizes.search < 1 or sizes.selection < 0 or (sizes.test is not None and sizes.test < 0)
    if wrong:
        raise FitnessError(
            f"search = {sizes.search}, selection = {sizes.selection}, test = {sizes.test}",
            "search needs at least 1 item, the others at least 0",
            f"task '{task}'",
            "correct the sizes",
        )
