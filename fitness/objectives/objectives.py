"""Computes a run's objectives from a candidate's responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fitness.estimate import Estimate, mean_estimate, weighted
from fitness.functions import load_function
from fitness.items import Response
from fitness.objectives.custom import ByTask, Pools, function_estimate
from fitness.objectives.loss import loss_estimate
from fitness.objectives.several_tasks import spread_of, worst_of
from fitness.objectives.spec import ObjectiveSpec, check_spec, require

TaskEstimator = Callable[[Sequence[Response]], Estimate]
"""A task's score from responses to some of its items."""

ByItem = Mapping[tuple[str, int], float]
"""A number in [0, 1] per item, by task and index."""

ByCost = Mapping[str, Estimate]
"""Costs of the model that answers, by their names in `MODEL_COSTS`."""


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
            check_spec(spec, self._pools)
        names = [spec.name for spec in self.specs]
        require(len(set(names)) == len(names), f"names {names}", "two are equal", "objectives")
        self._functions = {
            spec.name: load_function(spec.function, folder)
            for spec in self.specs
            if spec.kind == "function"
        }

    def measure(
        self,
        responses: Sequence[Response],
        *,
        finite: bool = True,
        incumbent: ByItem | None = None,
        agreement: ByItem | None = None,
        model: ByCost | None = None,
    ) -> dict[str, Estimate]:
        """Every objective of one candidate, by name.

        Args:
            responses: what the candidate did, at most one per item, of every task in use.
            finite: the estimates speak for the pools; False: for any further item of their kind
                (no finite-population correction), as a report on test items should, and by the
                plain mean, whatever the estimators are.
            incumbent: the incumbent's score in [0, 1] on every item of `responses`, for `flips`.
            agreement: share of the candidate's neighbours that answer as it does, in [0, 1], on
                every item of `responses`, for `consistency`.
            model: the costs of the model itself, those in use at least.

        Raises:
            FitnessError: no responses for a task in use, an item without its incumbent's score,
                agreement or loss where it is needed, a cost of the model that is not passed, or a
                custom function that fails.
        """
        by_task: dict[str, list[Response]] = {}
        for response in responses:
            by_task.setdefault(response.task, []).append(response)
        pools = {task: pool if finite else None for task, pool in self._pools.items()}
        beside = {"flips": incumbent or {}, "consistency": agreement or {}}
        return {
            spec.name: _of_model(spec, model or {})
            if spec.of_model
            else self._measure(spec, by_task, pools, beside)
            for spec in self.specs
        }

    def _measure(
        self, spec: ObjectiveSpec, by_task: ByTask, pools: Pools, beside: Mapping[str, ByItem]
    ) -> Estimate:
        tasks = spec.tasks or dict.fromkeys(self._pools, 1.0)
        missing = sorted(set(tasks) - set(by_task))
        require(not missing, f"no responses of {missing}", "it needs them", spec.where)
        used = {task: by_task[task] for task in tasks}
        if spec.kind == "function":
            function = self._functions[spec.name]
            return function_estimate(function, spec.function, used, pools)
        if spec.kind == "cost":
            return self._cost(spec, used, pools)
        if spec.kind in beside:
            return self._beside(spec, used, pools, beside[spec.kind])
        if spec.kind == "loss":
            losses = [loss_estimate(used[t], pools[t], spec.where) for t in tasks]
            return weighted(losses, list(tasks.values()))
        estimates = [self._score(used[task], task, pools[task]) for task in tasks]
        if spec.kind == "worst":
            return worst_of(estimates, highest=spec.direction == "minimize")
        if spec.kind == "spread":
            return spread_of(estimates)
        return weighted(estimates, list(tasks.values()))

    def _score(self, answers: Sequence[Response], task: str, pool: int | None) -> Estimate:
        if pool is not None and task in self._estimators:
            return self._estimators[task](answers)
        return mean_estimate([r.score for r in answers], pool)

    def _cost(self, spec: ObjectiveSpec, used: ByTask, pools: Pools) -> Estimate:
        # Only generated answers have tokens: even an empty one has its end token.
        answers = {t: [r for r in used[t] if r.tokens > 0] for t in used}
        tasks = [task for task in used if answers[task]]
        require(bool(tasks), f"cost '{spec.cost}'", "no task generates answers", spec.where)
        return self._over_items(spec, {t: _cost_of(spec.cost, answers[t], pools[t]) for t in tasks})

    def _beside(self, spec: ObjectiveSpec, used: ByTask, pools: Pools, numbers: ByItem) -> Estimate:
        """The mean of what is known per item beside the candidate's own responses."""
        missing = [(t, r.index) for t in used for r in used[t] if (t, r.index) not in numbers]
        what = {"flips": "the incumbent's score", "consistency": "the neighbours' agreement"}
        require(
            not missing,
            f"{len(missing)} items without {what[spec.kind]}, such as {missing[:1]}",
            "it is needed on every item that the candidate answered",
            spec.where,
            "pass it to `measure`",
        )
        estimates: dict[str, Estimate] = {}
        for task, answers in used.items():
            values = [numbers[task, r.index] for r in answers]
            if spec.kind == "flips":
                # Of answers that are right or wrong, 1 where right became wrong; of graded ones,
                # what was lost. Gains elsewhere make up for nothing.
                values = [max(0.0, v - r.score) for v, r in zip(values, answers, strict=True)]
            estimates[task] = mean_estimate(values, pools[task])
        return self._over_items(spec, estimates)

    def _over_items(self, spec: ObjectiveSpec, estimates: Mapping[str, Estimate]) -> Estimate:
        """Mean over items: tasks weigh by their number of items unless weights say."""
        weights = [float(spec.tasks.get(task, 0) or self._pools[task]) for task in estimates]
        return weighted(list(estimates.values()), weights)


def _of_model(spec: ObjectiveSpec, model: ByCost) -> Estimate:
    """A cost of the model: what was passed."""
    require(
        spec.cost in model,
        f"cost '{spec.cost}'",
        "no answer tells it",
        spec.where,
        "pass it to `measure`",
    )
    return model[spec.cost]


def _cost_of(cost: str, answers: Sequence[Response], pool: int | None) -> Estimate:
    """The mean of a cost over one task's generated answers."""
    if cost == "truncated":
        return mean_estimate([float(r.truncated) for r in answers], pool)
    if cost == "parse_failures":
        return mean_estimate([float(r.parse_failure) for r in answers], pool)
    tokens = [float(r.tokens) for r in answers]
    # Token counts have no upper end: take nothing and twice the mean as the range.
    return mean_estimate(tokens, pool, high=2 * math.fsum(tokens) / len(tokens))
