"""Which text is a document's right answer, by lm-eval's task objects: for the teacher-forced loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from fitness.errors import FitnessError, one_line
from fitness.items import Request

if TYPE_CHECKING:
    from fitness.tasks import TaskSpec


def gold_of(
    task: ConfigurableTask, spec: TaskSpec, instances: Sequence[Instance]
) -> tuple[int, tuple[Request, ...]]:
    """Where the gold answer's log-probability is found among an item's replies.

    Of several right answers, the gold one is the first.

    Args:
        task: the task.
        spec: its spec, which says whether prompts are chats.
        instances: one document's.

    Returns:
        The position of the reply, and the requests that must be asked beside the task's own: none
        for a task that scores the answer anyway, the answer after the prompt for one that generates.

    Raises:
        FitnessError: the task does not say what the right answer is.
    """
    doc, index = instances[0].doc, instances[0].doc_id
    try:
        if task.OUTPUT_TYPE == "loglikelihood":
            return 0, ()
        if task.OUTPUT_TYPE == "multiple_choice":
            return _chosen(task, doc), ()
        text = _text(task, doc)
    except Exception as error:  # templates and the task's code, and what they return
        raise FitnessError(
            f"the target of document {index}",
            f"it says no right answer ({one_line(error)})",
            f"task '{spec.name}'",
            "correct the task's doc_to_target, or leave the task out of the losses",
        ) from error
    context = instances[0].args[0]
    request = Request("loglikelihood", context, _delimiter(task, spec) + text)
    return len(instances), (request,)


def _chosen(task: ConfigurableTask, doc: Any) -> int:
    """The number of the right choice, found as `ConfigurableTask.process_results` does."""
    choices = task.doc_to_choice(doc)
    # With several prompts for one continuation, it is the prompt that is chosen.
    gold = _first(task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc))
    number = choices.index(gold) if isinstance(gold, str) and gold in choices else gold
    if not isinstance(number, int) or not 0 <= number < len(choices):
        raise ValueError(f"{gold!r} is none of the {len(choices)} choices")
    return number


def _text(task: ConfigurableTask, doc: Any) -> str:
    """The text of the right answer."""
    gold = _first(task.doc_to_target(doc))
    text = str(gold if task.config.doc_to_choice is None else task.doc_to_choice(doc)[gold])
    if gold is None or not text.strip():
        raise ValueError("an empty text")
    return text


def _first(gold: Any) -> Any:
    """The first of several right answers; what is no list is one."""
    return gold[0] if isinstance(gold, list | tuple) else gold


def _delimiter(task: ConfigurableTask, spec: TaskSpec) -> str:
    """What stands between prompt and answer, as `ConfigurableTask.construct_requests` says."""
    config = task.config
    prefixed = config.gen_prefix and not config.gen_prefix[-1].isspace()
    return "" if spec.apply_chat_template and not prefixed else str(config.target_delimiter)
