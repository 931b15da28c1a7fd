"""Teacher-forced loss: smooth where a score is a coin's toss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from fitness.estimate import Estimate, unseen
from fitness.items import Response
from fitness.objectives.spec import require

_Z = NormalDist().inv_cdf(0.95)


def loss_estimate(answers: Sequence[Response], pool: int | None, where: str) -> Estimate:
    """Mean over `pool` items of the loss, in nats per token, from a random sample of them.

    With n losses x of N = `pool` items::

        se = sqrt(sum (x - mean(x))^2 / (n - 1) / n * (1 - n / N)) * t(n - 1) / 1.645

    t is the 95 % point of Student's distribution, so value +- 1.645 se is the usual 90 % interval
    of a mean. One answer alone has no variance: its error is taken to be as large as the value.

    Args:
        answers: one task's, at least one, each with its loss.
        pool: items the estimate speaks for; None is infinitely many.
        where: the objective, for the error.

    Raises:
        FitnessError: a response without a loss.
    """
    losses = [r.loss for r in answers if r.loss is not None]
    n = len(answers)
    require(
        len(losses) == n,
        f"{n - len(losses)} responses of task '{answers[0].task}' without a loss",
        "it was not asked for",
        where,
        "compile the task with `TaskSpec.loss`",
    )
    require(
        all(map(math.isfinite, losses)),
        f"task '{answers[0].task}': a loss that is not finite",
        "the model gives a right answer no probability at all",
        where,
        "minimise something else, or correct the task's target",
    )
    value = math.fsum(losses) / n
    left = unseen(n, pool)
    if n == 1:
        return Estimate(value, abs(value) * math.sqrt(left))
    variance = math.fsum((x - value) ** 2 for x in losses) / (n - 1)
    return Estimate(value, math.sqrt(variance / n * left) * _student(n - 1) / _Z)


def _student(freedom: int) -> float:
    """The 95 % point of Student's t: Abramowitz and Stegun 1964, 26.7.5 (exact for 1 and 2)."""
    if freedom == 1:
        return math.tan(math.pi * 0.45)
    if freedom == 2:
        return 0.9 * math.sqrt(2 / (1 - 0.9**2))
    z = _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
