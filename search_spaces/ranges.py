"""What a search does with each parameter of a rule: a range, options, or a fixed value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from search_spaces.errors import InputError
from search_spaces.rules import PARAMETERS, Parameter, Rule
from search_spaces.settings import Scalar
from search_spaces.validation import check_name, check_values

Given = Scalar | Sequence[Scalar]
"""As a run file says it: a value that fixes the parameter, [low, high], or a switch's options."""

_WHERE = "search space"


@dataclass(frozen=True, slots=True)
class Variation:
    """What becomes of one parameter.

    Attributes:
        parameter: its name.
        per_source: whether each source has its own.
        fixed: its only value, or None if it is searched.
        low, high: the closed interval that is searched (if neither fixed nor a switch).
        options: the values of a switch that are searched.
    """

    parameter: str
    per_source: bool
    fixed: Scalar | None = None
    low: float = 0.0
    high: float = 0.0
    options: tuple[Scalar, ...] = ()


def variations(rule: Rule, ranges: Mapping[str, Given]) -> tuple[Variation, ...]:
    """What becomes of the parameters of `rule` that are searched or named in `ranges`.

    Raises:
        InputError: a parameter that the rule does not have or that changes nothing in it, a range
            outside the valid one or not rising, a searched parameter without a range.
    """
    for name in ranges:
        check_name(name, rule, _WHERE)
        _check_matters(name, rule)
    named = [name for name in rule.parameters if name in ranges and name not in rule.searched]
    return tuple(
        _variation(PARAMETERS[name], ranges.get(name)) for name in (*rule.searched, *named)
    )


def _variation(parameter: Parameter, given: Given | None) -> Variation:
    # A file may hold anything, whatever the types say: what is no list is judged as a value.
    wanted = cast(object, parameter.search if given is None else given)
    name, per_source = parameter.name, parameter.per_source
    if wanted is None:
        raise InputError(
            f"parameter '{name}'", "a searched parameter has a range", _WHERE, "give it a range"
        )
    if isinstance(wanted, (bool, int, float, str)):
        check_values(name, (wanted,), _WHERE)
        return Variation(name, per_source, fixed=wanted)
    given_values = cast(Sequence[object], wanted) if isinstance(wanted, Sequence) else (wanted,)
    check_values(name, given_values, _WHERE)
    values = cast(tuple[Scalar, ...], tuple(given_values))
    if parameter.choices:
        return Variation(name, per_source, options=values)
    numbers = [v for v in values if not isinstance(v, str)]
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise InputError(
            f"{name} = {list(values)}",
            "a range is [low, high] with low below high",
            _WHERE,
            "correct the range, or write one value to fix the parameter",
        )
    return Variation(name, per_source, low=float(numbers[0]), high=float(numbers[1]))


def _check_matters(name: str, rule: Rule) -> None:
    if rule.sparsify == "none" and name in ("density", "rescale", "rescale_norm"):
        raise InputError(
            f"parameter '{name}'",
            f"it changes nothing in method '{rule.name}', which drops no deltas",
            _WHERE,
            "leave it out, or choose a rule that sparsifies",
        )
