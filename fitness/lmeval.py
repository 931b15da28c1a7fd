"""Everything that touches lm-eval's task objects (0.4.13): building, asking, scoring.

With `lmeval_files` and `lmeval_gold`, the only module that knows lm-eval's insides. lm-eval's own
task objects make the prompts and score the answers, so numbers equal lm-eval's; what is left out is
what a search cannot afford per candidate (indexing, rebuilding, bootstrapping).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import random
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import jinja2
import numpy as np
from lm_eval.api.filter import FilterEnsemble
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import env as templates

from fitness.errors import FitnessError
from fitness.functions import source_of
from fitness.items import Reply, Request
from fitness.lmeval_files import refused, task_file, with_absolute_paths, without_items
from fitness.questions import forms_of_text

if TYPE_CHECKING:
    from fitness.tasks import TaskSpec

OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "generate_until")
FALLBACK = "[invalid]"
"""What lm-eval's extraction filters return when they find nothing."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no lm-eval logs below errors, and nothing on stdout."""
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


_template: Any = functools.lru_cache(4096)(templates.from_string)


@contextlib.contextmanager
def templates_kept() -> Iterator[None]:
    """Each Jinja template is compiled once.

    lm-eval compiles the target's template again for every scored answer: 0.4 ms of 0.5 ms.
    """
    usual = templates.from_string
    templates.from_string = _template
    try:
        yield
    finally:
        templates.from_string = usual


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Tasks that shuffle with a global generator do so alike everywhere; its state is restored."""
    state, state_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(state_numpy)


def build_task(spec: TaskSpec, seed: int) -> ConfigurableTask:
    """lm-eval's task object, its data loaded and the spec's changes applied.

    Raises:
        FitnessError: whatever is wrong with the task, its file or its data.
    """
    file = task_file(spec.name, spec.include)
    try:
        config = with_absolute_paths(load_yaml(file), file, spec.name)
        tasks = TaskManager(include_defaults=False).load([config])["tasks"]
    except FitnessError:
        raise
    except Exception as error:  # the task's code, its templates, its data: anything can go wrong
        if "out of bounds for size 0" in str(error):
            raise without_items(spec.name, file) from error
        raise refused(spec.name, f"file {file}", error) from error
    task = tasks.get(spec.name)
    if not isinstance(task, ConfigurableTask):
        raise unsupported(spec.name, "it is written as a Python class of its own")
    _check_supported(task, spec.name)
    _apply(task, spec)
    _check_examples(task, spec.name)
    task.set_fewshot_seed(seed=seed)
    return task


def _check_supported(task: ConfigurableTask, name: str) -> None:
    """Refuse what cannot be asked and scored item by item, from text."""
    if task.OUTPUT_TYPE not in OUTPUT_TYPES:
        raise unsupported(name, f"its output_type is {task.OUTPUT_TYPE}")
    if getattr(task, "MULTIMODAL", False):
        raise unsupported(name, "its prompts are not text alone")
    if getattr(task, "UNSAFE_CODE", False):
        raise unsupported(name, "it runs code that the model wrote (unsafe_code)")
    if task.config.repeats != 1:
        raise unsupported(name, f"it asks every question {task.config.repeats} times")


def _apply(task: ConfigurableTask, spec: TaskSpec) -> None:
    """The spec's changes, as `simple_evaluate` makes them; what it would ignore is refused."""
    own = task.config.num_fewshot
    if spec.num_fewshot and own == 0:
        raise FitnessError(
            f"num_fewshot = {spec.num_fewshot}",
            "the task's file fixes it to 0, and lm-eval would ignore yours",
            f"task '{spec.name}'",
            "remove one of the two",
        )
    task.set_config("num_fewshot", (own or 0) if spec.num_fewshot is None else spec.num_fewshot)
    if not spec.generation:
        return
    if task.OUTPUT_TYPE != "generate_until":
        raise FitnessError(
            f"generation = {dict(spec.generation)}",
            "the task generates nothing",
            f"task '{spec.name}'",
            "remove it",
        )
    task.set_config("generation_kwargs", dict(spec.generation), update=True)


