"""From the run file's objectives to those that are measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from evomerge.config import Engine, Objective, RunFile
from fitness.errors import FitnessError
from fitness.objectives import EXACT_COSTS, MODEL_COSTS, SPEED, ObjectiveSpec, direction_of
from fitness.tasks import TaskSet
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe

if TYPE_CHECKING:
    from evomerge.merge.model_costs import RecipeCosts
    from evomerge.merge.sources import Sources

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
    if objective.kind in _MINIMISED and objective.cost != SPEED:
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


def model_costs(config: RunFile) -> frozenset[str]:
    """The costs of the model itself that objectives ask for."""
    return frozenset(o.cost for o in config.fitness.objectives if o.cost in MODEL_COSTS)


def is_timed(config: RunFile) -> bool:
    """Whether the speed of answering is measured: answers from elsewhere tell nothing of it."""
    return SPEED in model_costs(config)


_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4, "fp8": 1}


def cache_itemsize(engine: Engine) -> int:
    """Bytes of a number in the engine's cache of keys and values.

    Raises:
        InputError: vLLM's `kv_cache_dtype` is none whose size is known here.
    """
    chosen = str(engine.arguments.get("kv_cache_dtype", "auto"))
    name = engine.dtype if chosen == "auto" else chosen.split("_", maxsplit=1)[0]
    if name not in _ITEMSIZE:
        raise InputError(
            f"kv_cache_dtype '{chosen}'",
            "the size of its numbers is not known, and `kv_bytes` counts them",
            "engine.arguments",
            f"use auto or one of: {', '.join(_ITEMSIZE)}",
        )
    return _ITEMSIZE[name]


def recipe_costs(config: RunFile, sources: "Sources") -> "RecipeCosts":
    """Tells the costs that objectives ask for of recipes over `sources`.

    Raises:
        InputError: see `cache_itemsize`.
    """
    from evomerge.merge.model_costs import RecipeCosts

    cached = "kv_bytes" in model_costs(config)
    return RecipeCosts(sources, cache_itemsize(config.engine) if cached else 0)


def cost_facts(
    config: RunFile, sources: "Sources", recipes: Mapping[str, Recipe]
) -> list[tuple[str, str]]:
    """What `check` says of costs of the model, if objectives ask for them.

    Args:
        config: the run file.
        sources: opened.
        recipes: models to show the costs of, by name.

    Raises:
        InputError: a cost that cannot be told of this architecture or engine.
    """
    asked = model_costs(config)
    exact = [name for name in EXACT_COSTS if name in asked]
    facts: list[tuple[str, str]] = []
    if exact:
        costs = recipe_costs(config, sources)
        for name, recipe in recipes.items():
            found = costs.of(recipe, exact)
            told = ", ".join(f"{cost} {value:,.0f}" for cost, value in found.items())
            facts.append((f"costs of {name}", told))
    if len(asked) > 1 and config.export.pick == "knee":
        several = ", ".join(name for name in MODEL_COSTS if name in asked)
        together = f"{several} go together: several of them outweigh a score in `export.pick: knee`"
        facts.append(("note", f"{together}; keep one, or pick best:OBJECTIVE"))
    if is_timed(config):
        facts.append(("note", f"`{SPEED}` is measured: answers are not shared with other runs"))
    return facts
