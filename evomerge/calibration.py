"""Calibration: what known models answer to a run's search items, as an item bank per task."""

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.cluster.executor import Executor, Job
from evomerge.config import Fitness, RunFile
from evomerge.evaluation import Evaluation
from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import Prepared, prepare
from evomerge.run_file import folder_of, load_run_file
from evomerge.runs.folder import file_hashes
from evomerge.search.baselines import reference_recipes
from evomerge.search.driver import problem_of
from evomerge.search.edits import random_points
from evomerge.search.plan import Plan
from evomerge.search.view import View
from evomerge.session import executor_for
from fitness.bank_diagnostics import BankDiagnosis, diagnose
from fitness.bank_files import bank_file, join_banks, match_bank, read_bank, read_origin, write_bank
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.items import Item
from fitness.response_files import read_responses
from search_spaces.errors import InputError, nearest
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace, from_unit, to_unit
from search_spaces.variables import Choice

MODELS = 50
"""Measured on leaderboards: 50 models give nearly all the precision that 1,000 do."""
FEW = 20
"""Below, few answers are read no better than by their mean."""
DRAWS = 20
"""Random points tried per merge wanted, before a space counts as used up."""

_BY_BANK = ("bank", "estimator", "racing")
"""Keys of `fitness` that may need a bank."""

Rows = dict[str, dict[str, tuple[float, ...]]]
"""Task -> model -> its scores on the task's search items, in their order."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration left behind.

    Attributes:
        folder: of the banks.
        banks: by task.
        diagnoses: by task.
        evaluated: models evaluated now; the others were in the banks.
        answers: items answered now, over all models and tasks.
        seconds: it took, the checks of the run file included.
        notices: sentences for people.
    """

    folder: Path
    banks: Mapping[str, ItemBank]
    diagnoses: Mapping[str, BankDiagnosis]
    evaluated: int
    answers: int
    seconds: float
    notices: tuple[str, ...]


def calibrate(run_file: Path, models: int, responses: Sequence[str], view: View) -> Calibration:
    """Build or extend the item banks of a run file's tasks.

    The sources, their uniform merge and random merges answer the search items. Banks are written
    after every model, so that a calibration that was stopped goes on where it was.

    Args:
        run_file: names models, tasks, engine, space and (`fitness.bank`) the banks' folder.
        models: how many calibration models, the sources and the uniform merge among them.
        responses: files with responses of other models, as `TASK=FILE`.
        view: shows what is going on.

    Raises:
        InputError, FitnessError: the user's input is wrong.
        KeyboardInterrupt: interrupted; the banks hold what was paid for.
    """
    began = time.monotonic()
    config = load_run_file(run_file)
    folder = folder_of(config, run_file)
    where = folder / (config.fitness.bank or "banks")
    # Banks are what is being made: the run file is checked as one without.
    plain = {key: Fitness.model_fields[key].default for key in _BY_BANK}
    bare = config.fitness.model_copy(update=plain)
    _references(config, models)
    imported = _imported(responses, list(config.fitness.tasks))
    view.say(f"checking {run_file}")
    cold = config.search.model_copy(update={"warm_start": None})
    prepared = prepare(config.model_copy(update={"fitness": bare, "search": cold}), folder)
    planned = calibration_models(prepared, models)
    work = _Work(prepared, where, planned, imported)
    work.open()
    missing = work.missing()
    if missing:
        factory = EvaluatorFactory(
            prepared.config, prepared.folder, prepared.folders, layers=prepared.layers
        )
        view.say(f"{len(missing)} of {len(planned)} models are to be evaluated")
        executor = executor_for(prepared.config, factory)
        try:
            view.begin("calibration", len(missing))
            work.evaluate(missing, executor, view)
        finally:
            executor.close()
    banks = work.save()
    diagnoses = {task: diagnose(bank) for task, bank in banks.items()}
    notices = [*work.notices, *_notices(banks, diagnoses)]
    if len(planned) < models:
        notices.insert(0, f"the space has only {len(planned)} different models, not {models}")
    seconds = time.monotonic() - began
    return Calibration(
        where, banks, diagnoses, work.evaluated, work.answers, seconds, tuple(notices)
    )


