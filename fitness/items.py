"""Items, requests, replies and responses: the words the scoring side speaks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One thing an engine does for an item.

    Attributes:
        kind: `loglikelihood` (of `continuation` after `context`) or `generate` (after `context`).
        context: the prompt, chat template applied.
        continuation: the text to score; empty for `generate`.
        generation: `until` (stop strings), `max_gen_toks` and sampling options; empty for
            `loglikelihood`.
    """

    kind: str
    context: str
    continuation: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine returned for a request.

    Attributes:
        text: generated text, cut before the first stop string (`generate`).
        logprob: natural-log probability of the continuation (`loglikelihood`).
        greedy: whether the continuation is what greedy decoding would give (`loglikelihood`).
        tokens: tokens generated, the end token or stop string included (`generate`, so at least
            1), or scored (`loglikelihood`).
        truncated: generation ended at the token limit, not at a stop string.
    """

    text: str = ""
    logprob: float = 0.0
    greedy: bool = False
    tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a task.

    Attributes:
        task: the task's name.
        index: position in the task's documents (lm-eval's `doc_id`), the item's id in its task.
        requests: what an engine has to do (one per choice for multiple choice).
        digest: hash of requests, target and all that scores them, so that changed text or changed
            scoring is noticed.
    """

    task: str
    index: int
    requests: tuple[Request, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Response:
    """What a candidate did on an item.

    Attributes:
        task, index: the item.
        score: the task's metric, in [0, 1]; `TaskSet.higher_is_better` says which way is good.
        tokens: tokens generated for the answer (0 for multiple choice).
        truncated: the answer hit the token limit.
        parse_failure: the task's answer filter found nothing in the text.
        loss: negative log-likelihood of the gold answer after the prompt (nats per token of it);
            None where it was not asked for (`TaskSpec.loss`).
    """

    task: str
    index: int
    score: float
    tokens: int = 0
    truncated: bool = False
    parse_failure: bool = False
    loss: float | None = None
