"""What a recipe must fulfil, checked when one is made."""

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from search_spaces.errors import InputError, nearest
from search_spaces.rules import PARAMETERS, Parameter, Rule, rule_named
from search_spaces.settings import Clause, Parameters, Setting

if TYPE_CHECKING:
    from search_spaces.recipe import Input, Recipe, Slice

DTYPES: tuple[str, ...] = ("float32", "float16", "bfloat16")
"""Storage types of a result."""


def check_recipe(recipe: "Recipe") -> None:
    """Raise an `InputError` unless `recipe` can be carried out (see `Recipe`)."""
    rule = rule_named(recipe.method, "merge_method")
    if not recipe.slices:
        raise InputError("no models", "a recipe needs at least one source", "models", "add models")
    _check_settings(recipe.parameters, rule, "parameters")
    for number, part in enumerate(recipe.slices):
        spanned = len(recipe.slices) > 1 or any(i.layers is not None for i in part.inputs)
        _check_slice(part, recipe.base, rule, f"slices[{number}]" if spanned else "models")
        if len(recipe.slices) > 1:
            _check_has_span(part, f"slices[{number}]")
    _check_base(recipe, rule)
    _check_head(recipe)


def check_name(name: str, rule: Rule, where: str) -> None:
    """Raise an `InputError` if `rule` has no parameter of that name."""
    if name not in rule.parameters:
        raise InputError(
            f"parameter '{name}'",
            f"method '{rule.name}' has no such parameter",
            where,
            nearest(name, rule.parameters),
        )


def check_values(name: str, values: Iterable[object], where: str) -> None:
    """Raise an `InputError` for the first of `values` that parameter `name` must not have.

    The values may be anything: they are as a file spelled them.
    """
    parameter = PARAMETERS[name]
    for value in values:
        if not _valid(parameter, value):
            raise InputError(f"{name} = {value}", domain(parameter), where, "correct the value")


def domain(parameter: Parameter) -> str:
    """The rule a value of `parameter` obeys, as a clause of a sentence."""
    if parameter.choices:
        return f"it is one of {', '.join(map(str, parameter.choices))}"
    if math.isfinite(parameter.low):
        return f"it is a number in [{parameter.low:g}, {parameter.high:g}]"
    return "it is a finite number"


def _valid(parameter: Parameter, value: object) -> bool:
    if parameter.choices:
        return value in parameter.choices and isinstance(value, type(parameter.choices[0]))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # Not isfinite, which fails for an integer beyond the floats.
    return parameter.low <= value <= parameter.high and abs(value) <= sys.float_info.max


def _check_base(recipe: "Recipe", rule: Rule) -> None:
    named = {i.source for part in recipe.slices for i in part.inputs}
    if rule.needs_base and not recipe.base:
        raise InputError(
            "no base_model",
            f"method '{rule.name}' needs the base of the others",
            "base_model",
            "name the model the others were fine-tuned from",
        )
    if not rule.needs_base and recipe.base is not None and recipe.base not in named:
        raise InputError(
            f"base_model '{recipe.base}'",
            f"method '{rule.name}' treats the base as any source, and it is not among them",
            "base_model",
            "list it with a weight, or leave base_model out",
        )


def _check_head(recipe: "Recipe") -> None:
    if recipe.dtype is not None and recipe.dtype not in DTYPES:
        raise InputError(
            f"dtype '{recipe.dtype}'",
            "it is not a storage type",
            "dtype",
            nearest(recipe.dtype, DTYPES),
        )
    if recipe.tokenizer is not None and recipe.tokenizer not in recipe.sources:
        raise InputError(
            f"tokenizer of '{recipe.tokenizer}'",
            "a tokenizer comes from one of the sources",
            "tokenizer_source",
            nearest(recipe.tokenizer, recipe.sources),
        )
    if recipe.seed < 0 or type(recipe.seed) is not int:
        raise InputError(
            f"seed = {recipe.seed}", "it is a non-negative integer", "seed", "correct the value"
        )


def _check_slice(part: "Slice", base: str | None, rule: Rule, where: str) -> None:
    others = [i.source for i in part.inputs if not (rule.needs_base and i.source == base)]
    least, most = rule.sources
    if len(others) < least or (most is not None and len(others) > most):
        bound = str(least) if least == most else f"{least} or more" if most is None else ""
        raise InputError(
            f"{len(others)} source(s)",
            f"method '{rule.name}' takes {bound or f'{least} to {most}'}"
            + (" besides the base" if rule.needs_base else ""),
            where,
            "add or remove models, or choose another method",
        )
    names = [i.source for i in part.inputs]
    for name in names:
        if not name or names.count(name) > 1:
            raise InputError(
                f"source '{name}'" + (f", listed {names.count(name)} times" if name else ""),
                "a source has a name and stands once in a slice",
                where,
                "correct the list of models",
            )
    _check_spans(part, where)
    _check_settings(part.parameters, rule, where)
    for entry in part.inputs:
        _check_own_settings(entry, rule, f"{where}, source {entry.source}")


def _check_spans(part: "Slice", where: str) -> None:
    spans = [entry.layers for entry in part.inputs]
    for entry in part.inputs:
        if entry.layers is not None and not 0 <= entry.layers[0] < entry.layers[1]:
            raise InputError(
                f"layer_range {list(entry.layers)}",
                "a range begins at 0 or later and holds at least one layer",
                f"{where}, source {entry.source}",
                "correct the layer_range",
            )
    lengths = {None if span is None else span[1] - span[0] for span in spans}
    if len(lengths) > 1:
        found = ", ".join("all" if s is None else f"[{s[0]}, {s[1]}]" for s in spans)
        raise InputError(
            f"layer_range of {found}",
            "the inputs of a slice take the same number of layers",
            where,
            "correct the layer_range",
        )


def _check_has_span(part: "Slice", where: str) -> None:
    if part.inputs[0].layers is None:
        raise InputError(
            "no layer_range",
            "where there are several slices, each says its layers",
            where,
            "add layer_range: [first, one after the last]",
        )


def _check_own_settings(entry: "Input", rule: Rule, where: str) -> None:
    _check_settings(entry.parameters, rule, where)
    for name, _ in entry.parameters:
        if not PARAMETERS[name].per_source:
            raise InputError(
                f"parameter '{name}' of one source",
                "it belongs to the merged tensor, not to a source",
                where,
                "move it to the parameters of the recipe or of the slice",
            )


def _check_settings(settings: Parameters, rule: Rule, where: str) -> None:
    for place, (name, setting) in enumerate(settings):
        check_name(name, rule, where)
        if place and settings[place - 1][0] >= name:
            raise InputError(
                f"parameter '{name}' after '{settings[place - 1][0]}'",
                "parameters stand once each, sorted by name",
                where,
                "make them with search_spaces.recipe.parameters",
            )
        _check_setting(name, setting, where)


def _check_setting(name: str, setting: Setting, where: str) -> None:
    if not setting.clauses:
        raise InputError(f"{name} = []", "a parameter has a value", where, "add one")
    for clause in setting.clauses:
        _check_clause(name, clause, where)


def _check_clause(name: str, clause: Clause, where: str) -> None:
    if not clause.values:
        raise InputError(f"{name} = []", "a parameter has a value", where, "add one")
    if clause.filter == "*":
        raise InputError(
            f"filter '*' of '{name}'", "no filter is written None", where, "leave the filter out"
        )
    check_values(name, clause.values, where)
