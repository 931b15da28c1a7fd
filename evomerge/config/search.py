"""The run file's `search`: how candidates are proposed, and how many."""

from typing import Literal

from pydantic import Field

from evomerge.config.section import Section
from evomerge.config.warm_start import AnyWarmStart


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
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens that the search's candidates generate in their answers to search items, "
        "those counted once that repeat a recipe or come from an earlier run; baselines, selection and "
        "test cost none; looked at like `answers`",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="plateau: candidates in a row without a gain of the front's hypervolume that "
        "exceeds its standard error; looked at after each generation, in either schedule",
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
    warm_start: AnyWarmStart | None = Field(
        default=None, description="begin with the best of another run, asked anew"
    )
    finalists: int = Field(
        default=24, ge=1, description="candidates re-scored on the selection items"
    )
    random_baseline: bool = Field(
        default=True, description="also run a random search of the same budget, to compare with"
    )
