"""The run file's `search`: how candidates are proposed, and how many."""

from typing import Literal

from pydantic import Field

from evomerge.config.section import Section


class Budget(Section):
    """When to stop: whichever comes first."""

    evaluations: int = Field(default=200, ge=1, description="candidates")
    hours: float | None = Field(
        default=None, gt=0, description="hours of searching, resumed sessions added up"
    )
    answers: int | None = Field(
        default=None,
        ge=1,
        description="items that candidates answer; looked at before each generation, or candidate "
        "where there are none",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="candidates in a row without a gain of the front that exceeds its error; looked at "
        "after each generation",
    )


class Search(Section):
    """How candidates are proposed."""

    algorithm: str | None = Field(
        default=None,
        description="default: `cmaes` for one objective, `nsga2` for several and where rules, "
        "stages or the order of layers are searched",
    )
    population: int | None = Field(default=None, ge=2, description="candidates per generation")
    schedule: Literal["asynchronous", "generational"] = Field(
        default="asynchronous",
        description="`asynchronous`: no evaluator waits for another; `generational`: it does, and "
        "what is asked follows from the seed alone, however many evaluators there are",
    )
    seed: int = Field(default=0, ge=0, description="of everything random in the search")
    budget: Budget = Field(default=Budget(), description="when to stop")
    finalists: int = Field(
        default=24, ge=1, description="candidates re-scored on the selection items"
    )
    random_baseline: bool = Field(
        default=True, description="also run a random search of the same budget, to compare with"
    )
