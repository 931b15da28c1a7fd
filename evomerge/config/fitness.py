"""The run file's `fitness`: how candidates are judged."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from evomerge.config.racing import Racing
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


class Consistency(Section):
    """How often neighbours of a candidate answer as it does: for prompts without known answers."""

    step: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="the neighbours are merged this share less and this share more (ratio)",
    )
    tasks: list[str] = Field(default=[], description="whose prompts; default: every task's")


def _list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Objective(Section):
    """What is optimised. A bare string is a task.

    Exactly one of `task`, `tasks`, `worst`, `spread`, `cost`, `loss`, `flips`, `consistency` and
    `function` is given.
    """

    task: str | None = Field(default=None, description="a task's score")
    tasks: dict[str, float] | None = Field(
        default=None, description="weighted mean of tasks: {task: weight}"
    )
    worst: list[str] | None = Field(
        default=None, min_length=2, description="score of the worst of these tasks"
    )
    spread: list[str] | None = Field(
        default=None,
        min_length=2,
        description="standard deviation of these tasks' scores, over tasks",
    )
    cost: (
        Literal[
            "tokens",
            "truncated",
            "parse_failures",
            "layers",
            "parameters",
            "kv_bytes",
            "tokens_per_second",
        ]
        | None
    ) = Field(
        default=None,
        description="of answers: `tokens` of one, share `truncated` or unparsable "
        "(`parse_failures`); of the model: `layers`, `parameters`, `kv_bytes` (of keys and values, "
        "per token), or measured `tokens_per_second`",
    )
    loss: Annotated[
        list[str] | None, BeforeValidator(_list, json_schema_input_type=list[str] | str | None)
    ] = Field(
        default=None,
        min_length=1,
        description="a task's, or several tasks' mean, teacher-forced loss: nats per token of the "
        "right answer as the task's target gives it; smooth where few items are asked",
    )
    flips: str | None = Field(
        default=None,
        description="a source's name or `uniform`: share of all tasks' items that this incumbent has "
        "right and the candidate wrong (of graded items: how much of the score is lost)",
    )
    consistency: Consistency | None = Field(
        default=None,
        description="share of prompts that neighbours of the candidate answer as it does; each "
        "candidate then costs three",
    )
    function: str | None = Field(
        default=None, description="`file.py:name` or `package.module:name`"
    )
    name: str | None = Field(
        default=None,
        description="default: the task's, cost's or function's name, `TASK_loss`, or the kind",
    )
    direction: Literal["maximize", "minimize"] | None = Field(
        default=None,
        description="default: as the task says; costs, losses, flips and spreads are minimised, "
        "`tokens_per_second`, consistency and functions maximised",
    )
    weight: float = Field(
        default=1.0, gt=0, description="weight where the algorithm takes one objective"
    )
    at_least: float | None = Field(default=None, description="constraint: value >= this")
    at_most: float | None = Field(default=None, description="constraint: value <= this")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError(f"give exactly one of {', '.join(OBJECTIVES)}")
        if self.tasks is not None and not self.name:
            raise ValueError("a weighted mean of tasks needs a `name`")
        named = self.named_tasks
        if len(set(named)) < len(named):
            raise ValueError(f"a task stands twice in {named}")
        return self

    def _given(self) -> list[str]:
        return [kind for kind in OBJECTIVES if getattr(self, kind) is not None]

    @property
    def kind(self) -> str:
        """Which of `OBJECTIVES` it is."""
        return self._given()[0]

    @property
    def named_tasks(self) -> list[str]:
        """The tasks it names; empty: all of them."""
        if self.task:
            return [self.task]
        of_consistency = self.consistency.tasks if self.consistency else []
        return self.worst or self.spread or self.loss or list(self.tasks or of_consistency)

    @property
    def label(self) -> str:
        """The objective's name in results."""
        function = (self.function or "").rsplit(":", 1)[-1]
        of_one = f"{self.loss[0]}_loss" if self.loss and len(self.loss) == 1 else ""
        return self.name or self.task or self.cost or function or of_one or self.kind


OBJECTIVES = (
    "task",
    "tasks",
    "worst",
    "spread",
    "cost",
    "loss",
    "flips",
    "consistency",
    "function",
)
"""The kinds of objectives: the keys of which an objective has exactly one."""


def _objective(value: object) -> object:
    return {"task": value} if isinstance(value, str) else value


AnyObjective = Annotated[
    Objective, BeforeValidator(_objective, json_schema_input_type=Objective | str)
]


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
    estimator: str = Field(
        default="auto",
        description="how few responses become a score: `auto` (by what the item banks allow; the mean "
        "without one) or a name of `docs/estimators.md`",
    )
    bank: str | None = Field(
        default=None,
        description="folder of item banks, written by `evomerge calibrate` (`docs/item_banks.md`); "
        "default: none, and `calibrate` writes to `banks` beside the run file",
    )
    racing: Racing = Field(
        default=Racing(), description="how many items a candidate answers, and who answers more"
    )
    cache: bool = Field(
        default=True,
        description="share answers with the runs beside this one (`answers.db` in the folder that holds "
        "the run's): under the same sources, engine and versions an item is answered once per recipe",
    )
    seed: int = Field(default=0, description="of the split into search, selection and test items")

    @model_validator(mode="after")
    def _objectives_make_sense(self) -> Self:
        labels = [o.label for o in self.all_objectives]
        repeated = {label for label in labels if labels.count(label) > 1}
        if repeated:
            raise ValueError(f"two objectives are named '{repeated.pop()}'; give one a `name`")
        for objective in self.all_objectives:
            for task in objective.named_tasks:
                if task not in self.tasks:
                    raise ValueError(
                        f"objective on unknown task '{task}'; {nearest(task, self.tasks)}"
                    )
        incumbents = sorted({o.flips for o in self.all_objectives if o.flips})
        if len(incumbents) > 1:
            raise ValueError(f"flips against {' and '.join(incumbents)}: a run has one incumbent")
        steps = sorted({o.consistency.step for o in self.all_objectives if o.consistency})
        if len(steps) > 1:
            raise ValueError(f"consistency with steps {steps}: a run has one step")
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
            from fitness.objectives.spec import MODEL_COSTS

            known = nearest(name.strip(), objectives)
            if name.strip() in MODEL_COSTS:
                known = f"add {{cost: {name.strip()}}} to the objectives"
            raise ValueError(f"constraint '{text}' names no objective; {known}")
        try:
            if not math.isfinite(float(bound)):
                break
            return Constraint(objective=name.strip(), sign=sign, bound=float(bound))
        except ValueError:
            break
    raise ValueError(f"constraint '{text}' is not of the form `objective >= number`")