def _check_examples(task: ConfigurableTask, name: str) -> None:
    """Refuse few-shot examples drawn from the evaluated documents.

    They would quote questions and answers of the test items in the prompts of the search. Which
    split lm-eval draws from is `ConfigurableTask.fewshot_docs`, then `Task.fewshot_docs`.
    """
    config, examples = task.config, task.fewshot_cfg
    split = examples.split
    if split is None and examples.samples is not None:
        return
    if split is None:
        split = config.training_split or config.validation_split or config.test_split
    if task.config.num_fewshot and split == (config.test_split or config.validation_split):
        raise FitnessError(
            f"num_fewshot = {task.config.num_fewshot}",
            f"its examples come from the evaluated split '{split}', so prompts would quote test "
            "items",
            f"task '{name}'",
            "give the task a training_split, a fewshot_split or samples in its fewshot_config, or "
            "set num_fewshot: 0",
        )


def ask(task: ConfigurableTask, spec: TaskSpec, tokenizer: Any) -> list[list[Instance]]:
    """Every document's instances, in order; what `Task.build_all_requests` does, without its bar.

    Raises:
        FitnessError: a template, a few-shot draw or the chat template fails, or there are no
            documents.
    """
    chat = {
        "apply_chat_template": spec.apply_chat_template,
        "chat_template": chat_renderer(tokenizer, spec.name) if spec.apply_chat_template else None,
    }
    asked: list[list[Instance]] = []
    try:
        docs: Any = task.eval_docs
        for index, doc in enumerate(docs):
            context = task.fewshot_context(
                doc,
                num_fewshot=task.config.num_fewshot,
                system_instruction=spec.system_instruction,
                fewshot_as_multiturn=spec.fewshot_as_multiturn,
                gen_prefix=task.doc_to_prefix(doc),
                **chat,
            )
            made = task.construct_requests(
                doc=doc, ctx=context, metadata=(spec.name, index, task.config.repeats), **chat
            )
            asked.append(made if isinstance(made, list) else [made])
    except Exception as error:  # templates and the task's code
        raise refused(spec.name, f"document {len(asked)}", error) from error
    if not asked:
        raise without_items(spec.name, "the evaluated split")
    return asked


def chat_renderer(tokenizer: Any, task: str) -> Any:
    """A function that renders a chat, as lm-eval's `HFLM.apply_chat_template` does.

    Raises:
        FitnessError: the tokenizer has no chat template.
    """
    if tokenizer is None or not tokenizer.chat_template:
        raise FitnessError(
            "apply_chat_template = true",
            "the model's tokenizer has no chat template",
            f"task '{task}'",
            "turn it off, or add chat_template to tokenizer_config.json",
        )

    def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        options = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return tokenizer.apply_chat_template(history, **options)
        except jinja2.exceptions.TemplateError:
            # Some templates refuse a system turn; lm-eval drops it then, and so must we.
            rest = [turn for turn in history if turn["role"] != "system"]
            return tokenizer.apply_chat_template(rest, **options)

    return render


def requests_of(instances: Sequence[Instance], task: str) -> tuple[Request, ...]:
    """One request per instance.

    Raises:
        FitnessError: an instance that is more than a prompt and a continuation or options.
    """
    requests: list[Request] = []
    for instance in sorted(instances, key=lambda i: i.idx):
        context, rest = instance.args if len(instance.args) == 2 else (None, None)
        if not isinstance(context, str):
            raise unsupported(task, "its prompts are not one text each")
        if isinstance(rest, str):
            requests.append(Request("loglikelihood", context, rest))
        else:
            options = dict(normalize_gen_kwargs(dict(rest or {})))
            requests.append(Request("generate", context, generation=options))
    return tuple(requests)


