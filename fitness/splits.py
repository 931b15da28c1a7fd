"""Disjoint sets of items: to search on, to select on, to report on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fitness.errors import FitnessError

SEARCH, SELECTION, TEST = range(3)


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """Items per task for each purpose.

    Attributes:
        search: items candidates are scored on during the search, at least 1.
        selection: items the winner is chosen on.
        test: items the winner is reported on, never seen before; None is all the rest (at least 1).
    """

    search: int
    selection: int = 0
    test: int | None = None

    @property
    def least(self) -> tuple[int, int, int]:
        """The items needed for search, selection and test."""
        return self.search, self.selection, 1 if self.test is None else self.test


@dataclass(frozen=True, slots=True)
class Splits:
    """Item positions of one task, disjoint, in random order: any prefix is a random subset."""

    search: tuple[int, ...]
    selection: tuple[int, ...]
    test: tuple[int, ...]


def deal(
    questions: Mapping[str, Sequence[str]], sizes: Mapping[str, SplitSizes], seed: int
) -> dict[str, Splits]:
    """Deal every task's items to the three splits, so that no question is in two of them.

    A question that several items ask, of one task or of many, is searched on, selected on or tested
    on, the same for all. An item's rank is a hash of seed and question, so equal questions have
    equal ranks everywhere; search items come from the front of that order and the others from its
    back. The tasks with the fewest items to spare are served first; an item whose question already
    lies in another split is left out of its task's splits. All the rest (`test` = None) are given
    out at the end, so they take no question that another task needs.

    The result depends neither on the order of the tasks nor on the process. As long as there is
    room, more search items of a task leave its selection items as they were, unless a question it
    shares with another task changes its split.

    Args:
        questions: by task, what each item asks (`TaskSet.questions`).
        sizes: by task.
        seed: another seed deals otherwise.

    Returns:
        By task, positions in its `questions`.

    Raises:
        FitnessError: sizes that make no sense, or fewer items than asked for.
    """
    for task in questions:
        _check(sizes[task], task)
    spare = {task: len(asked) - sum(sizes[task].least) for task, asked in questions.items()}
    orders = {task: _order(asked, seed) for task, asked in questions.items()}
    homes: dict[str, int] = {}
    dealt: dict[str, tuple[list[int], list[int], list[int]]] = {}
    for task in sorted(questions, key=lambda task: (spare[task], task)):
        asked, order, least = questions[task], orders[task], sizes[task].least
        back = order[::-1]
        search = _take(order, asked, homes, SEARCH, least[SEARCH])
        selection = _take(back, asked, homes, SELECTION, least[SELECTION])
        test = _take(back, asked, homes, TEST, least[TEST])
        dealt[task] = search, selection, test
        if [len(part) for part in dealt[task]] != list(least):
            raise _too_few(task, sizes[task], len(asked))
    for task, asked in questions.items():
        if sizes[task].test is None:
            rest = _take(orders[task][::-1], asked, homes, TEST, len(asked))
            dealt[task][TEST][:] = rest
    return {task: Splits(*map(tuple, dealt[task])) for task in questions}


def _order(questions: Sequence[str], seed: int) -> list[int]:
    """Positions in the order of their questions' hashes."""

    def rank(position: int) -> tuple[bytes, int]:
        text = f"{seed}/{questions[position]}".encode(errors="surrogatepass")
        return hashlib.sha256(text).digest(), position

    return sorted(range(len(questions)), key=rank)


def _take(
    order: Iterable[int], questions: Sequence[str], homes: dict[str, int], split: int, count: int
) -> list[int]:
    """The first `count` positions whose question lies in `split` or, until now, nowhere."""
    taken: list[int] = []
    for position in order:
        if len(taken) == count:
            break
        if homes.setdefault(questions[position], split) == split:
            taken.append(position)
    return taken


def _too_few(task: str, sizes: SplitSizes, total: int) -> FitnessError:
    search, selection, test = sizes.least
    least = "at least 1" if sizes.test is None else test
    shared = total >= search + selection + test
    rule = ", but some ask what another item is searched, selected or tested on" if shared else ""
    return FitnessError(
        f"{search + selection + test} items (search {search}, selection {selection}, test {least})",
        f"the task has {total}{rule}",
        f"task '{task}'",
        "ask for fewer, or add items to the task",
    )


def _check(sizes: SplitSizes, task: str) -> None:
    # NaN passes every comparison below, so whole numbers are asked for first.
    whole = all(type(size) is int for size in sizes.least)
    if not whole or sizes.search < 1 or min(sizes.least) < 0:
        raise FitnessError(
            f"search = {sizes.search}, selection = {sizes.selection}, test = {sizes.test}",
            "they are whole numbers, search at least 1, the others at least 0",
            f"task '{task}'",
            "correct the sizes",
        )
