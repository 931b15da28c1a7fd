"""Tasks: compiled to items once per run, then nothing per candidate but scoring."""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitness.errors import FitnessError, nearest
from fitness.items import Item, Reply, Request, Response
from fitness.questions import Forms, forms_of_task, same_questions

if TYPE_CHECKING:
    from lm_eval.api.filter import FilterEnsemble
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask


@dataclass(frozen=True)
class TaskSpec:
    """Which lm-eval task to ask, and how. Plain data.

    Attributes:
        name: the task's name in lm-eval, or in the YAML files below `include`.
        include: folder of the user's own task files; None takes lm-eval's.
        num_fewshot: examples before the question; None leaves what the task says.
        apply_chat_template: render prompts with the tokenizer's chat template.
        fewshot_as_multiturn: with a chat template, one turn per example.
        system_instruction: text before everything else.
        metric: the metric that is the score; None is the task's first.
        filter: the filter pipeline that finds the answer; None is the task's first.
        generation: overwrites entries of the task's `generation_kwargs`, such as `max_gen_toks`.
        loss: responses have a loss: the gold answer's negative log-likelihood per token. It costs a
            task that generates one more request per item. The gold answer is the task's target,
            which need not hold the reasoning that leads to it; of several, the first.
    """

    name: str
    include: Path | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    system_instruction: str | None = None
    metric: str | None = None
    filter: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    loss: bool = False


@dataclass(frozen=True)
class _Compiled:
    """One task: its items, and what it takes to score them.

    `gold` is the position of the reply that tells each item's loss; None: losses are not asked for.
    """

    task: ConfigurableTask
    items: tuple[Item, ...]
    distinct: tuple[int, ...]
    forms: tuple[Forms, ...]
    asked: Sequence[Sequence[Instance]]
    pipeline: FilterEnsemble
    metric: str
    gold: tuple[int, ...] | None


