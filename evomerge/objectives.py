"""From the run file's objectives to those that are measured."""

from typing import Literal

from evomerge.config import Objective, RunFile
from fitness.errors import FitnessError
from fitness.objectives import ObjectiveSpec, direction_of
from fitness.tasks import TaskSet

_KINDS = {"tasks": "weighted"}
"""What the run file calls otherwise than `ObjectiveSpec`."""

_MINIMISED = ("cost", "loss", "flips", "spread")


def spec_of(objective: Objective, tasks: TaskSet) -> ObjectiveSpec:
    """The objective as it is measured, its direction resolved.

    Args:
        objective: of the run file.
        tasks: the compiled tasks, whose metrics say which way is better.

    Raises:
        FitnessError: a mean, worst or spread of metrics that point in different directions, or
            flips of a metric of which lower is better.
    """
    weights = objective.tasks or dict.fromkeys(objective.named_tasks, 1.0)
    if objective.consistency:
        # Tasks weigh by their number of items, as for every objective on all tasks.
        weights = {t: float(len(tasks.items(t))) for t in objective.consistency.tasks}
    return ObjectiveSpec(
        name=objective.label,
        kind=_KINDS.get(objective.kind, objective.kind),
        direction=_direction(objective, tasks),
        tasks=weights,
        cost=objective.cost or "",
        function=objective.function or "",
    )


def _direction(objective: Objective, tasks: TaskSet) -> Literal["maximize", "minimize"]:
    """What the metrics say of themselves, or what the kind of objective does."""
    where = f"objective '{objective.label}'"
    higher = {task: tasks.higher_is_better(task) for task in tasks.names}
    natural: Literal["maximize", "minimize"] = "maximize"
    if objective.kind in ("task", "tasks", "worst", "spread"):
        natural = direction_of(dict.fromkeys(objective.named_tasks, 1.0), higher, where)
    lower = [task for task, is_higher in higher.items() if not is_higher]
    if objective.flips and lower:
        raise FitnessError(
            f"flips of all tasks, {lower} among them",
            "lower is better there, so right and wrong cannot be told from the score",
            where,
            "choose another metric of the task, or write a `function`",
        )
    if objective.kind in _MINIMISED:
        natural = "minimize"
    return objective.direction or natural


def incumbents(config: RunFile) -> str | None:
    """The model whose right answers must not be lost: a source's name or `uniform`, if there is one.

    A run file names at most one, or it is refused when it is read.
    """
    return next((o.flips for o in config.fitness.objectives if o.flips), None)


def neighbour_step(config: RunFile) -> float | None:
    """How far the neighbours are with which candidates are to agree, if they are (ratio)."""
    asked = (o.consistency for o in config.fitness.objectives)
    return next((consistency.step for consistency in asked if consistency), None)


def losses(config: RunFile) -> frozenset[str]:
    """The tasks whose losses are wanted: `TaskSpec.loss` of these is to be set."""
    return frozenset(task for o in config.fitness.objectives for task in o.loss or [])
