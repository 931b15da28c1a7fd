"""The run file's `space`: what is searched."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from evomerge.config.section import Section
from search_spaces.errors import nearest
from search_spaces.ranges import allowed_in
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, RULES


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