def calibration_models(prepared: Prepared, count: int) -> dict[str, Recipe]:
    """The models to calibrate with, by name: sources, `uniform`, then random merges.

    Plain random points of a space are mostly broken models, which tell nothing of the items that
    good ones differ on. A merge is drawn between a random point and a random mixture of the space's
    known good points (sources and uniform), at a random place between the two: some of each merge's
    numbers are wild, few models are. Of stacks of layers it is a small edit of a known good point,
    since between those there is next to nothing. More models are the same ones and further ones.

    Args:
        prepared: the run file.
        count: how many, at least the sources and the uniform merge and one more.

    Raises:
        InputError: fewer.
    """
    config = prepared.config
    found = _references(config, count)
    generator = np.random.default_rng(config.search.seed)
    space = prepared.space
    chance = Plan("calibration", "random", None, config.search.seed, count, seeded=False)
    problem = problem_of(chance, space, prepared.goals) if space.fragile else None
    hashes = {recipe.hash for recipe in found.values()}
    for _ in range(DRAWS * count):
        if len(found) == count:
            break
        if problem is None:
            genome = _draw(space, generator)
        else:
            genome = from_unit(space, random_points(problem, generator, 1)[0])
        recipe = space.decode(genome)
        if recipe.hash not in hashes:
            hashes.add(recipe.hash)
            found[f"merge {recipe.hash[:12]}"] = recipe
    return found


def _references(config: RunFile, count: int) -> dict[str, Recipe]:
    """The sources and their uniform merge; `count` is how many models are wanted in all.

    Raises:
        InputError: no more than these.
    """
    base = "base" if config.models.base else None
    found = reference_recipes(base, list(config.models.experts), config.export.dtype)
    if count <= len(found):
        raise InputError(
            f"--models {count}",
            f"the sources and their uniform merge are {len(found)} already, and random merges are "
            "needed as well",
            "calibrate",
            f"give {FEW} or more; {MODELS} are enough",
        )
    return found


def _draw(space: SearchSpace, generator: np.random.Generator) -> tuple[Any, ...]:
    """A genome between a random point and a random mixture of the known good ones."""
    good = np.array([to_unit(space, genome) for genome in space.seeds().values()])
    shares = generator.dirichlet(np.ones(len(good)))
    wild = generator.random()
    point = generator.random(good.shape[1])
    mixed = wild * point + (1 - wild) * (shares @ good)
    # Options have no order, and so nothing between them: a good point's, or a random one.
    likely = good[generator.choice(len(good), p=shares)]
    option = np.where(generator.random(good.shape[1]) < wild, point, likely)
    chosen = np.array([isinstance(v, Choice) for v in space.variables], dtype=bool)
    return from_unit(space, np.clip(np.where(chosen, option, mixed), 0.0, 1.0))


