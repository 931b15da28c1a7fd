"""What a parameter space must know of its rules: whether they fit, and what they can express."""

from collections.abc import Mapping, Sequence
from itertools import repeat

from search_spaces.agreement import check_count
from search_spaces.composition import check_composed
from search_spaces.errors import InputError
from search_spaces.ranges import Given, variants, variations
from search_spaces.rules import PARAMETERS, Rule
from search_spaces.settings import Clause, Parameters, Setting

SIMPLEST: Mapping[str, str] = {
    "reference": "base",
    "sparsify": "none",
    "spectral": "none",
    "consensus": "none",
    "combine": "sum",
}
"""The choice of each stage with which a source alone is that source."""

_WHOLE_AT_FULL_DENSITY = frozenset(("none", "magnitude", "random", "della", "outliers"))
_OF_ONE = frozenset(("none", "sum", "count"))
_BY_WEIGHT = frozenset(("sum", "mean", "survivors", "largest", "nuslerp", "multislerp"))
_DIRECTIONS = frozenset(("nuslerp", "multislerp"))


def gives_alone(rule: Rule, is_base: bool, based: bool) -> bool:
    """Whether some numbers make a composed rule give one source, unchanged.

    Args:
        rule: from `compose`.
        is_base: whether that source is the base.
        based: whether the sources are seen from the base.
    """
    if rule.spectral != "none" or rule.consensus not in _OF_ONE:
        return False
    if rule.sparsify not in _WHOLE_AT_FULL_DENSITY:
        return False
    if rule.combine == "slerp" and rule.reference == "none":
        return True
    if "weight" not in rule.parameters or rule.combine not in _BY_WEIGHT:
        return rule.sources == (1, 1) and rule.combine == "sum" and not (is_base and based)
    if is_base and based:
        return rule.reference == "base" and rule.combine not in _DIRECTIONS
    return True


def check_rules(
    rules: Sequence[Rule], base: str | None, experts: Sequence[str], ranges: Mapping[str, Given]
) -> None:
    """Raise an `InputError` unless every rule a space may try takes its sources."""
    names = [*([base] if base is not None else []), *experts]
    if len(set(names)) < len(names) or "uniform" in names or not experts:
        raise InputError(
            f"sources {', '.join(names) or '(none)'}",
            "there is an expert, names are used once, and 'uniform' is the plain average's",
            "experts",
            "rename the experts",
        )
    based = base is not None and rules[0].takes_base
    _check_roles(rules, base, based)
    # Says what is wrong with the ranges' names and values first.
    variations(rules, ranges, based)
    tried = variants(rules, ranges, based)
    for rule in tried:
        spared = "reference" in rule.own and rule.reference != "base"
        if rule.needs_base and base is None and not spared:
            raise InputError(
                "no base",
                f"rule '{rule.name}' needs the base of the experts",
                "base",
                "name the base",
            )
        most = rule.sources[1]
        if based and most is not None and len(experts) > most:
            raise InputError(
                f"{len(experts)} experts",
                f"rule '{rule.name}' takes {most} besides the base",
                "experts",
                "leave experts out, or choose another rule",
            )
        count = len(experts) if based else len(names)
        check_count(rule, count, based, "experts")
        check_composed(rule, based, count, "search space")
    _check_epsilon(tried)


def _check_roles(rules: Sequence[Rule], base: str | None, based: bool) -> None:
    for rule in rules:
        if base is not None and rule.takes_base != based:
            raise InputError(
                f"rules '{rules[0].name}' and '{rule.name}' with a base",
                "one sees the experts from the base, to the other it is a source like them",
                "rule",
                "choose rules that agree (task_arithmetic in place of linear, say)",
            )


def _check_epsilon(tried: Sequence[Rule]) -> None:
    if {"della", "above"} <= {rule.sparsify for rule in tried}:
        raise InputError(
            "sparsify 'della' and 'above' in one search",
            "'epsilon' is a share of density to one and a least |delta| to the other",
            "search space",
            "leave one of them out",
        )


def with_epsilon_in_reach(settings: Parameters, whole: Parameters) -> Parameters:
    """`settings` of one source with every epsilon so small that density +- epsilon stays in (0, 1).

    Args:
        settings: clauses of `density` and `epsilon`, where both stand here, go together.
        whole: the recipe's settings.
    """
    own = dict(settings)
    found = dict(whole) | own
    silent = {name: Setting.constant(_default(name)) for name in ("density", "epsilon")}
    densities, epsilons = ((found.get(n) or silent[n]).clauses for n in ("density", "epsilon"))
    if len(densities) == 1 and densities[0].filter is None:
        pairs = [(densities[0], epsilon) for epsilon in epsilons]
    elif len(epsilons) == 1 and epsilons[0].filter is None:
        pairs = [(density, epsilons[0]) for density in densities]
    else:
        pairs = list(zip(densities, epsilons, strict=True))
    clauses = tuple(_fitted(density, epsilon) for density, epsilon in pairs)
    return tuple(sorted((own | {"epsilon": Setting(clauses)}).items()))


def _default(name: str) -> float:
    value = PARAMETERS[name].default
    assert isinstance(value, float)
    return value


def _fitted(density: Clause, epsilon: Clause) -> Clause:
    count = max(len(density.values), len(epsilon.values))
    pairs = zip(_spread(density, count), _spread(epsilon, count), strict=True)
    chosen = epsilon.filter if density.filter is None else density.filter
    return Clause(tuple(min(e, _room(d)) for d, e in pairs), chosen)


def _spread(clause: Clause, count: int) -> list[float]:
    values = [float(value) for value in clause.values]
    return values if len(values) == count else list(repeat(values[0], count))


def _room(density: float) -> float:
    """An epsilon that is a little less than `density` and 1 - `density`."""
    room = min(density, 1.0 - density)
    return 0.999 * room if room > 1e-9 else 0.0
