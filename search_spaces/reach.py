"""Which rules a recipe's settings may put into force, and which settings then do anything.

A recipe may choose the method and the stages by tensor and by depth. What is known before there are
tensors is known by component: a filter that is a component selects its tensors and no others; any
other filter may or may not select one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from search_spaces.composition import CHOOSERS, compose
from search_spaces.roles import COMPONENTS
from search_spaces.rules import METHOD, OVERRIDES, RULES, Rule
from search_spaces.settings import Clause, Parameters, Scalar, Setting, parameters
from search_spaces.stages import STAGES

Places = tuple[Parameters, ...]
"""Settings in the order in which they are asked: a slice's before the recipe's."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What may be in force for the tensors of one component in one slice.

    Attributes:
        rules: the rules as declared.
        choices: per stage its possible choices.
        only: the composed rule, if there is only one possibility.
        reads: names of the parameters that may change a number.
    """

    rules: tuple[Rule, ...]
    choices: Mapping[str, frozenset[str]]
    only: Rule | None
    reads: frozenset[str]


def is_composed(places: Places) -> bool:
    """Whether the settings choose a method or a stage."""
    return any(name == METHOD or name in OVERRIDES for items in places for name, _ in items)


def values_in(name: str, places: Places, component: str) -> tuple[tuple[Scalar, ...], bool]:
    """The values that parameter `name` may have, and whether the settings always give one."""
    found: dict[Scalar, None] = {}
    for clause in _clauses(name, places):
        if clause.filter is None or clause.filter == component:
            return (*dict.fromkeys((*found, *clause.values)),), True
        if clause.filter not in COMPONENTS:
            found |= dict.fromkeys(clause.values)
    return (*found,), False


def constant(name: str, places: Places, component: str, rule: Rule) -> Scalar | None:
    """The one value of parameter `name`, or None if there may be others, or none."""
    values, always = values_in(name, places, component)
    default = rule.default(name)
    if not always and default is not None:
        values = (*values, default)
    return values[0] if len(values) == 1 else None


def reach(method: str, based: bool, places: Places, component: str) -> Reach:
    """What may be in force where settings `places` speak, for tensors of `component`.

    Args:
        method: the recipe's.
        based: whether a base is named that the sources are seen from.
        places: the slice's settings and the recipe's.
        component: one of `COMPONENTS`.
    """
    methods, always = values_in(METHOD, places, component)
    names = dict.fromkeys([str(m) for m in methods] + ([] if always else [method]))
    rules = tuple(RULES[name] for name in names)
    said = {name: values_in(name, places, component) for name in CHOOSERS if name != METHOD}
    plain = [compose(rule, based, {}) for rule in rules]
    choices = {
        stage: frozenset(
            choice
            for rule, composed in zip(rules, plain, strict=True)
            for choice in _choices(stage, rule, composed, said)
        )
        for stage in STAGES
    }
    return Reach(rules, choices, _only(rules, based, said), _reads(rules, choices, said))


def prune(settings: Parameters, reaches: Sequence[Mapping[str, Reach]]) -> Parameters:
    """`settings` without the clauses that no tensor reads.

    Args:
        settings: of a source, a slice or the recipe.
        reaches: by component, of the slices that the settings belong to.
    """
    reads = {
        component: frozenset[str]().union(*(part[component].reads for part in reaches))
        for component in COMPONENTS
    }
    kept = {name: tuple(_read(name, setting, reads)) for name, setting in settings}
    return parameters({name: Setting(clauses) for name, clauses in kept.items() if clauses})


def needless(settings: Sequence[Parameters], rule: Rule) -> frozenset[str]:
    """What may be left out where `rule` is in force everywhere: `method`, and stages whose settings
    all give the choice that it has anyway.

    Args:
        settings: the recipe's and every slice's.
        rule: as declared.
    """
    others = {
        name
        for items in settings
        for name, setting in items
        for clause in setting.clauses
        if name in OVERRIDES and set(clause.values) != {rule.choice(name)}
    }
    # Between sum and mean, `normalize` has a say unless the recipe chooses.
    switched = {"combine"} if rule.combine in ("sum", "mean") else set[str]()
    return frozenset({METHOD, *OVERRIDES} - others - switched)


def without(settings: Parameters, names: frozenset[str]) -> Parameters:
    """`settings` without the parameters of these names."""
    return tuple(item for item in settings if item[0] not in names)


def _clauses(name: str, places: Places) -> Iterator[Clause]:
    return (c for items in places for key, s in items if key == name for c in s.clauses)


Said = Mapping[str, tuple[tuple[Scalar, ...], bool]]


def _choices(stage: str, rule: Rule, composed: Rule, said: Said) -> Iterator[str]:
    """The choices of `stage` under `rule`, whose own one is that of `composed`."""
    if stage == "rescale":
        yield from ("none", "inverse", "l1") if "rescale" in rule.own else (rule.rescale,)
        return
    values, always = said[stage] if stage in rule.own else ((), False)
    yield from map(str, values)
    if not always:
        yield composed.choice(stage)
        if stage == "combine" and "normalize" in rule.own:
            yield from ("sum", "mean")


def _only(rules: Sequence[Rule], based: bool, said: Said) -> Rule | None:
    if len(rules) > 1:
        return None
    known: dict[str, Scalar] = {}
    for name, (values, always) in said.items():
        if len(values) > 1 or (values and not always):
            return None
        if values:
            known[name] = values[0]
    return compose(rules[0], based, known)


def _reads(
    rules: Sequence[Rule], choices: Mapping[str, frozenset[str]], said: Said
) -> frozenset[str]:
    own = {name for rule in rules for name in rule.own} | {METHOD}
    # Read only next to certain choices, though rules always accept them.
    own -= {"density"}
    if choices["sparsify"] == frozenset(("none",)):
        own -= {"rescale", "rescale_norm"}
    if said["combine"][1] and all("combine" in rule.own for rule in rules):
        own -= {"normalize"}
    of_stages = {p for stage in STAGES for c in choices[stage] for p in STAGES[stage][c]}
    return frozenset(own | of_stages)


def _read(name: str, setting: Setting, reads: Mapping[str, frozenset[str]]) -> Iterator[Clause]:
    left = set(COMPONENTS)
    for clause in setting.clauses:
        chosen = left & {clause.filter} if clause.filter in COMPONENTS else left
        if any(name in reads[component] for component in chosen):
            yield clause
        if clause.filter is None:
            left = set[str]()
        elif clause.filter in COMPONENTS:
            left = left - {clause.filter}


def reaches_of(
    method: str, based: bool, slices: Sequence[Parameters], whole: Parameters
) -> list[dict[str, Reach]]:
    """`reach` for every slice and component.

    Args:
        method: the recipe's.
        based: whether a base is named that the sources are seen from.
        slices: each slice's settings.
        whole: the recipe's settings.
    """
    # Most slices of a deep stack choose alike: what a slice says of other parameters is not asked.
    choosing = [tuple(item for item in own if item[0] in CHOOSERS) for own in slices]
    found = {
        own: {c: reach(method, based, (own, whole), c) for c in COMPONENTS}
        for own in dict.fromkeys(choosing)
    }
    return [found[own] for own in choosing]
