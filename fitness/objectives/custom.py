"""The user's own objectives: a number from responses, and its standard error by the jackknife."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fitness.errors import FitnessError, one_line
from fitness.estimate import Estimate, mean_estimate, unseen
from fitness.items import Response
from fitness.objectives.spec import require

GROUPS = 20
"""Groups of the jackknife, at most."""

ByTask = Mapping[str, Sequence[Response]]
Pools = Mapping[str, int | None]


def function_estimate(
    function: Callable[[ByTask], Any],
    name: str,
    by_task: ByTask,
    pools: Pools,
) -> Estimate:
    """Call a custom objective; if it returns a number, estimate its standard error.

    The error is the delete-one-group jackknife (Kott, "The delete-a-group jackknife", 2001) with
    up to 20 groups, each a share of every task's responses, times the finite-population
    correction. It costs one call per group, and is 0 when no group matters to the function. One
    response alone has no jackknife: its error is taken to be as large as the value.

    If every response has one and the same score and the function returns that score, it is taken
    for a kind of mean, and its error is at least that of `mean_estimate`, which is not 0 then.

    Raises:
        FitnessError: the function raises, or returns something that is not a finite number.
    """
    whole = _call(function, name, by_task)
    if isinstance(whole, Estimate):
        return whole
    answered = sum(len(answers) for answers in by_task.values())
    sizes = [pools[task] for task in by_task]
    finite = [size for size in sizes if size is not None]
    pool = sum(finite) if len(finite) == len(sizes) else None
    left = unseen(answered, pool)
    groups = min(GROUPS, answered)
    if left <= 0 or groups < 2:
        return Estimate(whole, 0.0 if left <= 0 else abs(whole))
    without = [_call(function, name, _without(by_task, group, groups)) for group in range(groups)]
    values = [v.value if isinstance(v, Estimate) else v for v in without]
    centre = math.fsum(values) / groups
    variance = (groups - 1) / groups * math.fsum((v - centre) ** 2 for v in values)
    scores = [response.score for answers in by_task.values() for response in answers]
    agreed = all(score == whole for score in scores) and 0 <= whole <= 1
    least = mean_estimate(scores, pool).se if agreed else 0.0
    return Estimate(whole, max(least, math.sqrt(variance * left)))


def _without(by_task: ByTask, group: int, groups: int) -> dict[str, list[Response]]:
    """All responses but those of a group. A task's last response stays: no task becomes empty."""
    kept: dict[str, list[Response]] = {}
    start = 0
    for task, answers in by_task.items():
        rest = [r for i, r in enumerate(answers) if (start + i) % groups != group]
        kept[task] = rest or list(answers)
        start += len(answers)
    return kept


def _call(function: Callable[[ByTask], Any], name: str, by_task: ByTask) -> float | Estimate:
    try:
        result = function({task: tuple(answers) for task, answers in by_task.items()})
    except Exception as error:  # the user's code may raise anything
        raise FitnessError(
            f"function '{name}'", f"it raised {one_line(error)}", "objectives", "correct it"
        ) from error
    numbers_ = (result.value, result.se) if isinstance(result, Estimate) else (result,)
    finite = all(isinstance(x, numbers.Real) and math.isfinite(x) for x in numbers_)
    require(
        finite,
        f"function '{name}' returned {result!r}",
        "it must return a finite number or an Estimate of finite numbers",
        "objectives",
    )
    return result if isinstance(result, Estimate) else float(result)