@dataclass
class _Work:
    """The banks while they grow.

    Attributes:
        prepared: the run file.
        folder: of the banks.
        planned: calibration models by name.
        given: other models' responses, by task.
        notices: sentences for people.
        evaluated: models evaluated.
        answers: items they answered.
    """

    prepared: Prepared
    folder: Path
    planned: Mapping[str, Recipe]
    given: Mapping[str, Sequence[ItemBank]]
    notices: list[str] = field(default_factory=list)
    evaluated: int = 0
    answers: int = 0

    def __post_init__(self) -> None:
        tasks = self.prepared.judge.tasks
        self._items: dict[str, list[Item]] = {name: [] for name in tasks.names}
        for item in self.prepared.judge.items["search"]:
            self._items[item.task].append(item)
        self._origin = _origin(self.prepared)
        self._known: Rows = {name: {} for name in tasks.names}

    def open(self) -> None:
        """Read the banks that are there, and try the given matrices on the items.

        Raises:
            FitnessError: a bank of other items, models or another task; a matrix that does not fit.
            InputError: the folder cannot be written.
        """
        for task, items in self._items.items():
            replaced = self._try_on(task)
            path = bank_file(self.folder, task)
            if path.exists():
                bank = self._matching(path, items)
                rows = zip(bank.models, bank.responses, strict=True)
                self._known[task] = {m: tuple(map(float, r)) for m, r in rows if m not in replaced}

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise InputError(
                f"'{self.folder}'",
                f"it cannot be written ({error})",
                "calibrate",
                "correct fitness.bank or the folder's permissions",
            ) from None

    def missing(self) -> dict[str, Recipe]:
        """The planned models that some bank lacks."""
        known = [set(rows) for rows in self._known.values()]
        return {n: r for n, r in self.planned.items() if not all(n in rows for rows in known)}

    def evaluate(self, missing: Mapping[str, Recipe], executor: Executor, view: View) -> None:
        """Have the missing models answer the search items; write the banks after each.

        Raises:
            InputError: no model at all could be scored.
        """
        names = list(missing)
        jobs = [Job(number, missing[name], "search") for number, name in enumerate(names)]
        failed: dict[str, Evaluation] = {}
        for job, evaluation in executor.run(jobs):
            name = names[job.number]
            if evaluation.scored:
                self._note(name, evaluation)
                self.save()
            else:
                failed[name] = evaluation
            view.finished(evaluation, True)
        if not failed:
            return
        name, first = next(iter(failed.items()))
        if not self.evaluated:
            raise InputError(
                f"{len(failed)} models",
                f"none could be scored; '{name}': {first.outcome}: {first.reason}",
                "calibrate",
                "mend that first",
            )
        self.notices.append(
            f"{len(failed)} of {len(names)} models could not be scored and are left out; "
            f"'{name}': {first.outcome}: {first.reason}"
        )

    def save(self) -> dict[str, ItemBank]:
        """Write the banks as they are, imported models included; by task."""
        banks: dict[str, ItemBank] = {}
        for task, rows in self._known.items():
            # In the plan's order, whichever evaluator was first; then who was there before.
            names = [n for n in self.planned if n in rows]
            names += [n for n in rows if n not in self.planned]
            bank = self._bank(task, {name: rows[name] for name in names})
            for other in self.given.get(task, ()):
                bank = join_banks(bank, other, self.planned)
            write_bank(bank_file(self.folder, task), bank, self._origin)
            banks[task] = bank
        return banks

    def _note(self, name: str, evaluation: Evaluation) -> None:
        scores: dict[str, dict[int, float]] = {}
        for response in evaluation.responses:
            scores.setdefault(response.task, {})[response.index] = response.score
        for task, items in self._items.items():
            self._known[task][name] = tuple(scores[task][item.index] for item in items)
        self.evaluated += 1
        self.answers += evaluation.answers

    def _bank(self, task: str, rows: Mapping[str, Sequence[float]]) -> ItemBank:
        items = self._items[task]
        return ItemBank(
            np.array(list(rows.values())),
            tuple(rows),
            tuple(item.index for item in items),
            tuple(item.digest for item in items),
            task,
            self.prepared.judge.tasks.metric(task),
        )

    def _try_on(self, task: str) -> set[str]:
        """Join the given matrices on trial; the models they bring."""
        row = (0.0,) * len(self._items[task])  # stands for the models to come
        bring: set[str] = set()
        for other in self.given.get(task, ()):
            join_banks(self._bank(task, {"": row}), other)
            clash = sorted({*other.models} & {*self.planned})
            if clash:
                self.notices.append(
                    f"{task}: the given responses of {', '.join(clash)} are left out: models of "
                    "these names are calibrated here"
                )
            bring |= {*other.models} - {*self.planned}
        return bring

    def _matching(self, path: Path, items: Sequence[Item]) -> ItemBank:
        """The bank of a file, if it is one of these items and these sources."""
        remedy = "move it away, or name another folder in fitness.bank"
        metric = self.prepared.judge.tasks.metric(items[0].task)
        try:
            bank = match_bank(read_bank(path), items, metric)
        except FitnessError as error:
            raise FitnessError(error.passed, error.rule, str(path), remedy) from None
        if read_origin(path) != self._origin:
            raise FitnessError(
                "its models",
                "they were made from other sources than the run file's, or their files changed",
                str(path),
                f"{remedy}; old responses can be given back with --responses",
            )
        return bank


def _origin(prepared: Prepared) -> str:
    """A hash of the sources' files, so that a model is known by its name."""
    files = {name: file_hashes(place) for name, place in prepared.folders.items()}
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def _imported(responses: Sequence[str], tasks: Sequence[str]) -> dict[str, list[ItemBank]]:
    """The matrices of `TASK=FILE` arguments, by task."""
    found: dict[str, list[ItemBank]] = {}
    for argument in responses:
        task, _, file = argument.partition("=")
        if not (task and file):
            raise InputError(
                f"--responses {argument}", "it is TASK=FILE", "calibrate", "name task and file"
            )
        if task not in tasks:
            raise InputError(
                f"--responses {argument}",
                f"the run file has no task '{task}'",
                "calibrate",
                nearest(task, tasks),
            )
        found.setdefault(task, []).append(read_responses(Path(file), task))
    return found


def _notices(banks: Mapping[str, ItemBank], diagnoses: Mapping[str, BankDiagnosis]) -> list[str]:
    said = [f"{task}: {text}" for task, found in diagnoses.items() for text in found.sentences()]
    least = min(len(bank.models) for bank in banks.values())
    if least < FEW:
        said.append(
            f"{least} models are few: estimators that need {FEW} fall back to plainer ones; "
            f"'evomerge calibrate' with --models {MODELS} adds the missing"
        )
    return said
