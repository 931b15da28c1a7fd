"""Objectives: the named numbers a search maximises or minimises, computed from responses."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fitness.errors import FitnessError, nearest, one_line
from fitness.estimate import Estimate, mean_estimate, unseen, weighted
from fitness.functions import load_function
from fitness.items import Response

KINDS = ("task", "weighted", "cost", "function")
DIRECTIONS = ("maximize", "minimize")
COSTS = ("tokens", "truncated", "parse_failures")
GROUPS = 20
"""Groups of the jackknife, at most."""

ByTask = Mapping[str, Sequence[Response]]
Pools = Mapping[str, int | None]
TaskEstimator = Callable[[Sequence[Response]], Estimate]
"""A task's score from responses to some of its items."""


@dataclass(frozen=True)
class ObjectiveSpec:
    """What to compute and which way is better. Plain data.

    Attributes:
        name: the objective's name.
        kind: `task` (mean score of a task), `weighted` (weighted mean over tasks), `cost`, or
            `function` (the user's own).
        direction: `maximize` or `minimize`.
        tasks: weight by task; one entry for `task`; for `cost` and `function`, empty is all tasks.
        cost: `tokens` (mean tokens per generated answer), `truncated` (share of answers that hit
            the token limit) or `parse_failures` (share in which no answer was found).
        function: `path/to/file.py:name` or `package.module:name`.
    """

    name: str
    kind: str
    direction: str = "maximize"
    tasks: Mapping[str, float] = field(default_factory=dict)
    cost: str = ""
    function: str = ""


def direction_of(
    tasks: Mapping[str, float], higher_is_better: Mapping[str, bool], where: str
) -> Literal["maximize", "minimize"]:
    """The way the weighted mean of some tasks' metrics points: `maximize` or `minimize`.

    Args:
        tasks: weight by task; none at all is `maximize`.
        higher_is_better: by task, of every task there is (`TaskSet.higher_is_better`).
        where: the objective, for the error.

    Raises:
        FitnessError: metrics that point in different directions, whose mean means nothing, or a
            task that is not there.
    """
    for task in tasks:
        _known("task", task, list(higher_is_better), where)
    up = [task for task in tasks if higher_is_better[task]]
    down = [task for task in tasks if not higher_is_better[task]]
    _require(
        not (up and down),
        f"tasks {list(tasks)}",
        f"higher is better for {up}, lower for {down}: no mean of both can be improved",
        where,
        "make two objectives of them",
    )
    return "minimize" if down else "maximize"


