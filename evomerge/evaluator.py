"""The evaluator: one engine, one judge; a recipe goes in, an evaluation comes out.

This is the way of one candidate, on the evaluator's side (the driver's is `search/driver.py`).
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config import Engine, RunFile
from evomerge.evaluation import Evaluation, Outcome
from evomerge.judging import Judge, build_judge
from evomerge.run_sources import open_run_sources
from fitness.engine import Engine as ResidentModel
from fitness.errors import FitnessError
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe

if TYPE_CHECKING:
    from evomerge.merge.locations import Location


@dataclass(frozen=True)
class EvaluatorFactory:
    """Builds a `CandidateEvaluator` in whichever process calls it; crosses processes as data.

    Attributes:
        config: the run file.
        folder: what its relative paths are relative to.
        folders: source name -> where it lies, the base (or first source) first.
        full: judge on every item of the tasks, as split `test`.
    """

    config: RunFile
    folder: Path
    folders: Mapping[str, "Location"]
    full: bool = False

    def __call__(self) -> "CandidateEvaluator":
        """Open the sources, build the engine, compile the tasks: once per process."""
        import torch

        from evomerge.merge.search_weights import search_weights
        from evomerge.merge.skeleton import model_folder
        from fitness.engines.resident import pick_device

        threads = os.environ.get("OMP_NUM_THREADS")
        if threads and threads.isdigit():
            torch.set_num_threads(int(threads))
        sources = open_run_sources(self.config, self.folders)
        model = model_folder(sources)
        section = self.config.engine
        limit = None if section.source_memory is None else int(1e9 * section.source_memory)
        weights, keep = search_weights(sources, pick_device(section.device), limit)
        engine = build_engine(section, model, weights)
        judge = build_judge(self.config, self.folder, model, full=self.full)
        return CandidateEvaluator(engine, judge, keep)


def build_engine(section: Engine, model: Path, weights: object) -> ResidentModel:
    """The engine the run file asks for, holding a model of `model`'s architecture.

    Args:
        section: the run file's `engine`.
        model: folder with config and tokenizer.
        weights: a `WeightProvider`.
    """
    from fitness.engines.transformers import TransformersEngine

    return TransformersEngine(
        model,
        weights,  # pyright: ignore[reportArgumentType]
        dtype=section.dtype,
        device=section.device,
        batch_tokens=section.batch_tokens,
        max_length=section.max_length,
        trust_remote_code=section.trust_remote_code,
    )


class CandidateEvaluator:
    """Judges recipes on one resident model. Implements `evomerge.evaluation.Evaluator`.

    On test items candidates are merged exactly, as they are exported; elsewhere with thresholds
    that are looked up.

    Args:
        engine: holds the model.
        judge: compiled tasks.
        keep: writes what was learnt of the sources to disk, for the next start.
    """

    def __init__(
        self, engine: ResidentModel, judge: Judge, keep: Callable[[], None] = lambda: None
    ) -> None:
        self._engine = engine
        self._judge = judge
        self._keep = keep

    def evaluate(self, recipe: Recipe, split: str) -> Evaluation:
        """Merge `recipe` into the resident model, answer the split's items, estimate the objectives."""
        from evomerge.merge.weights import Exactly

        started = time.perf_counter()
        merged = started
        try:
            self._engine.load(Exactly(recipe) if split == "test" else recipe)
            merged = time.perf_counter()
            replies = self._engine.answer(self._judge.requests(split))
            responses = self._judge.responses(split, replies)
            objectives = self._judge.measure(split, responses)
        except Exception as error:  # the boundary: every failure becomes an outcome
            return _failure(error, merging=merged == started)
        self._keep()
        return Evaluation(
            outcome=Outcome.SCORED,
            objectives=objectives,
            responses=tuple(responses),
            merge_seconds=merged - started,
            score_seconds=time.perf_counter() - merged,
        )

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()


def _failure(error: Exception, *, merging: bool) -> Evaluation:
    import torch

    reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return Evaluation(Outcome.OUT_OF_MEMORY, reason)
    if isinstance(error, InputError) and merging:
        return Evaluation(Outcome.INVALID_RECIPE, str(error))
    if isinstance(error, (InputError, FitnessError)):
        reason = str(error)
    return Evaluation(Outcome.MERGE_FAILED if merging else Outcome.SCORING_FAILED, reason)