def target_of(task: ConfigurableTask, instances: Sequence[Instance]) -> str:
    """What the right answer is, as text: all that scoring gets beside the replies."""
    doc = instances[0].doc
    target = repr((_choices_of(task, doc), task.doc_to_target(doc)))
    if not callable(task.config.process_results):
        return target
    return target + json.dumps(doc, sort_keys=True, default=lambda value: type(value).__name__)


def _choices_of(task: ConfigurableTask, doc: Any) -> Any:
    return task.doc_to_choice(doc) if task.config.doc_to_choice is not None else None


def scoring_of(task: ConfigurableTask, pipeline: str, metric: str) -> str:
    """All that makes scores of replies, as text: metric, filters, and the task's own code."""
    config = task.config
    filters = [entry for entry in config.filter_list or [] if entry["name"] == pipeline]
    parts = [metric, config.metric_list, pipeline, filters, config.process_results]
    return json.dumps(_plain(parts), sort_keys=True)


def _plain(value: Any) -> Any:
    """A part of a task's configuration as JSON's types, its functions as their source text."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return source_of(value) if callable(value) else repr(value)


def question_of(task: ConfigurableTask, instances: Sequence[Instance]) -> str:
    """What a document asks, without few-shot examples: equal for equal questions."""
    doc = instances[0].doc
    return repr((task.doc_to_text(doc), _choices_of(task, doc), task.doc_to_target(doc)))


def text_forms_of(task: ConfigurableTask, instances: Sequence[Instance]) -> tuple[str, ...]:
    """The forms of a document's question text; none if its text says nothing."""
    return forms_of_text(task.doc_to_text(instances[0].doc), task.config.doc_to_text)


def pipelines(task: ConfigurableTask) -> dict[str, FilterEnsemble]:
    """The task's filter pipelines by name, in the order of its file."""
    return {pipeline.name: pipeline for pipeline in task._filters}


def fallbacks(task: ConfigurableTask, pipeline: str) -> frozenset[str]:
    """What the pipeline returns when it finds no answer."""
    for entry in task.config.filter_list or []:
        if isinstance(entry, dict) and entry["name"] == pipeline:
            return frozenset(str(f.get("fallback", FALLBACK)) for f in entry["filter"])
    return frozenset((FALLBACK,))


def judge(
    task: ConfigurableTask,
    pipeline: FilterEnsemble,
    asked: Sequence[Sequence[Instance]],
    replies: Sequence[Sequence[Reply]],
) -> list[tuple[dict[str, Any], Any]]:
    """Each document's metrics and its first filtered answer.

    Raises:
        FitnessError: the task's filter or metric fails on a reply.
    """
    fresh: list[list[Instance]] = []
    for instances, answers in zip(asked, replies, strict=True):
        ordered = sorted(instances, key=lambda i: i.idx)
        fresh.append(
            [
                dataclasses.replace(
                    instance, resps=[_as_lm_eval(reply, instance.request_type)], filtered_resps={}
                )
                for instance, reply in zip(ordered, answers, strict=True)
            ]
        )
    results: list[tuple[dict[str, Any], Any]] = []
    try:
        pipeline.apply([instance for instances in fresh for instance in instances])
        for instances in fresh:
            filtered = [instance.filtered_resps[pipeline.name] for instance in instances]
            results.append((task.process_results(instances[0].doc, filtered), filtered[0]))
    except Exception as error:  # metrics and filters are the task's code
        index = fresh[len(results)][0].doc_id
        raise refused(task.config.task or "", f"scoring document {index}", error) from error
    return results


def _as_lm_eval(reply: Reply, request: str) -> Any:
    return reply.text if request == "generate_until" else (reply.logprob, reply.greedy)


def unsupported(task: str, reason: str) -> FitnessError:
    """An error for a task of a kind a search cannot score item by item."""
    known = ", ".join(OUTPUT_TYPES)
    return FitnessError(f"task '{task}'", reason, "tasks", f"use a text task of type {known}")
