"""A search space's variables as plain facts in run.db, for readers that do not open the sources."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.runs.database import Database
from search_spaces.space import SearchSpace
from search_spaces.variables import Choice, Integer, Variable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def keep_variables(database: Database, phase: str, space: SearchSpace) -> None:
    """Write down a phase's variables (once, when the run begins)."""
    database.set_meta(space_key(phase), described(space))


def described(space: SearchSpace) -> list[dict[str, Any]]:
    """Per variable `name`, `low` and `high` (`whole`: of whole numbers) or `options`, and `when` it is
    part of the recipe: the `place` of another variable, and the option it `is` or the `least` value it
    has; None: always."""
    facts = [_fact(variable) for variable in space.variables]
    for fact, condition in zip(facts, space.conditions, strict=False):
        if condition is not None:
            place, option = condition
            governor = space.variables[place]
            assert isinstance(governor, Choice)
            fact["when"] = {"place": place, "is": governor.options[option]}
    slots = space.slots
    if slots is not None and slots.length is not None:
        length = space.variables[slots.length]
        assert isinstance(length, Integer)
        for number, columns in enumerate(slots.columns):
            if number >= slots.least:
                least = length.low + number + 1 - slots.least
                for column in columns:
                    facts[column]["when"] = {"place": slots.length, "least": least}
    return facts


def counts(when: Mapping[str, Any] | None, genome: Sequence[Any]) -> bool:
    """Whether a variable with that condition is part of the recipe of `genome`."""
    if when is None:
        return True
    value = genome[when["place"]]
    return value == when["is"] if "is" in when else value >= when["least"]


def _fact(variable: Variable) -> dict[str, Any]:
    if isinstance(variable, Choice):
        return {"name": variable.name, "options": list(variable.options), "when": None}
    whole = isinstance(variable, Integer)
    return {
        "name": variable.name, "low": variable.low, "high": variable.high, "whole": whole,
        "when": None,
    }  # fmt: skip


def seen(names: Sequence[str], genomes: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """As `described`, of a run that did not write its variables down: what its genomes range over."""
    columns = list(zip(*genomes, strict=True))
    return [_seen(name, values) for name, values in zip(names, columns, strict=False)]


def _seen(name: str, values: Sequence[Any]) -> dict[str, Any]:
    if any(isinstance(value, (str, bool)) for value in values):
        options = sorted(set(values), key=str)
        return {"name": name, "options": options, "when": None}
    whole = all(isinstance(value, int) for value in values)
    high = max(values) if whole else max(*values, min(values) + 1e-9)
    return {"name": name, "low": min(values), "high": high, "whole": whole, "when": None}


def distribution(fact: Mapping[str, Any]) -> "BaseDistribution":
    """What Optuna calls a variable's range or options."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if "options" in fact:
        return CategoricalDistribution(fact["options"])
    kind = IntDistribution if fact["whole"] else FloatDistribution
    return kind(fact["low"], fact["high"])


def space_key(phase: str) -> str:
    """The fact in run.db that `keep_variables` states."""
    return f"{phase}_space"
