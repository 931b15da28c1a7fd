"""What a search does with each parameter of its rules: a range, options, or a fixed value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import cast

from search_spaces.composition import compose
from search_spaces.errors import InputError
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, Parameter, Rule
from search_spaces.settings import Scalar
from search_spaces.stages import STAGES
from search_spaces.validation import Allowed, allowed_by, check_values

Given = Scalar | Sequence[Scalar]
"""As a run file says it: a value that fixes the parameter, [low, high], or the options of a switch
or a stage."""

_WHERE = "search space"


@dataclass(frozen=True, slots=True)
class Variation:
    """What becomes of one parameter.

    Attributes:
        parameter: its name.
        per_source: whether each source has its own.
        fixed: its only value, or None if it is searched.
        low, high: the closed interval that is searched (if neither fixed nor without an order).
        options: the values that are searched of a switch, a stage or the method.
    """

    parameter: str
    per_source: bool
    fixed: Scalar | None = None
    low: float = 0.0
    high: float = 0.0
    options: tuple[Scalar, ...] = ()


def allowed_in(rules: Sequence[Rule], ranges: Mapping[str, Given]) -> Allowed:
    """The parameters that `ranges` may speak of: the rules' and those of the stages it names."""
    pairs = [(stage, choice) for stage in OVERRIDES for choice in choices_in(stage, ranges)]
    return allowed_by(tuple(rules), tuple((s, c) for s, c in pairs if c in STAGES[s]))


def variants(rules: Sequence[Rule], ranges: Mapping[str, Given], based: bool) -> tuple[Rule, ...]:
    """Every rule, with its stages as chosen, that the search may try.

    Args:
        rules: the rules to choose from.
        ranges: their names and values are valid.
        based: whether a base is named that the sources are seen from.
    """
    options = tuple((stage, choices_in(stage, ranges)) for stage in OVERRIDES if stage in ranges)
    return _variants(tuple(rules), options, based)


@lru_cache(maxsize=64)
def _variants(
    rules: tuple[Rule, ...], options: tuple[tuple[str, tuple[str, ...]], ...], based: bool
) -> tuple[Rule, ...]:
    found: dict[Rule, None] = {}
    for rule in rules:
        own = [(stage, choices) for stage, choices in options if stage in rule.own]
        for choices in product(*(choices for _, choices in own)):
            said = dict(zip((stage for stage, _ in own), choices, strict=True))
            found[compose(rule, based, said)] = None
    return tuple(found)


def variations(
    rules: Sequence[Rule], ranges: Mapping[str, Given], based: bool = True
) -> tuple[Variation, ...]:
    """What becomes of the parameters that are searched or named in `ranges`.

    Searched are what the rules declare, and the numbers of the stages that `ranges` names. Where
    rules or stages differ in a parameter's range, the search covers all of them.

    Raises:
        InputError: a parameter that no rule has or that changes nothing in any, a range outside the
            valid one or not rising, a searched parameter without a range.
    """
    known = allowed_in(rules, ranges)
    for name in ranges:
        if name == METHOD:
            raise InputError(
                "parameter 'method'", "a space names its rules", _WHERE, "write rule: [ties, della]"
            )
        known.check(name, _WHERE)
    stages = [s for s in OVERRIDES if s in ranges]
    chosen = tuple(_variation(PARAMETERS[stage], ranges[stage]) for stage in stages)
    tried = variants(rules, ranges, based)
    for name in ranges:
        _check_matters(name, tried)
    searched = _searched(rules, ranges, tried)
    named = [n for n in known.names if n in ranges and n not in searched and n not in stages]
    numbers = tuple(
        _variation(PARAMETERS[name], ranges.get(name, _hull(name, tried)))
        for name in (*searched, *named)
    )
    several = (Variation(METHOD, False, options=tuple(rule.name for rule in rules)),)
    return (*(several if len(rules) > 1 else ()), *chosen, *numbers)


def choices_in(stage: str, ranges: Mapping[str, Given]) -> tuple[str, ...]:
    """The choices of `stage` that `ranges` names, valid or not."""
    # A file may hold anything, whatever the types say; what is no text is refused later.
    given = cast(object, ranges.get(stage, ()))
    listed = cast(Sequence[object], given) if isinstance(given, (list, tuple)) else (given,)
    return tuple(value for value in listed if isinstance(value, str))


def _searched(
    rules: Sequence[Rule], ranges: Mapping[str, Given], tried: Sequence[Rule]
) -> tuple[str, ...]:
    # A stage that is searched or fixed may leave a rule's own numbers without a reader.
    names = dict.fromkeys(
        name for rule in rules for name in rule.searched if any(_reads(r, name) for r in tried)
    )
    for stage in OVERRIDES:
        for choice in choices_in(stage, ranges):
            of_choice = STAGES[stage].get(choice, ())
            names |= dict.fromkeys(name for name in of_choice if _hull(name, tried))
    return tuple(names)


def _hull(name: str, tried: Sequence[Rule]) -> tuple[float, float] | None:
    """The least interval that holds the range of `name` in every rule that has it."""
    found = [rule.search(name) for rule in tried if name in rule.parameters]
    ranges = [interval for interval in found if interval is not None]
    if not ranges:
        return None
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _variation(parameter: Parameter, given: Given | None) -> Variation:
    # A file may hold anything, whatever the types say: what is no list is judged as a value.
    wanted = cast(object, given)
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
    if parameter.whole:
        raise InputError(
            f"{name} = {list(values)}", "a whole number is not searched", _WHERE, "give one value"
        )
    numbers = [v for v in values if not isinstance(v, str)]
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise InputError(
            f"{name} = {list(values)}",
            "a range is [low, high] with low below high",
            _WHERE,
            "correct the range, or write one value to fix the parameter",
        )
    return Variation(name, per_source, low=float(numbers[0]), high=float(numbers[1]))


def _check_matters(name: str, tried: Sequence[Rule]) -> None:
    if not any(_reads(rule, name) for rule in tried):
        raise InputError(
            f"parameter '{name}'",
            f"it changes nothing in method '{tried[0].name}' with these stages",
            _WHERE,
            "leave it out, or choose a rule or a stage that reads it",
        )


def _reads(rule: Rule, name: str) -> bool:
    """Whether parameter `name` may change a number in `rule`, whose stages are chosen."""
    if name == "density":
        return any(name in STAGES[stage][rule.choice(stage)] for stage in STAGES)
    if name in ("rescale", "rescale_norm"):
        return rule.sparsify != "none"
    return name in rule.parameters
