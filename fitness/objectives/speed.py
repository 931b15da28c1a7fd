"""Measured speed: tokens handled per second, and how far a few timings can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fitness.estimate import Estimate
from fitness.items import Reply, Request
from fitness.objectives.spec import require

ONE_TIMING = 0.1
"""Error of one timing where there is no other to compare it with: a share of it."""

_ONE_TOKEN = {"max_gen_toks": 1}


@dataclass(frozen=True, slots=True)
class Timing:
    """One call of an engine.

    Attributes:
        tokens: of prompts and answers, at least 1.
        seconds: from the call to the last reply, more than 0.
    """

    tokens: int
    seconds: float


class Counts(Protocol):
    """Whoever knows how many tokens requests need; an engine does."""

    def token_lengths(self, requests: Sequence[Request]) -> list[int]:
        """Tokens each request needs: its prompt and what is scored or may be generated after it."""
        ...


def tokens_handled(engine: Counts, requests: Sequence[Request], replies: Sequence[Reply]) -> int:
    """Tokens of the prompts, of what was scored after them, and of the answers.

    A prompt counts as often as it is asked, whatever a cache spares the engine.

    Args:
        engine: that answered.
        requests: what it was asked.
        replies: one per request.
    """
    bare = [replace(r, generation=_ONE_TOKEN) if r.kind == "generate" else r for r in requests]
    answers = (
        reply.tokens - 1
        for request, reply in zip(requests, replies, strict=True)
        if request.kind == "generate"
    )
    return sum(engine.token_lengths(bare)) + sum(answers)


def speed_estimate(timings: Sequence[Timing], before: Estimate | None = None) -> Estimate:
    """Tokens per second over all timings.

    With tokens T_i, seconds s_i, speeds r_i = T_i / s_i of k timings, shares w_i = s_i / sum s and
    R = sum T / sum s = sum w_i r_i::

        found = sum w_i (r_i / R - 1)^2 / (1 - sum w_i^2)    without bias; 0 if k = 1
        v     = (0.1^2 + (k - 1) found) / k
        se    = R sqrt(v sum w_i^2)

    One timing is taken to be right to a tenth; of several, their own spread tells more and more of
    it (v is a variance of k - 1 degrees of freedom and a prior worth one).

    Args:
        timings: of this time.
        before: what an earlier time came to; the two are weighed by their precision.

    Raises:
        FitnessError: neither timings nor an earlier estimate.
    """
    require(
        bool(timings) or before is not None,
        "no timing",
        "every answer was known before, so nothing was timed",
        "cost 'tokens_per_second'",
        "have some items answered",
    )
    if not timings:
        assert before is not None
        return before
    now = _of(timings)
    if before is None or before.se <= 0:
        return now
    shares = [1 / before.se**2, 1 / now.se**2]
    total = math.fsum(shares)
    value = (shares[0] * before.value + shares[1] * now.value) / total
    return Estimate(value, math.sqrt(1 / total))


def _of(timings: Sequence[Timing]) -> Estimate:
    count, seconds = len(timings), math.fsum(t.seconds for t in timings)
    speed = sum(t.tokens for t in timings) / seconds
    shares = [t.seconds / seconds for t in timings]
    squares = math.fsum(share**2 for share in shares)
    off = math.fsum(
        share * (t.tokens / t.seconds / speed - 1) ** 2
        for t, share in zip(timings, shares, strict=True)
    )
    found = off / (1 - squares) if count > 1 else 0.0
    variance = (ONE_TIMING**2 + (count - 1) * found) / count
    return Estimate(speed, speed * math.sqrt(variance * squares))
