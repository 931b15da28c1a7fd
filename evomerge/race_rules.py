"""The rules of a run's race: which items candidates answer, rung by rung."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from evomerge.asking import Rungs
from evomerge.config import RunFile
from evomerge.item_banks import Banks, chosen_estimators
from evomerge.runs.database import Database
from evomerge.search.race import Reselect, Rules, rungs_of
from fitness.banks import ItemBank
from fitness.errors import FitnessError, nearest
from fitness.item_selection import SELECTIONS, select_items
from fitness.items import Item
from fitness.objectives import MODEL_COSTS
from search_spaces.errors import InputError


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
    plain = [
        o.label
        for o in config.fitness.all_objectives
        if o.kind not in _BY_BANK and o.cost not in MODEL_COSTS
    ]
    misled = [*(name for name in sorted(estimators) if name in _FAIR_ONLY), *plain]
    if wanted not in ("auto", *SELECTIONS):
        raise FitnessError(
            f"'{wanted}'", "it is no selection", "racing.select", nearest(wanted, SELECTIONS)
        )
    telling = "reselect" if config.fitness.racing.reselect else wanted
    if misled and telling not in ("auto", *_FAIR):
        raise InputError(
            f"'{telling}' together with '{misled[0]}'",
            "a mean over items that were not chosen at random, or by difficulty, misleads",
            "fitness.racing",
            f"select one of {', '.join(_FAIR)} and leave `reselect` out",
        )
    if wanted == "auto":
        return "stratified" if misled else "variance"
    return wanted


_FAIR = ("random", "stratified")
"""Selections whose items are like the pool's."""

_FAIR_ONLY = ("mean", "stratified", "weighted")
"""Estimators that need such items."""

_BY_BANK = ("task", "tasks", "worst", "spread")
"""Kinds of objectives that are read by a bank; the others, but for costs of the model itself, are means
over what was answered."""


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

    def abilities(task: str, front: Sequence[tuple[str, int]]) -> np.ndarray:
        found: list[np.ndarray] = []
        for recipe_hash, parts in front:
            answers = database.answers(recipe_hash, "search", parts).values()
            mine = [r for r in answers if r.task == task]
            positions = np.array([places[task][r.index] for r in mine], dtype=np.intp)
            scores = np.array([r.score for r in mine])
            found.append(ability(models[task], positions, scores).mean)
        return np.array(found)

    def reselect(front: Sequence[tuple[str, int]]) -> Rungs:
        points = {task: abilities(task, front) for task in banks}
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