class Objectives:
    """Computes every objective of a run from a candidate's responses.

    Args:
        specs: the objectives; names differ.
        pools: items each task's estimate speaks for, by task (those of the split, or all there
            are).
        folder: what paths of custom functions are relative to.
        estimators: by task, how responses become its score; the others take the mean.

    Raises:
        FitnessError: a spec that names something unknown, or a function that cannot be loaded.
    """

    def __init__(
        self,
        specs: Sequence[ObjectiveSpec],
        pools: Mapping[str, int],
        folder: Path,
        estimators: Mapping[str, TaskEstimator] | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self._pools = dict(pools)
        self._estimators = dict(estimators or {})
        for spec in self.specs:
            _check(spec, self._pools)
        names = [spec.name for spec in self.specs]
        _require(len(set(names)) == len(names), f"names {names}", "two are equal", "objectives")
        self._functions = {
            spec.name: load_function(spec.function, folder)
            for spec in self.specs
            if spec.kind == "function"
        }

    def measure(self, responses: Sequence[Response], *, finite: bool = True) -> dict[str, Estimate]:
        """Every objective of one candidate, by name.

        Args:
            responses: what the candidate did, at most one per item, of every task in use.
            finite: the estimates speak for the pools; False: for any further item of their kind
                (no finite-population correction), as a report on test items should, and by the
                plain mean, whatever the estimators are.

        Raises:
            FitnessError: no responses for a task in use, or a custom function that fails.
        """
        by_task: dict[str, list[Response]] = {}
        for response in responses:
            by_task.setdefault(response.task, []).append(response)
        pools = {task: pool if finite else None for task, pool in self._pools.items()}
        return {spec.name: self._measure(spec, by_task, pools) for spec in self.specs}

    def _measure(self, spec: ObjectiveSpec, by_task: ByTask, pools: Pools) -> Estimate:
        tasks = spec.tasks or dict.fromkeys(self._pools, 1.0)
        missing = sorted(set(tasks) - set(by_task))
        _require(not missing, f"no responses of {missing}", "it needs them", _where(spec))
        used = {task: by_task[task] for task in tasks}
        if spec.kind == "function":
            function = self._functions[spec.name]
            return function_estimate(function, spec.function, used, pools)
        if spec.kind == "cost":
            return self._cost(spec, used, pools)
        estimates = [self._score(used[task], task, pools[task]) for task in tasks]
        return weighted(estimates, list(tasks.values()))

    def _score(self, answers: Sequence[Response], task: str, pool: int | None) -> Estimate:
        if pool is not None and task in self._estimators:
            return self._estimators[task](answers)
        return mean_estimate([r.score for r in answers], pool)

    def _cost(self, spec: ObjectiveSpec, used: ByTask, pools: Pools) -> Estimate:
        """Mean over generated answers; tasks weigh by their number of items unless weights say."""
        # Only generated answers have tokens: even an empty one has its end token.
        answers = {t: [r for r in used[t] if r.tokens > 0] for t in used}
        tasks = [task for task in used if answers[task]]
        _require(bool(tasks), f"cost '{spec.cost}'", "no task generates answers", _where(spec))
        weights = [float(spec.tasks.get(task, 0) or self._pools[task]) for task in tasks]
        return weighted([_cost_of(spec.cost, answers[t], pools[t]) for t in tasks], weights)


def _cost_of(cost: str, answers: Sequence[Response], pool: int | None) -> Estimate:
    """The mean of a cost over one task's generated answers."""
    if cost == "truncated":
        return mean_estimate([float(r.truncated) for r in answers], pool)
    if cost == "parse_failures":
        return mean_estimate([float(r.parse_failure) for r in answers], pool)
    tokens = [float(r.tokens) for r in answers]
    # Token counts have no upper end: take nothing and twice the mean as the range.
    return mean_estimate(tokens, pool, high=2 * math.fsum(tokens) / len(tokens))


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
    _require(
        finite,
        f"function '{name}' returned {result!r}",
        "it must return a finite number or an Estimate of finite numbers",
        "objectives",
    )
    return result if isinstance(result, Estimate) else float(result)


def _where(spec: ObjectiveSpec) -> str:
    return f"objective '{spec.name}'"


def _require(holds: bool, passed: str, rule: str, where: str, remedy: str = "correct it") -> None:
    if not holds:
        raise FitnessError(passed, rule, where, remedy)


def _known(key: str, value: str, known: Sequence[str], where: str) -> None:
    _require(value in known, f"{key} '{value}'", "unknown", where, nearest(value, known))


def _check(spec: ObjectiveSpec, pools: Mapping[str, int]) -> None:
    where = _where(spec)
    _known("kind", spec.kind, KINDS, where)
    _known("direction", spec.direction, DIRECTIONS, where)
    for task in spec.tasks:
        _known("task", task, list(pools), where)
    if spec.kind == "cost":
        _known("cost", spec.cost, COSTS, where)
    if spec.kind == "task":
        _require(len(spec.tasks) == 1, f"tasks {list(spec.tasks)}", "name exactly one", where)
    if spec.kind == "weighted":
        _require(bool(spec.tasks), "no tasks", "name at least one with its weight", where)
    positive = all(weight > 0 and math.isfinite(weight) for weight in spec.tasks.values())
    _require(positive, f"weights {dict(spec.tasks)}", "each must be finite and above 0", where)