class TaskSet:
    """A run's tasks. Made by `compile_tasks`."""

    def __init__(self, compiled: Mapping[str, _Compiled]) -> None:
        self._compiled = dict(compiled)
        self._questions = same_questions({name: one.forms for name, one in compiled.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """Task names, in the order they were asked for."""
        return tuple(self._compiled)

    def items(self, task: str) -> tuple[Item, ...]:
        """All documents of the evaluated split; an item's `index` is its position here."""
        return self._compiled[task].items

    def distinct(self, task: str) -> tuple[Item, ...]:
        """The items without those that repeat an earlier one's question: what splits are made of."""
        one = self._compiled[task]
        return tuple(one.items[index] for index in one.distinct)

    def questions(self, task: str) -> tuple[str, ...]:
        """What each item asks, aligned with `items`: equal for equal questions of any tasks.

        That is the question's text without few-shot examples, whitespace and the template's frame
        aside, so a generation and a multiple-choice form of a question are equal. If the texts do
        not tell the task's items apart, choices and target belong to it.
        """
        return self._questions[task]

    def metric(self, task: str) -> str:
        """The metric that is the task's score."""
        return self._compiled[task].metric

    def higher_is_better(self, task: str) -> bool:
        """Which way the metric points."""
        one = self._compiled[task]
        return bool(one.task.higher_is_better().get(one.metric, True))

    def gold(self, item: Item) -> Request | None:
        """What asks for the loss of an item's right answer; None: its task's losses are not wanted."""
        positions = self._compiled[item.task].gold
        return None if positions is None else item.requests[positions[item.index]]

    def blank_replies(self, items: Sequence[Item]) -> list[list[Reply]]:
        """Per item, a reply to each request as from a model that says nothing.

        `score` takes them, so scoring and objectives can be tried before any model answers.
        """
        return [[_blank(request) for request in item.requests] for item in items]

    def score(self, items: Sequence[Item], replies: Sequence[Sequence[Reply]]) -> list[Response]:
        """Responses to items of any tasks, in order.

        Args:
            items: items of this set.
            replies: per item, one reply per request, in order.

        Raises:
            FitnessError: the task's scoring fails, or its metric leaves [0, 1].
        """
        by_task: dict[str, list[int]] = {}
        for position, item in enumerate(items):
            by_task.setdefault(item.task, []).append(position)
        responses: dict[int, Response] = {}
        for task, positions in by_task.items():
            found = _score(
                self._compiled[task],
                [items[i].index for i in positions],
                [replies[i] for i in positions],
            )
            responses.update(zip(positions, found, strict=True))
        return [responses[i] for i in range(len(items))]


def compile_tasks(specs: Sequence[TaskSpec], tokenizer: Any = None, seed: int = 0) -> TaskSet:
    """Load the tasks and build every item once.

    Args:
        specs: the tasks; names differ.
        tokenizer: a `transformers` tokenizer, needed for chat templates only.
        seed: of few-shot examples, and of tasks that shuffle. The same seed gives the same items in
            any process and whatever the other tasks are.

    Raises:
        FitnessError: whatever is wrong with a task, its data, its metric or its filter.
    """
    compiled: dict[str, _Compiled] = {}
    for spec in specs:
        if spec.name in compiled:
            raise FitnessError(
                f"task '{spec.name}'", "it is asked for twice", "tasks", "remove one of the two"
            )
        compiled[spec.name] = _compile(spec, tokenizer, seed)
    return TaskSet(compiled)


def _compile(spec: TaskSpec, tokenizer: Any, seed: int) -> _Compiled:
    from fitness import lmeval, lmeval_gold  # 3 s to import

    where = f"task '{spec.name}'"
    if spec.fewshot_as_multiturn and not spec.apply_chat_template:
        raise FitnessError(
            "fewshot_as_multiturn = true",
            "turns need a chat template",
            where,
            "set apply_chat_template too",
        )
    with lmeval.quiet(), lmeval.templates_kept(), lmeval.seeded(seed):
        task = lmeval.build_task(spec, seed)
        asked = lmeval.ask(task, spec, tokenizer)
        requests = [lmeval.requests_of(made, spec.name) for made in asked]
        wholes = [lmeval.question_of(task, made) for made in asked]
        forms = forms_of_task([lmeval.text_forms_of(task, made) for made in asked], wholes)
        known = lmeval.pipelines(task)
        chosen = spec.filter or next(iter(known))
        if chosen not in known:
            raise FitnessError(f"filter '{chosen}'", "unknown", where, nearest(chosen, known))
        blank = [[_blank(request) for request in requests[0]]]
        metrics, _ = lmeval.judge(task, known[chosen], asked[:1], blank)[0]
        metric = _metric(spec, list(task.aggregation()), metrics)
        scoring = lmeval.scoring_of(task, chosen, metric)
        judged_by = [[lmeval.target_of(task, made), scoring] for made in asked]
        gold: tuple[int, ...] | None = None
        if spec.loss:
            found = [lmeval_gold.gold_of(task, spec, made) for made in asked]
            gold = tuple(position for position, _ in found)
            requests = [own + more for own, (_, more) in zip(requests, found, strict=True)]
            for texts, position in zip(judged_by, gold, strict=True):
                texts.append(f"loss of request {position}")
    items = tuple(
        _item(spec.name, index, own, texts)
        for index, (own, texts) in enumerate(zip(requests, judged_by, strict=True))
    )
    return _Compiled(task, items, _distinct(wholes), forms, asked, known[chosen], metric, gold)


def _item(task: str, index: int, requests: tuple[Request, ...], judged_by: list[str]) -> Item:
    asked = [[r.kind, r.context, r.continuation, dict(r.generation)] for r in requests]
    text = json.dumps([asked, judged_by], sort_keys=True, default=repr)
    return Item(task, index, requests, hashlib.sha256(text.encode()).hexdigest()[:16])


def _blank(request: Request) -> Reply:
    return Reply(tokens=1) if request.kind == "generate" else Reply(logprob=-1.0, tokens=1)


def _distinct(questions: Sequence[str]) -> tuple[int, ...]:
    """The first index of each question: a twin could be searched on and tested on at once."""
    first: dict[str, int] = {}
    for index, question in enumerate(questions):
        first.setdefault(question, index)
    return tuple(first.values())


def _metric(spec: TaskSpec, declared: Sequence[str], found: Mapping[str, Any]) -> str:
    """The metric to use, checked to be one number per item."""
    where = f"task '{spec.name}'"
    usable = [name for name, value in found.items() if _is_number(value)]
    wanted = spec.metric or next((m for m in declared if m in found), next(iter(found), ""))
    if wanted in usable:
        return wanted
    rule = "it is no number per item" if wanted in found else "unknown"
    raise FitnessError(f"metric '{wanted}'", rule, where, nearest(wanted, usable))


def _is_number(value: Any) -> bool:
    # NumPy's bool is the one scalar that is no `numbers.Real`.
    return isinstance(value, numbers.Real) or type(value).__name__ in ("bool", "bool_")


def _score(
    one: _Compiled, indices: Sequence[int], replies: Sequence[Sequence[Reply]]
) -> list[Response]:
    from fitness import lmeval

    name = one.task.config.task or ""
    fallbacks = lmeval.fallbacks(one.task, one.pipeline.name)
    asked = [one.asked[i] for i in indices]
    own = [answers[: len(made)] for answers, made in zip(replies, asked, strict=True)]
    with lmeval.quiet(), lmeval.templates_kept():
        judged = lmeval.judge(one.task, one.pipeline, asked, own)
    responses: list[Response] = []
    for index, answers, (metrics, answer) in zip(indices, replies, judged, strict=True):
        requests = one.items[index].requests
        generated = [a for a, r in zip(answers, requests, strict=True) if r.kind == "generate"]
        responses.append(
            Response(
                task=name,
                index=index,
                score=_in_range(metrics.get(one.metric), name, one.metric),
                tokens=sum(reply.tokens for reply in generated),
                truncated=any(reply.truncated for reply in generated),
                parse_failure=bool(generated) and _is_missing(answer, fallbacks),
                loss=_loss(answers[one.gold[index]]) if one.gold else None,
            )
        )
    return responses


def _loss(gold: Reply) -> float:
    return -gold.logprob / gold.tokens


def _in_range(value: Any, task: str, metric: str) -> float:
    score = float(value) if _is_number(value) else float("nan")
    # A sum of rounded terms may pass 1 by a hair.
    if not -1e-6 <= score <= 1 + 1e-6:
        raise FitnessError(
            f"metric '{metric}' = {value}",
            "a score must be a number in [0, 1]",
            f"task '{task}'",
            "choose another metric of the task",
        )
    return min(max(score, 0.0), 1.0)


def _is_missing(answer: Any, fallbacks: frozenset[str]) -> bool:
    """Whether the filter found no answer: its fallback, or nothing."""
    while isinstance(answer, list | tuple) and answer:
        answer = answer[0]
    return not str(answer).strip() or str(answer) in fallbacks or answer in ([], ())
