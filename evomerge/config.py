"""The run file: one class per section, every key with a working default where one exists.

The classes are the reference for the YAML: field descriptions are what `docs/run_file.md` shows.
Unknown keys are errors that suggest the nearest key. Relative paths are relative to the run file.
"""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from search_spaces.errors import nearest
from search_spaces.ranges import allowed_in
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, RULES


class Section(BaseModel):
    """A part of the run file: closed (unknown keys are errors) and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Section):
    """A model that goes in. A bare string is its `model`."""

    model: str = Field(description="Hugging Face id or local folder")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub model")
    lora: str | None = Field(
        default=None,
        description="LoRA adapter on top of it: Hugging Face id (with `@revision`) or local folder",
    )


def _source(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


AnySource = Annotated[Source, BeforeValidator(_source)]


class Models(Section):
    """What is merged."""

    base: AnySource | None = Field(
        default=None, description="the model the experts were fine-tuned from"
    )
    experts: dict[str, AnySource] = Field(description="the experts, by a short name", min_length=1)
    tokenizer: str | None = Field(
        default=None,
        description="whose tokens the result has where vocabularies differ: `base`, `union`, an expert",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = {"base", "union", "uniform", "greedy_soup", "random_search", "winner"} & set(
            self.experts
        )
        if taken:
            raise ValueError(f"'{taken.pop()}' is a reserved name; call the expert something else")
        for name in self.experts:
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f"'{name}': a name has letters, digits, '_', '-' and '.' only")
        return self

    @model_validator(mode="after")
    def _tokenizer_is_of_a_source(self) -> Self:
        known = ("base", "union", *self.experts)
        if self.tokenizer is not None and self.tokenizer not in known:
            raise ValueError(f"tokenizer '{self.tokenizer}': {nearest(self.tokenizer, known)}")
        return self

    @property
    def sources(self) -> dict[str, Source]:
        """Every source by name, the base (named `base`) first."""
        return ({"base": self.base} if self.base else {}) | self.experts


class Granularity(Section):
    """Which weights share a variable."""

    layers: int | Literal["each"] | dict[str, int] | None = Field(
        default=None,
        description="number of layer groups, `each`, or `{knots: k}` for smooth change over depth",
    )
    components: list[str] | Literal["all"] | None = Field(
        default=None,
        description="components with variables of their own: attn, mlp, norm, embed, lm_head",
    )
    rules: bool = Field(
        default=False,
        description="each group chooses its rule and stages too, where several are searched; else "
        "the whole model has one",
    )


class Space(Section):
    """What is searched. Parameters of the rules (`weight`, `density`, `lambda`, `t`, ...) are keys
    too: a range `[low, high]` to search, or a value to fix. So are the stages `reference`,
    `sparsify`, `spectral`, `consensus` and `combine` of rules on deltas: a choice, or a list of
    choices to search (`consensus: [none, sum, count]`); the numbers of those choices are searched as
    well. Numbers that a candidate's rule does not read are no part of it: candidates that differ in
    nothing else are scored once."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Literal["parameter"] = Field(default="parameter", description="parameter space")
    rule: str | list[str] = Field(
        default="task_arithmetic",
        description="merge method, or a list of them: the search chooses among them (`method`)",
    )
    granularity: Granularity = Field(
        default=Granularity(), description="which weights share a variable"
    )

    @model_validator(mode="after")
    def _known_rule_and_parameters(self) -> Self:
        for rule in self.rules:
            if rule not in RULES:
                raise ValueError(f"rule '{rule}' is unknown; {nearest(rule, RULES)}")
        if not self.rules:
            raise ValueError("rule: an empty list; name a merge method")
        names = allowed_in([RULES[rule] for rule in self.rules], self.parameters).names
        for key in self.parameters:
            if key not in names or key == METHOD:
                known = [*names, *type(self).model_fields]
                rules = " or ".join(f"'{rule}'" for rule in self.rules)
                kind = f"{rules} has no such parameter" if key in PARAMETERS else "unknown key"
                raise ValueError(f"'{key}': {kind}; {nearest(key, known)}")
        return self

    @property
    def rules(self) -> list[str]:
        """The merge methods to choose from."""
        return [self.rule] if isinstance(self.rule, str) else self.rule

    @property
    def chooses(self) -> bool:
        """Whether the search chooses among rules or stages."""
        stages = [self.parameters.get(stage) for stage in OVERRIDES]
        return len(self.rules) > 1 or any(isinstance(given, list) for given in stages)

    @property
    def parameters(self) -> dict[str, Any]:
        """The rules' parameters the run file speaks of: a range, options or a value each."""
        return dict(self.model_extra or {})


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


