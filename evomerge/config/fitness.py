"""The run file's `fitness`: how candidates are judged."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from evomerge.config.section import Section
from search_spaces.errors import nearest


class Task(Section):
    """An lm-eval task and how many of its items are used."""

    items: int = Field(default=40, ge=2, description="items every candidate answers")
    selection: int | None = Field(
        default=None,
        ge=2,
        description="other items, for choosing among the front; default: as `items`",
    )
    test: int | None = Field(
        default=None, ge=2, description="untouched items for the report; default: all the rest"
    )
    include: str | None = Field(
        default=None, description="folder with the task's YAML; default: `fitness.include`"
    )
    num_fewshot: int | None = Field(
        default=None,
        ge=0,
        description="examples in the prompt, never from the items scored; default: the task's",
    )
    apply_chat_template: bool = Field(
        default=False, description="wrap prompts in the model's chat template"
    )
    fewshot_as_multiturn: bool = Field(default=False, description="few-shot examples as chat turns")
    system_instruction: str | None = Field(default=None, description="system message")
    metric: str | None = Field(
        default=None, description="metric that scores an item; default: the task's first"
    )
    filter: str | None = Field(
        default=None, description="lm-eval filter; default: the task's first"
    )
    generation: dict[str, Any] = Field(
        default={}, description="overrides of the task's generation_kwargs"
    )


class Objective(Section):
    """What is optimised. A bare string is a task.

    Exactly one of `task`, `tasks`, `cost` and `function` is given.
    """

    task: str | None = Field(default=None, description="a task's score")
    tasks: dict[str, float] | None = Field(
        default=None, description="weighted mean of tasks: {task: weight}"
    )
    cost: Literal["tokens", "truncated", "parse_failures"] | None = Field(
        default=None,
        description="tokens per answer, or the share of truncated or unparsable answers",
    )
    function: str | None = Field(
        default=None, description="`file.py:name` or `package.module:name`"
    )
    name: str | None = Field(
        default=None, description="default: the task's, cost's or function's name"
    )
    direction: Literal["maximize", "minimize"] | None = Field(
        default=None,
        description="default: as the task says; costs are minimised, functions maximised",
    )
    weight: float = Field(
        default=1.0, gt=0, description="weight where the algorithm takes one objective"
    )
    at_least: float | None = Field(default=None, description="constraint: value >= this")
    at_most: float | None = Field(default=None, description="constraint: value <= this")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [k for k in ("task", "tasks", "cost", "function") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of task, tasks, cost, function")
        if self.tasks is not None and not self.name:
            raise ValueError("a weighted mean of tasks needs a `name`")
        return self

    @property
    def label(self) -> str:
        """The objective's name in results."""
        function = (self.function or "").rsplit(":", 1)[-1]
        return self.name or self.task or self.cost or function


def _objective(value: object) -> object:
    return {"task": value} if isinstance(value, str) else value


AnyObjective = Annotated[Objective, BeforeValidator(_objective)]


class Fitness(Section):
    """How candidates are judged."""

    tasks: dict[str, Task] = Field(description="lm-eval tasks by name", min_length=1)
    include: str | None = Field(
        default=None, description="folder of lm-eval task YAMLs for every task"
    )
    objectives: list[AnyObjective] = Field(default=[], description="default: every task's score")
    constraints: list[str] = Field(
        default=[], description="such as `gsm8k >= 0.4` or `tokens <= 400`"
    )
    estimator: Literal["mean"] = Field(
        default="mean", description="how few responses become a score"
    )
    seed: int = Field(default=0, description="of the split into search, selection and test items")

    @model_validator(mode="after")
    def _objectives_make_sense(self) -> Self:
        labels = [o.label for o in self.all_objectives]
        repeated = {label for label in labels if labels.count(label) > 1}
        if repeated:
            raise ValueError(f"two objectives are named '{repeated.pop()}'; give one a `name`")
        for objective in self.all_objectives:
            for task in [objective.task] if objective.task else list(objective.tasks or {}):
                if task not in self.tasks:
                    raise ValueError(
                        f"objective on unknown task '{task}'; {nearest(task, self.tasks)}"
                    )
        for text in self.constraints:
            parse_constraint(text, labels)
        return self

    @property
    def all_objectives(self) -> list[Objective]:
        """The objectives, or one per task where the run file names none."""
        return self.objectives or [Objective(task=name) for name in self.tasks]

    @property
    def all_constraints(self) -> list["Constraint"]:
        """Every bound, from `constraints` and from the objectives' `at_least` and `at_most`."""
        labels = [o.label for o in self.all_objectives]
        bounds = [parse_constraint(text, labels) for text in self.constraints]
        for o in self.all_objectives:
            if o.at_least is not None:
                bounds.append(Constraint(objective=o.label, sign=">=", bound=o.at_least))
            if o.at_most is not None:
                bounds.append(Constraint(objective=o.label, sign="<=", bound=o.at_most))
        return bounds


class Constraint(Section):
    """A bound on an objective's value."""

    objective: str
    sign: Literal[">=", "<="]
    bound: float

    def violation(self, value: float) -> float:
        """By how much `value` breaks the bound; 0 where it holds."""
        gap = self.bound - value if self.sign == ">=" else value - self.bound
        return max(0.0, gap)


def parse_constraint(text: str, objectives: list[str]) -> Constraint:
    """`name >= x` or `name <= x`, with the name of an objective.

    Raises:
        ValueError: another form, or an unknown name.
    """
    for sign in (">=", "<="):
        name, found, bound = text.partition(sign)
        if not found:
            continue
        if name.strip() not in objectives:
            raise ValueError(
                f"constraint '{text}' names no objective; {nearest(name.strip(), objectives)}"
            )
        try:
            if not math.isfinite(float(bound)):
                break
            return Constraint(objective=name.strip(), sign=sign, bound=float(bound))
        except ValueError:
            break
    raise ValueError(f"constraint '{text}' is not of the form `objective >= number`")
