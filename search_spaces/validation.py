"""What a recipe must fulfil, checked when one is made."""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from search_spaces.agreement import check_agreement
from search_spaces.errors import InputError, nearest
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, RULES, Parameter, Rule, rule_named
from search_spaces.settings import Clause, Parameters, Setting
from search_spaces.stages import STAGES

if TYPE_CHECKING:
    from search_spaces.recipe import Input, Recipe, Slice

DTYPES: tuple[str, ...] = ("float32", "float16", "bfloat16")
"""Storage types of a result."""

LEAST_SCALE, GREATEST_SCALE = 0.01, 4.0
"""Bounds of the magnitude of an input scale, within which a folded stack is the scaled one."""

UNION = "union"
"""A tokenizer with the tokens of all sources."""


def check_recipe(recipe: "Recipe") -> None:
    """Raise an `InputError` unless `recipe` can be carried out (see `Recipe`)."""
    rule_named(recipe.method, "merge_method")
    if not recipe.slices:
        raise InputError("no models", "a recipe needs at least one source", "models", "add models")
    wholes = [recipe.parameters, *(part.parameters for part in recipe.slices)]
    known = allowed((recipe.method,), wholes)
    _check_settings(recipe.parameters, known, "parameters")
    several = len(recipe.slices) > 1
    spanned = several or any(i.layers is not None for i in recipe.slices[0].inputs)
    places = [f"slices[{n}]" if spanned else "models" for n in range(len(recipe.slices))]
    for part, where in zip(recipe.slices, places, strict=True):
        _check_slice(part, known, where)
        if several or part.input_scale != 1:
            _check_has_span(part, where)
    check_agreement(recipe, places)
    _check_head(recipe)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The parameters that some rules may have.

    Attributes:
        methods: the rules' names.
        names: the parameters' names, in the order of the declaration.
    """

    methods: tuple[str, ...]
    names: tuple[str, ...]

    def check(self, name: str, where: str) -> None:
        """Raise an `InputError` if `name` is none of them."""
        if name not in self.names:
            methods = " and ".join(f"'{method}'" for method in self.methods)
            raise InputError(
                f"parameter '{name}'",
                f"method {methods} has no such parameter",
                where,
                nearest(name, self.names),
            )


def allowed(methods: Iterable[str], settings: Iterable[Parameters] = ()) -> Allowed:
    """The parameters a recipe may set: those of every rule and choice of a stage that it names.

    Args:
        methods: names of rules.
        settings: what may name more of them.

    Raises:
        InputError: a value of `method` or of a stage that is none.
    """
    rules = dict.fromkeys(methods)
    choices: dict[tuple[str, str], None] = {}
    choosing = (item for items in settings for item in items if item[0] in (METHOD, *OVERRIDES))
    for name, setting in choosing:
        values = [value for clause in setting.clauses for value in clause.values]
        check_values(name, values, "parameters")
        if name == METHOD:
            rules |= dict.fromkeys(map(str, values))
        else:
            choices |= dict.fromkeys((name, str(value)) for value in values)
    return allowed_by(tuple(RULES[name] for name in rules), tuple(choices))


@lru_cache(maxsize=256)
def allowed_by(rules: tuple[Rule, ...], choices: tuple[tuple[str, str], ...]) -> Allowed:
    """The parameters of these rules and of these (stage, choice) pairs, and `method`."""
    names: dict[str, None] = {}
    for rule in rules:
        names |= dict.fromkeys(rule.parameters)
    for stage, choice in choices:
        names |= dict.fromkeys(STAGES[stage][choice])
    return Allowed(tuple(rule.name for rule in rules), (*names, METHOD))


def check_values(name: str, values: Iterable[object], where: str) -> None:
    """Raise an `InputError` for the first of `values` that parameter `name` must not have.

    The values may be anything: they are as a file spelled them.
    """
    parameter = PARAMETERS[name]
    for value in values:
        if name == METHOD and isinstance(value, str):
            rule_named(value, where)
        if not _valid(parameter, value):
            raise InputError(f"{name} = {value}", domain(parameter), where, "correct the value")


def domain(parameter: Parameter) -> str:
    """The rule a value of `parameter` obeys, as a clause of a sentence."""
    if parameter.choices:
        return f"it is one of {', '.join(map(str, parameter.choices))}"
    if parameter.whole:
        return f"it is a whole number in [{parameter.low:g}, {parameter.high:g}]"
    if math.isfinite(parameter.low):
        return f"it is a number in [{parameter.low:g}, {parameter.high:g}]"
    return "it is a finite number"


def _valid(parameter: Parameter, value: object) -> bool:
    if parameter.choices:
        return value in parameter.choices and isinstance(value, type(parameter.choices[0]))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if parameter.whole and value % 1:
        return False
    # Not isfinite, which fails for an integer beyond the floats.
    return parameter.low <= value <= parameter.high and abs(value) <= sys.float_info.max


def _check_head(recipe: "Recipe") -> None:
    if recipe.dtype is not None and recipe.dtype not in DTYPES:
        raise InputError(
            f"dtype '{recipe.dtype}'",
            "it is not a storage type",
            "dtype",
            nearest(recipe.dtype, DTYPES),
        )
    if recipe.tokenizer == UNION and UNION in recipe.sources:
        raise InputError(
            f"a source called '{UNION}'",
            "as a tokenizer the word means the tokens of all sources",
            "tokenizer_source",
            "rename the source",
        )
    if recipe.tokenizer not in (None, UNION, *recipe.sources):
        raise InputError(
            f"tokenizer of '{recipe.tokenizer}'",
            "a tokenizer comes from one of the sources, or is their union",
            "tokenizer_source",
            nearest(recipe.tokenizer or "", (UNION, *recipe.sources)),
        )
    if recipe.seed < 0 or type(recipe.seed) is not int:
        raise InputError(
            f"seed = {recipe.seed}", "it is a non-negative integer", "seed", "correct the value"
        )


def check_scale(scale: object, where: str) -> None:
    """Raise an `InputError` unless `scale` can be folded into weights (see `LEAST_SCALE`)."""
    size = abs(scale) if isinstance(scale, (int, float)) and not isinstance(scale, bool) else 0.0
    if LEAST_SCALE <= size <= GREATEST_SCALE:
        return
    raise InputError(
        f"input_scale = {scale}",
        f"its magnitude lies in [{LEAST_SCALE:g}, {GREATEST_SCALE:g}]: what is smaller drowns in the "
        "norms' epsilon, and 0 cannot be undone",
        where,
        "choose a scale in these bounds",
    )


def _check_slice(part: "Slice", known: Allowed, where: str) -> None:
    check_scale(part.input_scale, where)
    listed = [i.source for i in part.inputs]
    for name in listed:
        if not name or listed.count(name) > 1:
            raise InputError(
                f"source '{name}'" + (f", listed {listed.count(name)} times" if name else ""),
                "a source has a name and stands once in a slice",
                where,
                "correct the list of models",
            )
    _check_spans(part, where)
    _check_settings(part.parameters, known, where)
    for entry in part.inputs:
        _check_own_settings(entry, known, f"{where}, source {entry.source}")


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
            "where there are several slices, each says its layers, and so does one with an input_scale",
            where,
            "add layer_range: [first, one after the last]",
        )


def _check_own_settings(entry: "Input", known: Allowed, where: str) -> None:
    _check_settings(entry.parameters, known, where)
    for name, _ in entry.parameters:
        if not PARAMETERS[name].per_source:
            raise InputError(
                f"parameter '{name}' of one source",
                "it belongs to the merged tensor, not to a source",
                where,
                "move it to the parameters of the recipe or of the slice",
            )


def _check_settings(settings: Parameters, known: Allowed, where: str) -> None:
    for place, (name, setting) in enumerate(settings):
        known.check(name, where)
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
    if PARAMETERS[name].whole and len(set(clause.values)) > 1:
        raise InputError(
            f"{name} = {list(clause.values)}",
            "a whole number has no gradient",
            where,
            "give it one value, or one per slice",
        )
