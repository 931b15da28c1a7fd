"""Mappings of mergekit's dialect, and its parameters: a number, a gradient, or filtered values."""

from collections.abc import Mapping
from typing import cast

from search_spaces.errors import InputError, nearest
from search_spaces.rules import PARAMETERS, Rule
from search_spaces.settings import Clause, Parameters, Scalar, Setting, parameters
from search_spaces.validation import allowed, check_scale, domain

_IGNORED = "int8_mask"
"""A memory option of mergekit; no number depends on it."""

_SWITCH: Mapping[object, bool] = {0: False, 1: True, "false": False, "true": True}
"""Spellings of a switch besides YAML's own, as mergekit takes them."""


_REFUSED: Mapping[str, tuple[str, str]] = {
    "modules": ("merging modules apart is not supported", "use `models` or `slices`"),
    "chat_template": (
        "choosing a chat template is not supported: the result gets its tokenizer's",
        "leave it out",
    ),
    "residual_weight": ("it is not supported", "leave it out"),
    "tokens": ("sources for single tokens are not supported", "leave it out"),
    "pad_to_multiple_of": ("padding the vocabulary is not supported", "leave it out"),
}
"""Keys of mergekit's that have no meaning here: the rule, the remedy."""


def mapping_of(value: object, where: str) -> Mapping[str, object]:
    """`value`, if it is a mapping with names as keys; else an `InputError`."""
    if isinstance(value, dict):
        mapping = cast(Mapping[object, object], value)
        if all(isinstance(key, str) for key in mapping):
            return cast(Mapping[str, object], mapping)
    raise InputError(f"{value}", "it is not a mapping with names as keys", where, "correct it")


def check_keys(data: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    """Raise an `InputError` for the first key of `data` that is not `known`."""
    for key in data:
        if key in known:
            continue
        if key in _REFUSED:
            rule, remedy = _REFUSED[key]
            raise InputError(f"key '{key}'", rule, where, remedy)
        raise InputError(f"key '{key}'", "it is unknown here", where, nearest(key, known))


def read_parameters(data: object, rule: Rule, where: str) -> Parameters:
    """The settings under a `parameters:` key (None: there is none), for `rule`.

    A parameter of another rule passes: the recipe may name that rule elsewhere, and checks it.
    """
    if data is None:
        return ()
    settings: dict[str, Setting] = {}
    for name, value in mapping_of(data, where).items():
        if name != _IGNORED:
            if name not in PARAMETERS:
                allowed((rule.name,)).check(name, where)
            settings[name] = Setting(_clauses(name, value, where))
    return parameters(settings)


def read_scale(value: object, where: str) -> float:
    """The factor under a slice's `input_scale:` key (None: there is none, so 1).

    Raises:
        InputError: no number, or one out of bounds.
    """
    if value is None:
        return 1.0
    number = _number(value)
    check_scale(value if number is None else number, where)
    assert number is not None  # or it is out of bounds
    return number


def _clauses(name: str, value: object, where: str) -> tuple[Clause, ...]:
    items = cast(list[object], value) if isinstance(value, list) else [value]
    filtered = [isinstance(item, dict) for item in items]
    if not any(filtered):
        return (Clause(_values(name, items, where)),)
    if not all(filtered):
        raise InputError(
            f"{name} = {value}",
            "a list holds numbers (a gradient) or filtered values, not both",
            where,
            "write every entry as {filter: ..., value: ...}",
        )
    return tuple(_clause(name, mapping_of(item, where), where) for item in items)


def _clause(name: str, data: Mapping[str, object], where: str) -> Clause:
    known = ("filter", "value")
    for key in data:
        if key not in known:
            raise InputError(
                f"key '{key}' of '{name}'", "it is unknown here", where, nearest(key, known)
            )
    chosen = data.get("filter")
    if chosen is not None and not isinstance(chosen, str):
        raise InputError(f"filter {chosen} of '{name}'", "a filter is text", where, "quote it")
    value = data.get("value")
    items = cast(list[object], value) if isinstance(value, list) else [value]
    return Clause(_values(name, items, where), None if chosen == "*" else chosen)


def _values(name: str, items: list[object], where: str) -> tuple[Scalar, ...]:
    if not items:
        raise InputError(f"{name} = []", "a parameter has a value", where, "add one")
    return tuple(_scalar(name, item, where) for item in items)


def _scalar(name: str, value: object, where: str) -> Scalar:
    """`value` as parameter `name` has it; ranges are checked when the recipe is made."""
    parameter = PARAMETERS[name]
    if not parameter.choices:
        number = _number(value)
        if number is not None:
            return number
    elif isinstance(parameter.choices[0], str):
        if isinstance(value, str):
            return value
    elif isinstance(value, bool):
        return value
    elif isinstance(value, (int, float, str)):
        switch = _SWITCH.get(value.lower() if isinstance(value, str) else value)
        if switch is not None:
            return switch
    shown = "nothing" if value is None else value
    raise InputError(f"{name} = {shown}", domain(parameter), where, "correct the value")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        # YAML reads "1e-3" as text; so does mergekit, and makes a number of it.
        return float(value)
    except (ValueError, OverflowError):
        return None