class Budget(Section):
    """When to stop: whichever comes first."""

    evaluations: int = Field(default=200, ge=1, description="candidates")
    hours: float | None = Field(
        default=None, gt=0, description="hours of searching, resumed sessions added up"
    )


class Search(Section):
    """How candidates are proposed."""

    algorithm: str | None = Field(
        default=None,
        description="default: `cmaes` for one objective, `nsga2` for several and where rules or "
        "stages are searched",
    )
    population: int | None = Field(default=None, ge=2, description="candidates per generation")
    seed: int = Field(default=0, ge=0, description="of everything random in the search")
    budget: Budget = Field(default=Budget(), description="when to stop")
    finalists: int = Field(
        default=24, ge=1, description="candidates re-scored on the selection items"
    )
    random_baseline: bool = Field(
        default=True, description="also run a random search of the same budget, to compare with"
    )


class Engine(Section):
    """What holds the model and answers."""

    kind: Literal["transformers"] = Field(default="transformers", description="embedded engine")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the resident model"
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="`auto`, `cpu`, `cuda`, `cuda:1`",
    )
    batch_tokens: int = Field(
        default=8192, ge=1, description="tokens per forward pass, padding included"
    )
    max_length: int | None = Field(
        default=None, ge=1, description="longest prompt and answer, in tokens"
    )
    source_memory: float | None = Field(
        default=None,
        gt=0,
        description="most GB of GPU or pinned memory that the sources are kept in; default: what "
        "is free beside the model",
    )
    trust_remote_code: bool = Field(
        default=False, description="run a model's own code (off: safer)"
    )


class Cluster(Section):
    """Who evaluates."""

    executor: Literal["ray", "serial"] = Field(
        default="ray", description="`serial`: this process, to debug"
    )
    address: str = Field(default="local", description="`local`, `auto`, or a Ray cluster's address")
    evaluators: int | Literal["auto"] = Field(
        default="auto", description="evaluators; `auto`: all GPUs or cores"
    )
    cpus_per_evaluator: float = Field(default=1, gt=0, description="CPU cores of an evaluator")
    gpus_per_evaluator: float = Field(default=0, ge=0, description="GPUs of an evaluator")
    deadline_seconds: float = Field(
        default=1800, gt=0, description="longest time one evaluation may take"
    )


class Export(Section):
    """How the winner is chosen and written."""

    pick: str = Field(default="knee", description="`knee` or `best:OBJECTIVE`")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="storage type of every candidate and of the export; default: the base's",
    )
    max_shard_gb: float = Field(
        default=5.0, gt=0, description="largest safetensors file, in 10^9 bytes"
    )


class SourceFiles(Section):
    """What a source was when the run began."""

    folder: str
    lora: str | None = None
    revision: str | None = None
    files: dict[str, str]
    fingerprint: str


class Frozen(Section):
    """Added to a run's own copy of its run file: what it needs to be continued and explained."""

    version: int
    created: str
    origin: str
    sources: dict[str, SourceFiles]
    packages: dict[str, str]


class RunFile(Section):
    """A whole run file."""

    models: Models
    space: Space = Space()
    fitness: Fitness
    search: Search = Search()
    engine: Engine = Engine()
    cluster: Cluster = Cluster()
    export: Export = Export()
    frozen: Frozen | None = None

    @model_validator(mode="after")
    def _base_where_needed(self) -> Self:
        seen_from = self.space.parameters.get("reference")
        for name in self.space.rules if self.models.base is None else ():
            spared = "reference" in RULES[name].own and seen_from in ("mean", "none")
            if RULES[name].needs_base and not spared:
                raise ValueError(f"rule '{name}' needs models.base")
        return self
