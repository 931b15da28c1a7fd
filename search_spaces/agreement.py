"""Whether a recipe's rules, stages, sources and base go together."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.composition import check_composed, check_numbers, compares_numbers, compose
from search_spaces.errors import InputError
from search_spaces.reach import Places, Reach, constant, is_composed, reaches_of
from search_spaces.roles import COMPONENTS
from search_spaces.rules import METHOD, PARAMETERS, RULES, Rule
from search_spaces.settings import Parameters, Scalar, Setting

if TYPE_CHECKING:
    from search_spaces.recipe import Input, Recipe, Slice


def check_agreement(recipe: "Recipe", places: list[str]) -> None:
    """Raise an `InputError` for what cannot work, as far as it is known without tensors.

    Args:
        recipe: its names and values are valid.
        places: what to call each slice in errors.
    """
    based = _check_roles(recipe)
    _check_listed(recipe, places)
    settings = [part.parameters for part in recipe.slices]
    if not is_composed((recipe.parameters, *settings)) and not compares_numbers(recipe.rule):
        _check_plain(recipe, places, based)
        return
    reaches = reaches_of(recipe.method, based, settings, recipe.parameters)
    for part, where, found in zip(recipe.slices, places, reaches, strict=True):
        if recipe.base is None:
            _check_needed(found)
        _check_part(recipe, part, found, where)


COPIED = Setting.constant("passthrough")
"""What `method` is in a slice whose layers are copied, beside others that are merged."""


def copies(settings: Parameters) -> bool:
    """Whether a slice's settings say that its layers are copied, whatever the recipe's method is."""
    return dict(settings).get(METHOD) == COPIED


def check_count(rule: Rule, count: int, based: bool, where: str) -> None:
    """Raise an `InputError` unless `rule` takes `count` sources (besides a base, if `based`)."""
    least, most = rule.sources
    if count >= least and (most is None or count <= most):
        return
    bound = f"{least}" if least == most else f"{least} or more"
    if most not in (None, least):
        bound = f"{least} to {most}"
    raise InputError(
        f"{count} source(s)",
        f"method '{rule.name}' takes {bound}" + (" besides the base" if based else ""),
        where,
        "add or remove models, or choose another method",
    )


def _check_roles(recipe: "Recipe") -> bool:
    """Whether the sources are seen from a base, on which all methods must agree."""
    wholes = [part.parameters for part in recipe.slices if not copies(part.parameters)]
    said = [s for items in (recipe.parameters, *wholes) for name, s in items if name == METHOD]
    names = [str(v) for setting in said for clause in setting.clauses for v in clause.values]
    based = recipe.based
    for name in names:
        if recipe.base is not None and RULES[name].takes_base != based:
            raise InputError(
                f"methods '{recipe.method}' and '{name}' with a base_model",
                "one sees the others from the base, to the other it is a source like them",
                "parameters, method",
                "choose methods that agree (task_arithmetic for linear, say), or leave base_model "
                "out if none needs it",
            )
    return based


def _check_listed(recipe: "Recipe", places: list[str]) -> None:
    """A base that is a source as any other must be listed, or it would join unnoticed. To rules
    that copy it only lends its configuration."""
    if RULES[recipe.method].base == "either":
        return
    named = {i.source for part in recipe.slices for i in part.inputs}
    if recipe.base is None or recipe.based or recipe.base in named or places != ["models"]:
        return
    raise InputError(
        f"base_model '{recipe.base}'",
        f"method '{recipe.method}' treats the base as any source, and it is not among them",
        "base_model",
        "list it with a weight, or leave base_model out",
    )


def _check_needed(found: Mapping[str, Reach]) -> None:
    for component in COMPONENTS:
        choices = found[component].choices
        for rule in found[component].rules:
            spared = "reference" in rule.own and "base" not in choices["reference"]
            if rule.needs_base and not spared:
                raise _no_base(rule)


def _check_plain(recipe: "Recipe", places: list[str], based: bool) -> None:
    """The same for one rule in one form, quickly: a search makes many of those."""
    if recipe.base is None and recipe.rule.needs_base:
        raise _no_base(recipe.rule)
    rule = compose(recipe.rule, based, {})
    for part, where in zip(recipe.slices, places, strict=True):
        count = len(_others(recipe, part, rule))
        check_count(rule, count, based, where)
        check_composed(rule, based, count, where)


def _check_part(recipe: "Recipe", part: "Slice", found: Mapping[str, Reach], where: str) -> None:
    based = recipe.based
    whole: Places = (part.parameters, recipe.parameters)
    for component in COMPONENTS:
        for rule in found[component].rules:
            check_count(rule, len(_others(recipe, part, rule)), based, where)
        only = found[component].only
        if only is not None:
            others = _others(recipe, part, only)
            check_composed(only, based, len(others), where)
            if not compares_numbers(only):
                continue
            shared = _constants(only, whole, component, per_source=False)
            own = [
                _constants(only, (i.parameters, *whole), component, per_source=True) for i in others
            ]
            check_numbers(only, shared, own, where)


def _others(recipe: "Recipe", part: "Slice", rule: Rule) -> "list[Input]":
    """The inputs besides a base that `rule` sees them from."""
    seen_from = recipe.base if recipe.based and rule.takes_base else None
    return [i for i in part.inputs if i.source != seen_from]


def _no_base(rule: Rule) -> InputError:
    return InputError(
        "no base_model",
        f"method '{rule.name}' needs the base of the others",
        "base_model",
        "name the model the others were fine-tuned from",
    )


def _constants(rule: Rule, places: Places, component: str, per_source: bool) -> dict[str, Scalar]:
    """The numbers that `check_numbers` compares, as far as they are known."""
    wanted = [p for p in ("k", "density", "epsilon") if PARAMETERS[p].per_source == per_source]
    found = {p: constant(p, places, component, rule) for p in wanted if p in rule.parameters}
    return {name: value for name, value in found.items() if value is not None}
