"""The evaluator: one engine, one judge; a recipe goes in, an evaluation comes out.

This is the way of one candidate, on the evaluator's side (the driver's is `search/driver.py`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evomerge.asking import EVERYTHING, Asking
from evomerge.cluster.failures import is_broken, is_out_of_memory
from evomerge.config import RunFile
from evomerge.engines import ENGINES, Opened, engine_folder
from evomerge.evaluation import Evaluation, Evaluator, Outcome
from evomerge.item_banks import Banks
from evomerge.judging import Judge, build_judge
from evomerge.objectives import recipe_costs
from evomerge.run_sources import open_run_sources
from evomerge.search.baselines import average
from evomerge.trial import Costs, Trial, no_costs
from fitness.engine import Engine as ResidentModel
from fitness.errors import FitnessError
from fitness.items import Reply, Request
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe

if TYPE_CHECKING:
    from evomerge.cluster.delivery import Fetch
    from evomerge.cluster.shipment import Shipment
    from evomerge.merge.locations import Location


class MovableFactory(Protocol):
    """Builds an evaluator in whichever process calls it; crosses processes as data."""

    def shipped(self) -> "MovableFactory":
        """For evaluators on other nodes; to be called, and the result kept, once Ray is connected."""
        ...

    def __call__(self) -> Evaluator:
        """Build it."""
        ...


@dataclass(frozen=True)
class EvaluatorFactory:
    """Builds a `CandidateEvaluator` in whichever process calls it; crosses processes as data.

    Attributes:
        config: the run file.
        folder: what its relative paths are relative to.
        folders: source name -> where it lies, the base (or first source) first.
        banks: item banks of the search items, by task.
        full: judge on every item of the tasks, as split `test`.
        layers: of the deepest candidate, where candidates are stacks of any depth; None: all are as
            deep as the sources.
        shipment: what a node needs that is not the driver's; None on the driver's machine.
        fetch: brings it from the driver's node; None where that cannot be reached.
    """

    config: RunFile
    folder: Path
    folders: Mapping[str, "Location"]
    banks: Banks = field(default_factory=dict)
    full: bool = False
    layers: int | None = None
    shipment: "Shipment | None" = None
    fetch: "Fetch | None" = None

    def shipped(self) -> "EvaluatorFactory":
        """For evaluators on other nodes; to be called, and the result kept, once Ray is connected."""
        from evomerge.cluster.depot import open_depot
        from evomerge.cluster.shipment import Shipment

        shipment = Shipment.of(self.config, self.folder, self.folders)
        return replace(self, shipment=shipment, fetch=open_depot(shipment.files))

    def __call__(self) -> "CandidateEvaluator":
        """Open the sources, build the engine, compile the tasks: once per process."""
        if self.shipment is not None:
            config, folder, folders = self.shipment.unpacked(self.config, self.fetch)
            here = replace(self, config=config, folder=folder, folders=folders, shipment=None)
            return here()
        import torch

        threads = os.environ.get("OMP_NUM_THREADS")
        if threads and threads.isdigit():
            torch.set_num_threads(int(threads))
        sources = open_run_sources(self.config, self.folders)
        model = engine_folder(self.config, sources, self.layers)
        judge = build_judge(self.config, self.folder, model, full=self.full, banks=self.banks)
        opened = Opened(self.config, self.folders, sources, model, self.layers is not None)
        running = ENGINES[self.config.engine.kind].build(opened)
        check_lengths(running.engine, judge)
        try_out(running.engine, judge, sources.names[0])
        costs = recipe_costs(self.config, sources).of
        return CandidateEvaluator(running.engine, judge, running.keep, costs)


def check_lengths(engine: ResidentModel, judge: Judge) -> None:
    """Refuse prompts that the running engine has no room for, before any is paid for.

    Raises:
        FitnessError: names the task and the item.
    """
    for items in judge.items.values():
        for item in items:
            try:
                engine.check_lengths(item.requests)
            except FitnessError as error:
                where = f"task '{item.task}', item {item.index}"
                raise FitnessError(error.passed, error.rule, where, error.remedy) from None


def try_out(engine: ResidentModel, judge: Judge, source: str) -> None:
    """Have a source answer one request, so that an engine that never could is a failed start and not
    a night of failed candidates. Raises whatever the engine does."""
    request = next(r for items in judge.items.values() for item in items for r in item.requests)
    engine.load(average([source], None))
    engine.answer([request])


class CandidateEvaluator:
    """Judges recipes on one resident model. Implements `evomerge.evaluation.Evaluator`.

    Args:
        engine: holds the model.
        judge: compiled tasks.
        keep: writes what was learnt of the sources to disk, for the next start.
        costs: knows what a recipe's model costs.
    """

    def __init__(
        self,
        engine: ResidentModel,
        judge: Judge,
        keep: Callable[[], None] = lambda: None,
        costs: Costs = no_costs,
    ) -> None:
        self._engine = engine
        self._judge = judge
        self._keep = keep
        self._costs = costs

    def evaluate(self, recipe: Recipe, split: str, asking: Asking = EVERYTHING) -> Evaluation:
        """Merge `recipe` into the resident model, answer items of the split, estimate objectives."""
        trial = Trial(self._engine, self._judge, recipe, split, asking, self._costs)
        try:
            evaluation = trial.run()
        except Exception as error:  # the boundary: every failure becomes an outcome
            if is_broken(error):
                raise  # not the candidate's fault: the executor replaces this evaluator
            failure = _failure(error, merging=trial.merging)
            if trial.so_far is None:
                return failure
            return replace(trial.so_far, reason=f"on a later rung: {failure.reason}")
        self._keep()
        return evaluation

    def replies(self, recipe: Recipe, requests: Sequence[Request]) -> Sequence[Reply]:
        """What `recipe` answers to requests that need not be any task's. Raises what the engine does."""
        self._engine.load(recipe)
        return self._engine.answer(requests)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def _failure(error: Exception, *, merging: bool) -> Evaluation:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if is_out_of_memory(error):
        return Evaluation(Outcome.OUT_OF_MEMORY, reason)
    if isinstance(error, InputError) and merging:
        return Evaluation(Outcome.INVALID_RECIPE, str(error))
    if isinstance(error, (InputError, FitnessError)):
        reason = str(error)
    return Evaluation(Outcome.MERGE_FAILED if merging else Outcome.SCORING_FAILED, reason)
