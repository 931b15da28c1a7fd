"""The run file's `fitness.racing`: how many items a candidate answers, and who answers more."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from evomerge.config.section import Section


def _several(value: object) -> object:
    return [value] if isinstance(value, int) else value


class Racing(Section):
    """Candidates answer a few items, and more only while they may still enter the front."""

    rungs: Annotated[
        list[int], BeforeValidator(_several, json_schema_input_type=list[int] | int)
    ] = Field(
        default=[],
        description="items per task up to each rung, growing, such as [10, 30, 100]; a single number: "
        "that many for all; default: every candidate answers all `items`, and nobody races",
    )
    select: str = Field(
        default="auto",
        description="which items: a name of `docs/estimators.md`; `auto`: those that tell most where an "
        "item bank reads every objective, `stratified` where it reads some, `random` without one",
    )
    doubt: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="a candidate is asked no more once the probability that it is on the front is below "
        "this",
    )
    again: float = Field(
        default=0.5,
        ge=0,
        description="answers spent on measuring candidates again of whom it is not clear whether they "
        "are on the front, the likeliest first, as a share of the first measures' answers",
    )
    reselect: int | None = Field(
        default=None,
        ge=1,
        description="generations after which the items beyond the first rung are chosen anew, where "
        "they tell most about candidates such as the front's; needs an item bank",
    )

    @model_validator(mode="after")
    def _rungs_grow(self) -> Self:
        if self.rungs and (min(self.rungs) < 2 or sorted(set(self.rungs)) != self.rungs):
            raise ValueError(f"rungs {self.rungs}: they are 2 or more, each greater than the last")
        defaults = {name: field.default for name, field in Racing.model_fields.items()}
        if not self.rungs and self.model_dump() != defaults:
            raise ValueError("nobody races without `rungs`: give them, such as [10, 30, 100]")
        return self
