"""A run's item banks: read and held against the tasks, and what is chosen and estimated by them."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evomerge.asking import Rungs
from evomerge.config import RunFile
from evomerge.runs.database import Database
from evomerge.search.race import Reselect, Rules, rungs_of
from fitness.bank_files import bank_file, match_bank, read_bank, write_bank
from fitness.banks import ItemBank
from fitness.errors import FitnessError, nearest
from fitness.estimate import Estimate
from fitness.estimators import Chosen, build_estimator, choose_estimator
from fitness.item_selection import SELECTIONS, select_items
from fitness.items import Item, Response
from fitness.objectives import TaskEstimator
from fitness.tasks import TaskSet
from search_spaces.errors import InputError

Banks = Mapping[str, ItemBank]
"""Task -> the bank of the run's search items, in their order."""


def load_banks(
    config: RunFile, folder: Path, tasks: TaskSet, searched: Sequence[Item]
) -> dict[str, ItemBank]:
    """The banks that the run file names, held against its search items.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.
        tasks: compiled.
        searched: the search items.

    Raises:
        InputError: no bank of a task, or none at all where something else needs one.
        FitnessError: a broken bank, one of another version of the task.
    """
    if config.fitness.bank is None:
        _require_none_needed(config)
        return {}
    place = folder / config.fitness.bank
    found: dict[str, ItemBank] = {}
    for task in tasks.names:
        path = bank_file(place, task)
        if not path.is_file():
            raise InputError(
                f"fitness.bank '{config.fitness.bank}'",
                f"it holds no item bank of task '{task}'",
                str(path),
                "make it with 'evomerge calibrate RUN.yaml', or leave `fitness.bank` out",
            )
        items = [item for item in searched if item.task == task]
        found[task] = match_bank(read_bank(path), items, tasks.metric(task))
    return found


def _require_none_needed(config: RunFile) -> None:
    fitness = config.fitness
    needs = {
        "fitness.estimator": fitness.estimator if fitness.estimator not in ("auto", "mean") else "",
        "fitness.racing.select": fitness.racing.select
        if fitness.racing.select not in ("auto", "random")
        else "",
        "fitness.racing.reselect": fitness.racing.reselect or "",
    }
    for key, value in needs.items():
        if value:
            raise InputError(
                f"'{value}'",
                "it reads item banks, and the run file names none",
                key,
                "run 'evomerge calibrate RUN.yaml' and set `fitness.bank: banks`",
            )


def packed(bank: ItemBank) -> bytes:
    """A bank as its file's content."""
    with tempfile.TemporaryDirectory() as name:
        path = bank_file(Path(name), bank.task)
        write_bank(path, bank)
        return path.read_bytes()


def unpacked(task: str, content: bytes) -> ItemBank:
    """The bank in a file's content."""
    with tempfile.TemporaryDirectory() as name:
        path = bank_file(Path(name), task)
        path.write_bytes(content)
        return read_bank(path)


def chosen_estimators(config: RunFile, banks: Banks) -> dict[str, Chosen]:
    """By task with a bank, the estimator of its score, and why if it is not the one asked for.

    Raises:
        FitnessError: there is no such estimator.
    """
    sources = config.models.sources
    return {
        task: choose_estimator(config.fitness.estimator, bank, parents=_parents(sources, bank))
        for task, bank in banks.items()
    }


def task_estimators(config: RunFile, banks: Banks) -> dict[str, TaskEstimator]:
    """By task with a bank, the function from responses to search items to the score of all."""
    return {
        task: _BankReader(chosen.name, banks[task], config)
        for task, chosen in chosen_estimators(config, banks).items()
    }


class _BankReader:
    """A task's score from responses to search items, read by its bank."""

    def __init__(self, name: str, bank: ItemBank, config: RunFile) -> None:
        parents = _parents(config.models.sources, bank)
        self._estimator = build_estimator(name, bank, parents=parents, seed=config.fitness.seed)
        self._places = {index: position for position, index in enumerate(bank.items)}

    def __call__(self, responses: Sequence[Response]) -> Estimate:
        positions = np.array([self._places[r.index] for r in responses], dtype=np.intp)
        return self._estimator.estimate(positions, np.array([r.score for r in responses]))


