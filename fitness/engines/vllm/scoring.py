"""Requests in, replies out, from a running vLLM: log probabilities, and generated answers.

Scoring feeds a context and its continuation but for the last token, which is scored where vLLM
samples. Two short cuts, each equal to the plain way to the bit on the CPU in float32: prefixes are
read from the cache, and requests that differ in their last token only (the letters of a multiple
choice) are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fitness.engines.decoding import Decoding, answer_text, not_finite
from fitness.engines.lengths import PromptLengths
from fitness.engines.vllm import sampling as raw
from fitness.items import Reply, Request

if TYPE_CHECKING:
    from fitness.engines.encoding import Encoder

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a context and of its continuation, neither empty."""


class WrongWeightsError(RuntimeError):
    """An output was computed by other weights than the candidate's; its score is refused."""


@dataclass(frozen=True, slots=True)
class ShortCuts:
    """Which short cuts scoring takes. They change the time, not the replies.

    Attributes:
        cached: read prefixes from vLLM's cache.
        shared: requests that feed the same tokens are one.
    """

    cached: bool = True
    shared: bool = True


def answer(
    llm: Any,
    encoder: Encoder,
    requests: Sequence[Request],
    version: str,
    sampling: Mapping[str, Any],
    short_cuts: ShortCuts = ShortCuts(),
) -> list[Reply]:
    """One reply per request, in order. Deterministic for the same weights and requests.

    Args:
        llm: a running `vllm.LLM` with raw log probabilities, no request waiting, and a prefix
            cache that holds nothing of other weights.
        encoder: the model's tokenizer.
        requests: what to score and to generate.
        version: the weight version that every output must bear.
        sampling: further SamplingParams of generation, such as `repetition_penalty`.
        short_cuts: for tests of their equality.

    Raises:
        FitnessError: a request too long for the model, options that are not implemented or that
            vLLM refuses, or logits that are not finite.
        WrongWeightsError: an output bears another version, or none.
    """
    PromptLengths(encoder, llm.model_config.max_model_len, one_more=True).check(requests)
    replies: dict[int, Reply] = {}
    scored = [i for i, request in enumerate(requests) if request.kind == "loglikelihood"]
    pairs = [encoder.pair(requests[i].context, requests[i].continuation) for i in scored]
    replies.update(zip(scored, _score(llm, pairs, version, short_cuts), strict=True))
    open_ = [i for i, request in enumerate(requests) if request.kind == "generate"]
    continued = _generate(llm, encoder, [requests[i] for i in open_], version, sampling)
    replies.update(zip(open_, continued, strict=True))
    return [replies[i] for i in range(len(requests))]


def _score(llm: Any, pairs: Sequence[Pair], version: str, short_cuts: ShortCuts) -> Iterable[Reply]:
    """Score each continuation after its context."""
    replies: dict[int, Reply] = {}
    most = llm.model_config.max_logprobs
    depth = most if most >= 0 else llm.model_config.get_vocab_size()
    pending = _asks(pairs, short_cuts)
    while pending:
        again: list[tuple[raw.Ask, list[int]]] = []
        found = raw.score(llm, [ask for ask, _ in pending])
        for (ask, asking), one in zip(pending, found, strict=True):
            _check_versions(one.versions, version)
            better = _better(ask, one, depth)
            if better:
                again.append((better, asking))
            else:
                replies.update((i, _reply(pairs[i][1], one)) for i in asking)
        pending = again
    return [replies[i] for i in range(len(pairs))]


def _asks(pairs: Sequence[Pair], short_cuts: ShortCuts) -> list[tuple[raw.Ask, list[int]]]:
    """What to ask vLLM for, and which pairs each answer serves."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (head, tail) in enumerate(pairs):
        fed = (*head, *tail[:-1])
        group = groups.setdefault((fed,) if short_cuts.shared else (fed, i), [])
        if len(group) < raw.MOST_LAST:
            group.append(i)
        else:
            groups[(fed, i)] = [i]
    asks: list[tuple[raw.Ask, list[int]]] = []
    for group in groups.values():
        head, tail = pairs[group[0]]
        rows = max(len(pairs[i][1]) for i in group) - 1
        last = tuple(dict.fromkeys(pairs[i][1][-1] for i in group))
        asks.append((raw.Ask((*head, *tail[:-1]), rows, last, cached=short_cuts.cached), group))
    return asks


def _better(ask: raw.Ask, one: raw.Scored, depth: int) -> raw.Ask | None:
    """The question to ask instead, if this answer does not serve.

    Args:
        ask: what was asked.
        one: what came back.
        depth: most likeliest tokens that vLLM tells of a row.
    """
    computed_from = len(ask.fed) - ask.rows - 1
    if ask.rows and (one.cached > computed_from or len(one.rows) < ask.rows):
        if not ask.cached:
            raise RuntimeError(f"vLLM returned {len(one.rows)} of {ask.rows} rows of logprobs")
        return replace(ask, cached=False)
    tied = max((row.rank for row in one.rows if _is_tied(row)), default=0)
    if ask.depth < min(tied, depth):
        return replace(ask, cached=False, depth=min(tied, depth))
    return None


def _is_tied(row: raw.Row) -> bool:
    """Whether others are as likely as this token and none is likelier (common in bfloat16)."""
    return row.rank > 1 and row.logprob == row.likeliest[0][1]


def _is_greedy(row: raw.Row, token: int) -> bool:
    """Whether greedy decoding takes this token: of equals, argmax takes the lowest."""
    if not _is_tied(row):
        return row.rank == 1
    return token == min(token, *(i for i, logprob in row.likeliest if logprob == row.logprob))


def _reply(tail: Sequence[int], one: raw.Scored) -> Reply:
    *fed, last = tail
    rows = one.rows[len(one.rows) - len(fed) :]
    logprob = sum(row.logprob for row in rows) + one.last[last]
    if math.isnan(logprob):
        raise not_finite()
    greedy = one.greedy == last and all(map(_is_greedy, rows, fed))
    return Reply(logprob=logprob, greedy=greedy, tokens=len(tail))


def _generate(
    llm: Any,
    encoder: Encoder,
    requests: Sequence[Request],
    version: str,
    sampling: Mapping[str, Any],
) -> Iterable[Reply]:
    """Continue each request's context."""
    if not requests:
        return []
    decodings = [Decoding.of(request.generation) for request in requests]
    prompts = [encoder.prompt(request.context) for request in requests]
    found = raw.generate(llm, prompts, decodings, sorted(encoder.eos), sampling)
    replies: list[Reply] = []
    for decoding, one in zip(decodings, found, strict=True):
        _check_versions(one.versions, version)
        if not one.finite:
            raise not_finite()
        if one.reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended an answer with '{one.reason}'")
        text = answer_text(encoder, one.tokens, decoding.until)
        replies.append(Reply(text, tokens=len(one.tokens), truncated=one.reason == "length"))
    return replies


def _check_versions(found: frozenset[str], version: str) -> None:
    if found != {version}:
        raise WrongWeightsError(
            f"an output bears the weight versions {sorted(found)}, but the candidate is {version!r}"
        )
