"""What an objective is: plain data, and the checks that it makes sense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fitness.errors import FitnessError, nearest

KINDS = (
    "task",
    "weighted",
    "worst",
    "spread",
    "cost",
    "loss",
    "flips",
    "consistency",
    "function",
)
DIRECTIONS = ("maximize", "minimize")
ANSWER_COSTS = ("tokens", "truncated", "parse_failures")
"""Costs read off generated answers."""
EXACT_COSTS = ("layers", "parameters", "kv_bytes")
"""Costs of the model that follow from its recipe."""
SPEED = "tokens_per_second"
"""The one cost of which more is better, and the one of the model that is measured."""
MODEL_COSTS = (*EXACT_COSTS, SPEED)
"""Costs of the model that answers, which no answer tells: `Objectives.measure` is given them."""
COSTS = (*ANSWER_COSTS, *MODEL_COSTS)


@dataclass(frozen=True)
class ObjectiveSpec:
    """What to compute and which way is better. Plain data.

    Attributes:
        name: the objective's name.
        kind: one of

            - `task`: a task's score.
            - `weighted`: weighted mean over tasks.
            - `worst`: the least of several tasks' scores; the greatest where `direction` is
              `minimize`.
            - `spread`: standard deviation over tasks of their scores, in their unit; `minimize`.
            - `cost`: a mean over generated answers, or a number of the model itself; `minimize`, but
              for `tokens_per_second`.
            - `loss`: negative log-likelihood of the gold answer (nats per token); `minimize`.
            - `flips`: what is lost on items that an incumbent had right, in [0, 1]; `minimize`.
            - `consistency`: share of answers that neighbours of the candidate give as well.
            - `function`: the user's own.
        direction: `maximize` or `minimize`.
        tasks: weight by task. One entry for `task`, at least one for `weighted` and `loss`, two for
            `worst` and `spread`, whose weights say nothing; for the others, empty is all tasks, each
            with its number of items for its weight. A cost of the model has none.
        cost: of answers `tokens` (mean tokens per generated answer), `truncated` (share of answers
            that hit the token limit) or `parse_failures` (share in which no answer was found); of
            the model `layers`, `parameters`, `kv_bytes` (of keys and values, per token) or
            `tokens_per_second` (of prompts and answers, measured).
        function: `path/to/file.py:name` or `package.module:name`.
    """

    name: str
    kind: str
    direction: str = "maximize"
    tasks: Mapping[str, float] = field(default_factory=dict)
    cost: str = ""
    function: str = ""

    @property
    def where(self) -> str:
        """The objective, for errors."""
        return f"objective '{self.name}'"

    @property
    def of_model(self) -> bool:
        """Whether it is a number of the model itself, which no answer tells."""
        return self.kind == "cost" and self.cost in MODEL_COSTS


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
        known("task", task, list(higher_is_better), where)
    up = [task for task in tasks if higher_is_better[task]]
    down = [task for task in tasks if not higher_is_better[task]]
    require(
        not (up and down),
        f"tasks {list(tasks)}",
        f"higher is better for {up}, lower for {down}: no mean of both can be improved",
        where,
        "make two objectives of them",
    )
    return "minimize" if down else "maximize"


def check_spec(spec: ObjectiveSpec, pools: Mapping[str, int]) -> None:
    """Refuse a spec that names something unknown, or too few tasks.

    Raises:
        FitnessError: what is wrong.
    """
    known("kind", spec.kind, KINDS, spec.where)
    known("direction", spec.direction, DIRECTIONS, spec.where)
    for task in spec.tasks:
        known("task", task, list(pools), spec.where)
    if spec.kind == "cost":
        known("cost", spec.cost, COSTS, spec.where)
    require(
        not (spec.of_model and spec.tasks),
        f"cost '{spec.cost}' of tasks {list(spec.tasks)}",
        "it is the model's, whatever it is asked",
        spec.where,
        "leave the tasks out",
    )
    _check_count(spec)
    positive = all(weight > 0 and math.isfinite(weight) for weight in spec.tasks.values())
    require(positive, f"weights {dict(spec.tasks)}", "each must be finite and above 0", spec.where)


def _check_count(spec: ObjectiveSpec) -> None:
    passed, count = f"tasks {list(spec.tasks)}", len(spec.tasks)
    if spec.kind == "task":
        require(count == 1, passed, "name exactly one", spec.where)
    if spec.kind == "weighted":
        require(count > 0, "no tasks", "name at least one with its weight", spec.where)
    if spec.kind == "loss":
        require(count > 0, "no tasks", "name at least one", spec.where)
    if spec.kind in ("worst", "spread"):
        require(count > 1, passed, "name at least two", spec.where)


def require(holds: bool, passed: str, rule: str, where: str, remedy: str = "correct it") -> None:
    """Raise a `FitnessError` of these parts unless `holds`."""
    if not holds:
        raise FitnessError(passed, rule, where, remedy)


def known(key: str, value: str, names: Sequence[str], where: str) -> None:
    """Raise a `FitnessError` that suggests the nearest of `names` if `value` is none of them."""
    require(value in names, f"{key} '{value}'", "unknown", where, nearest(value, names))