def rules_of(config: RunFile, banks: Banks, searched: Sequence[Item], database: Database) -> Rules:
    """What the run file wants its candidates to be asked.

    Args:
        config: the run file.
        banks: of its tasks.
        searched: the search items, task after task.
        database: holds what candidates answered.
    """
    racing = config.fitness.racing
    if not racing.rungs:
        return Rules()
    sizes: dict[str, int] = {}
    for item in searched:
        sizes[item.task] = sizes.get(item.task, 0) + 1
    how = selection_of(config, banks)
    chosen: list[dict[str, list[int]]] = []
    for rung in racing.rungs:
        before = chosen[-1] if chosen else {task: [] for task in sizes}
        chosen.append(
            {
                task: _chosen(how, banks.get(task), before[task], min(rung, size), config)
                for task, size in sizes.items()
            }
        )
    reselect = _reselect(config, banks, sizes, chosen, database) if racing.reselect else None
    return Rules(
        rungs_of(chosen, sizes),
        _finals(config),
        racing.doubt,
        racing.again,
        reselect,
        racing.reselect or 1,
    )


def _finals(config: RunFile) -> Rungs:
    """Rungs of the selection items: a quarter of every task's, half, all; in random order anyway."""
    tasks = config.fitness.tasks
    sizes = {name: task.selection or task.items for name, task in tasks.items()}
    chosen = [
        {name: range(math.ceil(share * size)) for name, size in sizes.items()}
        for share in (0.25, 0.5, 1)
    ]
    return rungs_of(chosen, sizes)


def selection_of(config: RunFile, banks: Banks) -> str:
    """How the items are chosen that candidates answer.

    Items that tell most are not like the others: what reads answers without a bank, or only by their
    difficulty, would be misled by them.

    Raises:
        InputError: that is what the run file asks for.
        FitnessError: there is no such selection.
    """
    wanted = config.fitness.racing.select
    if not banks:
        return "random"
    estimators = {chosen.name for chosen in chosen_estimators(config, banks).values()}
    plain = [o.label for o in config.fitness.all_objectives if o.kind not in _BY_BANK]
    misled = [*(name for name in sorted(estimators) if name in _FAIR_ONLY), *plain]
    if wanted == "auto":
        return "stratified" if misled else "variance"
    if wanted not in SELECTIONS:
        raise FitnessError(
            f"'{wanted}'", "it is no selection", "racing.select", nearest(wanted, SELECTIONS)
        )
    if misled and wanted not in _FAIR:
        raise InputError(
            f"'{wanted}' together with '{misled[0]}'",
            "a mean over items that were not chosen at random, or by difficulty, misleads",
            "fitness.racing.select",
            f"use one of {', '.join(_FAIR)}, or leave it out",
        )
    return wanted


_FAIR = ("random", "stratified")
"""Selections whose items are like the pool's."""

_FAIR_ONLY = ("mean", "stratified", "weighted")
"""Estimators that need such items."""

_BY_BANK = ("task", "tasks", "worst", "spread")
"""Kinds of objectives that are read by a bank; the others are means over what was answered."""


def _chosen(
    how: str, bank: ItemBank | None, core: Sequence[int], count: int, config: RunFile
) -> list[int]:
    """Positions among a task's search items, `core` first; these lie in random order anyway."""
    if bank is None or count <= len(core):
        return list(range(max(count, len(core))))
    return select_items(how, bank, count, core=core, seed=config.fitness.seed).tolist()


def _reselect(
    config: RunFile,
    banks: Banks,
    sizes: Mapping[str, int],
    chosen: Sequence[Mapping[str, list[int]]],
    database: Database,
) -> Reselect:
    """Choose the items beyond the first rung where they tell most about some candidates."""
    from fitness.irt import ability, fit_items

    models = {task: fit_items(bank.responses, _DIMS) for task, bank in banks.items()}
    places = {task: {i: p for p, i in enumerate(bank.items)} for task, bank in banks.items()}

    def abilities(task: str, recipes: Sequence[str]) -> np.ndarray:
        found: list[np.ndarray] = []
        for recipe in recipes:
            answers = database.answers(recipe, "search", None).values()
            mine = [r for r in answers if r.task == task]
            positions = np.array([places[task][r.index] for r in mine], dtype=np.intp)
            scores = np.array([r.score for r in mine])
            found.append(ability(models[task], positions, scores).mean)
        return np.array(found)

    def reselect(recipes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        points = {task: abilities(task, recipes) for task in banks}
        again: list[Mapping[str, list[int]]] = [chosen[0]]
        for rung in chosen[1:]:
            again.append(
                {
                    task: select_items(
                        "information",
                        banks[task],
                        len(rung[task]),
                        core=again[-1][task],
                        ability=points[task],
                        model=models[task],
                        seed=config.fitness.seed,
                    ).tolist()
                    for task in sizes
                }
            )
        return rungs_of(again, sizes)

    return reselect


_DIMS = 2
"""A family of merges does not lie on one line of ability (`docs/estimators.md`)."""


def _parents(sources: Mapping[str, object], bank: ItemBank) -> tuple[str, ...]:
    """The sources that the bank knows: what a candidate is merged from."""
    return tuple(name for name in sources if name in bank.models)
