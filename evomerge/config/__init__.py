"""The run file: one class per section, every key with a working default where one exists.

The classes are the reference for the YAML: field descriptions are what `docs/run_file.md` shows.
Unknown keys are errors that suggest the nearest key. Relative paths are relative to the run file.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from evomerge.config.engine import Cluster, Engine
from evomerge.config.fitness import (
    Consistency,
    Constraint,
    Fitness,
    Objective,
    Task,
    parse_constraint,
)
from evomerge.config.frozen import Frozen, SourceFiles
from evomerge.config.models import Models, Source
from evomerge.config.search import Budget, Search
from evomerge.config.section import Section
from evomerge.config.space import STACKS, AnySpace, Granularity, Merged, Merging, Space
from search_spaces.errors import nearest
from search_spaces.rules import RULES

__all__ = [
    "STACKS",
    "AnySpace",
    "Budget",
    "Cluster",
    "Consistency",
    "Constraint",
    "Engine",
    "Export",
    "Fitness",
    "Frozen",
    "Granularity",
    "Merged",
    "Merging",
    "Models",
    "Objective",
    "RunFile",
    "Search",
    "Section",
    "Source",
    "SourceFiles",
    "Space",
    "Task",
    "parse_constraint",
]


class Export(Section):
    """How the winner is chosen and written."""

    pick: str = Field(
        default="knee",
        description="which finalist wins, by its selection items: `knee` (the front's best "
        "compromise), `prefer:NAME=0.7,NAME=0.3` (a compromise by these weights), both among models "
        "that are alive where costs are optimised too (half the best mean score, or more); or "
        "`best:OBJECTIVE`",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="storage type of every candidate and of the export; default: the base's",
    )
    max_shard_gb: float = Field(
        default=5.0, gt=0, description="largest safetensors file, in 10^9 bytes"
    )


class RunFile(Section):
    """A whole run file."""

    models: Models
    space: AnySpace = Space()
    fitness: Fitness
    search: Search = Search()
    engine: Engine = Engine()
    cluster: Cluster = Cluster()
    export: Export = Export()
    frozen: Frozen | None = None

    @model_validator(mode="after")
    def _incumbent_is_known(self) -> Self:
        known = (*self.models.sources, "uniform")
        for objective in self.fitness.objectives:
            if objective.flips is not None and objective.flips not in known:
                raise ValueError(
                    f"flips against unknown '{objective.flips}'; {nearest(objective.flips, known)}"
                )
        return self

    @model_validator(mode="after")
    def _base_where_needed(self) -> Self:
        merging = self.space.merging
        if merging is None or self.models.base is not None:
            return self
        seen_from = merging.parameters.get("reference")
        for name in merging.rules:
            spared = "reference" in RULES[name].own and seen_from in ("mean", "none")
            if RULES[name].needs_base and not spared:
                raise ValueError(f"rule '{name}' needs models.base")
        return self
