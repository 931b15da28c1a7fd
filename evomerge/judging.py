"""From the run file to a judge: compiled tasks, disjoint splits, objectives.

The driver builds one to check the run and to write down its items; each evaluator builds one to
score with. Both get the same items, because everything follows from the run file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evomerge.config import Objective, RunFile
from evomerge.evaluation import AS_SEARCHED
from evomerge.runs.database import ItemRow
from fitness.estimate import Estimate
from fitness.items import Item, Reply, Request, Response
from fitness.objectives import Objectives, ObjectiveSpec, direction_of
from fitness.splits import SplitSizes, deal
from fitness.tasks import TaskSet, TaskSpec, compile_tasks

SPLITS = ("search", "selection", "test")


@dataclass(frozen=True)
class Judge:
    """Turns replies into responses and responses into objectives.

    Attributes:
        tasks: the compiled tasks.
        items: split -> its items, task after task.
        objectives: computed from the responses, directions resolved.
    """

    tasks: TaskSet
    items: dict[str, tuple[Item, ...]]
    objectives: Objectives

    @property
    def specs(self) -> tuple[ObjectiveSpec, ...]:
        """The objectives' declarations."""
        return self.objectives.specs

    def requests(self, split: str) -> list[Request]:
        """Everything an engine has to do for a split, in order."""
        return [request for item in self._of(split) for request in item.requests]

    def responses(self, split: str, replies: Sequence[Reply]) -> list[Response]:
        """One response per item of the split, from one reply per request."""
        grouped: list[Sequence[Reply]] = []
        start = 0
        for item in self._of(split):
            grouped.append(replies[start : start + len(item.requests)])
            start += len(item.requests)
        return self.tasks.score(self._of(split), grouped)

    def measure(self, split: str, responses: Sequence[Response]) -> dict[str, Estimate]:
        """The objectives' estimates.

        On search and selection items they speak for the whole task, with the finite-population
        correction; on test items for any further item of its kind, without it.
        """
        return self.objectives.measure(responses, finite=split not in ("test", AS_SEARCHED))

    def _of(self, split: str) -> tuple[Item, ...]:
        return self.items["test" if split == AS_SEARCHED else split]

    def rows(self) -> list[ItemRow]:
        """The splits as a run records them."""
        return [
            ItemRow(split, position, item.task, item.index, item.digest)
            for split in SPLITS
            for position, item in enumerate(self.items[split])
        ]


def build_judge(config: RunFile, folder: Path, model: Path, *, full: bool = False) -> Judge:
    """Compile the run file's tasks and split their items.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.
        model: a source's folder, for its chat template.
        full: one split `test` with every item (to score a finished model), others empty.

    Raises:
        FitnessError: a task that does not exist, is malformed, or has too few items.
    """
    specs = task_specs(config, folder)
    tokenizer = None
    if any(spec.apply_chat_template for spec in specs):
        from fitness.engines.resident import build_tokenizer

        tokenizer = build_tokenizer(model, config.engine.trust_remote_code)
    tasks = compile_tasks(specs, tokenizer=tokenizer, seed=config.fitness.seed)
    items = (
        {"test": [i for name in tasks.names for i in tasks.items(name)]}
        if full
        else _split(config, tasks)
    )
    declared = [_objective(o, tasks) for o in config.fitness.all_objectives]
    pools = {name: len(tasks.items(name)) for name in tasks.names}
    splits = {split: tuple(items.get(split, ())) for split in SPLITS}
    return Judge(tasks, splits, Objectives(declared, pools, folder))


def _split(config: RunFile, tasks: TaskSet) -> dict[str, list[Item]]:
    """Split -> items, task after task; no question is in two splits, not even of two tasks."""
    wanted = config.fitness.tasks
    sizes = {n: SplitSizes(t.items, t.selection or t.items, t.test) for n, t in wanted.items()}
    questions = {
        name: [tasks.questions(name)[item.index] for item in tasks.distinct(name)]
        for name in tasks.names
    }
    dealt = deal(questions, sizes, config.fitness.seed)
    return {
        split: [tasks.distinct(n)[i] for n in tasks.names for i in getattr(dealt[n], split)]
        for split in SPLITS
    }


def task_specs(config: RunFile, folder: Path) -> list[TaskSpec]:
    """The run file's tasks as `fitness` wants them, include paths resolved."""
    specs: list[TaskSpec] = []
    for name, task in config.fitness.tasks.items():
        include = task.include or config.fitness.include
        specs.append(
            TaskSpec(
                name=name,
                include=folder / include if include else None,
                num_fewshot=task.num_fewshot,
                apply_chat_template=task.apply_chat_template,
                fewshot_as_multiturn=task.fewshot_as_multiturn,
                system_instruction=task.system_instruction,
                metric=task.metric,
                filter=task.filter,
                generation=task.generation,
            )
        )
    return specs


def _objective(objective: Objective, tasks: TaskSet) -> ObjectiveSpec:
    if objective.task:
        kind, weights = "task", {objective.task: 1.0}
    elif objective.tasks:
        kind, weights = "weighted", dict(objective.tasks)
    else:
        kind, weights = ("cost" if objective.cost else "function"), {}
    return ObjectiveSpec(
        name=objective.label,
        kind=kind,
        direction=_direction(objective, kind, weights, tasks),
        tasks=weights,
        cost=objective.cost or "",
        function=objective.function or "",
    )


def _direction(
    objective: Objective, kind: str, weights: dict[str, float], tasks: TaskSet
) -> Literal["maximize", "minimize"]:
    """What the metrics say of themselves; a cost is minimised, a custom function maximised."""
    if kind in ("cost", "function"):
        return objective.direction or ("minimize" if kind == "cost" else "maximize")
    higher = {task: tasks.higher_is_better(task) for task in weights}
    natural = direction_of(weights, higher, f"objective '{objective.label}'")
    return objective.direction or natural
