"""The raw calls to a running vLLM: SamplingParams in, token ids and log probabilities out.

With `internals` the only module that imports vllm, and it does so in its functions: the engine's
environment has to be set first. `scoring` makes replies of what is returned here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fitness.engines.decoding import Decoding
from fitness.errors import FitnessError, nearest, one_line

MOST_LAST = 128
"""Most tokens vLLM scores after one prompt (its `MAX_LOGPROB_TOKEN_IDS`)."""

FROM_THE_RUN_FILE = (
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens", "bad_words"),
    *("logit_bias", "allowed_token_ids", "thinking_token_budget", "extra_args"),
)
"""SamplingParams that a run file may set. The others are an item's own or are read by us."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A scoring request: the log probabilities of what follows, and of the end of the prompt.

    Attributes:
        fed: the prompt's tokens, at least one.
        rows: how many of the last tokens of `fed` are scored, below its length.
        last: tokens scored as the one after `fed`: 1 to `MOST_LAST`.
        depth: how many of the likeliest tokens are told of each scored token of `fed`.
        cached: read the prefix cache. The rows of cached tokens are not computed.
    """

    fed: tuple[int, ...]
    rows: int
    last: tuple[int, ...]
    depth: int = 1
    cached: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """The model's opinion of one token of the prompt.

    Attributes:
        logprob: natural logarithm of its probability.
        rank: how many tokens are at least as likely, itself included.
        likeliest: (token, logprob) of the likeliest ones, best first.
    """

    logprob: float
    rank: int
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """What came back for an `Ask`.

    Attributes:
        rows: of the scored tokens of `fed`, in order; fewer than asked for if vLLM left some out.
        last: log probability of each token of `last`.
        greedy: the token that greedy decoding puts after `fed`.
        cached: tokens of `fed` that were read from the prefix cache.
        versions: weight versions that vLLM stamped on the output.
    """

    rows: tuple[Row, ...]
    last: Mapping[int, float]
    greedy: int
    cached: int
    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Continued:
    """A prompt's continuation.

    Attributes:
        tokens: what was generated, with the end token or the tokens of the stop string.
        reason: vLLM's `finish_reason`: `stop`, `length`, `repetition`, or an accident.
        finite: every generated token had a log probability that is a number.
        versions: weight versions that vLLM stamped on the output.
    """

    tokens: tuple[int, ...]
    reason: str
    finite: bool
    versions: frozenset[str]


def check_sampling(sampling: Mapping[str, Any]) -> None:
    """Refuse what a run file may not put into SamplingParams. Imports vllm, starts nothing.

    Raises:
        FitnessError: a name that is unknown or not the run file's, or a value vLLM refuses.
    """
    for name in sampling:
        if name in FROM_THE_RUN_FILE:
            continue
        of_tasks = name in Decoding.__dataclass_fields__
        raise FitnessError(
            f"sampling.{name} = {sampling[name]!r}",
            "a task says it" if of_tasks else "not a parameter that a run file sets",
            "engine",
            "put it into the task's `generation`" if of_tasks else nearest(name, FROM_THE_RUN_FILE),
        )
    _continuing(Decoding(), 0, (), sampling)


def score(llm: Any, asks: Sequence[Ask]) -> list[Scored]:
    """Ask vLLM for log probabilities.

    Args:
        llm: a running `vllm.LLM` whose `logprobs_mode` is `raw_logprobs`.
        asks: each fits `max_model_len` with one token more, as vLLM always generates one.

    Returns:
        One answer per ask, in order.
    """
    from vllm import SamplingParams, TokensPrompt

    parameters = [
        SamplingParams(
            temperature=0.0,
            max_tokens=1,
            detokenize=False,
            flat_logprobs=True,
            prompt_logprobs=ask.depth if ask.rows else None,
            logprob_token_ids=list(ask.last),
            # Set, because vLLM else skips the cache wherever prompt logprobs are asked for.
            skip_reading_prefix_cache=not ask.cached,
            skip_clone=True,
        )
        for ask in asks
    ]
    prompts = [TokensPrompt(prompt_token_ids=list(ask.fed)) for ask in asks]
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    return [_scored(ask, output) for ask, output in zip(asks, outputs, strict=True)]


def _scored(ask: Ask, output: Any) -> Scored:
    (made,) = output.outputs
    after = made.logprobs
    return Scored(
        _rows(ask.rows, output.prompt_logprobs) if ask.rows else (),
        dict(zip(after.token_ids, after.logprobs, strict=True)),
        made.token_ids[0],
        output.num_cached_tokens or 0,
        _versions(made),
    )


def _rows(count: int, flat: Any) -> tuple[Row, ...]:
    """The last `count` rows. Counted from the end: what was cached may be missing in front."""
    rows: list[Row] = []
    for start, end in zip(flat.start_indices[-count:], flat.end_indices[-count:], strict=True):
        if start < end:  # the first token has no row
            tokens, logprobs = flat.token_ids[start:end], flat.logprobs[start:end]
            likeliest = tuple(zip(tokens[1:], logprobs[1:], strict=True))
            rows.append(Row(logprobs[0], flat.ranks[start], likeliest))
    return tuple(rows)


def generate(
    llm: Any,
    prompts: Sequence[tuple[int, ...]],
    decodings: Sequence[Decoding],
    end_tokens: Sequence[int],
    sampling: Mapping[str, Any],
) -> list[Continued]:
    """Continue prompts, each in its own way.

    Args:
        llm: a running `vllm.LLM`.
        prompts: tokens of each; none is empty, and each fits with what it may generate.
        decodings: how to continue each.
        end_tokens: tokens that end an answer.
        sampling: further SamplingParams, one of `FROM_THE_RUN_FILE` each.

    Returns:
        One continuation per prompt, in order.

    Raises:
        FitnessError: vLLM refuses a parameter.
    """
    from vllm import TokensPrompt
    from vllm.exceptions import VLLMValidationError

    parameters = [
        _continuing(decoding, decoding.seed_of(prompt), end_tokens, sampling)
        for prompt, decoding in zip(prompts, decodings, strict=True)
    ]
    asked = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
    try:
        outputs = llm.generate(asked, parameters, use_tqdm=False)
    except VLLMValidationError as error:
        raise _refused(error) from error
    return [_continued(output) for output in outputs]


def _continuing(
    decoding: Decoding, seed: int, end_tokens: Sequence[int], sampling: Mapping[str, Any]
) -> Any:
    """The SamplingParams of one prompt."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    try:
        return SamplingParams(
            temperature=decoding.temperature,
            top_k=decoding.top_k or 0,
            top_p=decoding.top_p or 1.0,
            min_p=decoding.min_p or 0.0,
            seed=seed if decoding.temperature else None,
            max_tokens=decoding.new_tokens,
            stop=list(decoding.until),
            stop_token_ids=list(end_tokens),
            # Stop strings may be special tokens' texts; the reply's text is made of the tokens.
            skip_special_tokens=False,
            # Tells numbers from NaN: the one thing about the logits that vLLM shows.
            logprobs=0,
            flat_logprobs=True,
            skip_clone=True,
            **sampling,
        )
    except (VLLMValidationError, TypeError) as error:
        raise _refused(error) from error


def _continued(output: Any) -> Continued:
    (made,) = output.outputs
    return Continued(
        tuple(made.token_ids),
        made.finish_reason,
        not math.isnan(made.cumulative_logprob),
        _versions(made),
    )


def _versions(made: Any) -> frozenset[str]:
    return frozenset(span.version for span in made.weight_versions or ())


def _refused(error: Exception) -> FitnessError:
    return FitnessError(
        "sampling parameters",
        f"vLLM refuses them: {one_line(error)}",
        "engine",
        "change the task's `generation` or the engine's `sampling`",
    )
