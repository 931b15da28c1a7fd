"""A run's item banks: read and held against the tasks, and what is chosen and estimated by them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evomerge.config import RunFile
from fitness.bank_files import bank_file, match_bank, read_bank, write_bank
from fitness.banks import ItemBank
from fitness.estimate import Estimate
from fitness.estimators import Chosen, build_estimator, choose_estimator
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


def _parents(sources: Mapping[str, object], bank: ItemBank) -> tuple[str, ...]:
    """The sources that the bank knows: what a candidate is merged from."""
    return tuple(name for name in sources if name in bank.models)
