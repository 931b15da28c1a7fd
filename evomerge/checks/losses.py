"""Losses of right answers, asked of an evaluator without scoring anything: for barriers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.asking import EVERYTHING, Asking
from evomerge.cluster.failures import is_broken, is_out_of_memory
from evomerge.config import RunFile
from evomerge.evaluation import Evaluation, Outcome
from evomerge.evaluator import CandidateEvaluator, EvaluatorFactory
from evomerge.judging import Judge, task_specs
from fitness.errors import FitnessError
from fitness.items import Item, Request, Response
from fitness.tasks import compile_tasks
from search_spaces.recipe import Recipe

if TYPE_CHECKING:
    from fitness.engines.lengths import PromptLengths

LOSSES = "losses"
"""What an `Observer` is asked instead of a split, for the losses alone."""

ITEMS = 8
"""Search items of each task whose losses are asked for."""


@dataclass(frozen=True)
class GoldAnswers:
    """What asks for the losses of right answers.

    Attributes:
        items: task and index of each.
        requests: one of each.
        without: task -> why it has no loss.
    """

    items: tuple[tuple[str, int], ...]
    requests: tuple[Request, ...]
    without: Mapping[str, str]


def gold_answers(
    config: RunFile, folder: Path, judge: Judge, lengths: "PromptLengths"
) -> GoldAnswers:
    """The right answers to a few search items of every task that says what is right.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.
        judge: its compiled tasks.
        lengths: the engine's, with its tokenizer; a task whose answers it has no room for is left out.
    """
    items: list[tuple[str, int]] = []
    requests: list[Request] = []
    without: dict[str, str] = {}
    for spec in task_specs(config, folder):
        wanted = [item for item in judge.items["search"] if item.task == spec.name][:ITEMS]
        try:
            tasks = compile_tasks(
                [replace(spec, loss=True)], lengths.encoder.tokenizer, config.fitness.seed
            )
            found = [_gold(tasks.gold(tasks.items(spec.name)[i.index]), i, lengths) for i in wanted]
        except FitnessError as error:
            without[spec.name] = error.rule
            continue
        items += [(spec.name, item.index) for item in wanted]
        requests += found
    return GoldAnswers(tuple(items), tuple(requests), without)


def _gold(request: Request | None, item: Item, lengths: "PromptLengths") -> Request:
    assert request is not None, "the task was compiled for its losses"
    lengths.check([request], f"task '{item.task}', item {item.index}")
    return request


@dataclass(frozen=True)
class ObserverFactory:
    """Builds an `Observer` where it is going to work; crosses processes as data."""

    evaluators: EvaluatorFactory
    gold: GoldAnswers

    def shipped(self) -> "ObserverFactory":
        """For evaluators on other nodes (see `EvaluatorFactory.shipped`)."""
        return replace(self, evaluators=self.evaluators.shipped())

    def __call__(self) -> "Observer":
        """Build the evaluator."""
        return Observer(self.evaluators(), self.gold)


class Observer:
    """An evaluator that also tells the losses of right answers. Implements `Evaluator`."""

    def __init__(self, evaluator: CandidateEvaluator, gold: GoldAnswers) -> None:
        self._evaluator, self._gold = evaluator, gold

    def evaluate(self, recipe: Recipe, split: str, asking: Asking = EVERYTHING) -> Evaluation:
        """As the evaluator does; of split `LOSSES`, responses with nothing but their losses."""
        if split != LOSSES:
            return self._evaluator.evaluate(recipe, split, asking)
        try:
            replies = self._evaluator.replies(recipe, self._gold.requests)
        except Exception as error:  # boundary: this pair of models cannot be asked, others can
            if is_broken(error) or is_out_of_memory(error):
                raise
            return Evaluation(Outcome.SCORING_FAILED, " ".join(str(error).split())[:500])
        responses = [
            Response(task, index, score=0.0, loss=-reply.logprob / reply.tokens)
            for (task, index), reply in zip(self._gold.items, replies, strict=True)
        ]
        return Evaluation(Outcome.SCORED, responses=tuple(responses), items=len(responses))

    def close(self) -> None:
        """Free the engine."""
        self._evaluator.close()


def losses_of(evaluation: Evaluation) -> Sequence[float]:
    """What an evaluation of split `LOSSES` found, in the items' order (nats per token)."""
    return [response.loss for response in evaluation.responses if response.loss is not None]
