"""Random recipes, for property tests."""

from hypothesis import strategies as st

from search_spaces.recipe import Clause, Input, Parameters, Recipe, Setting, Slice, parameters
from search_spaces.roles import COMPONENTS
from search_spaces.rules import METHOD, OVERRIDES, PARAMETERS, RULES, Rule
from search_spaces.validation import GREATEST_SCALE, LEAST_SCALE

_TEXT = st.characters(exclude_categories=["Cs"])
names = st.text(_TEXT, min_size=1, max_size=8).filter(lambda n: n not in ("base", "union"))
filters = (
    st.none()
    | st.sampled_from((*COMPONENTS, "q_proj", "layers.1."))
    | st.text(_TEXT, max_size=5).filter(lambda f: f != "*")
)

_HARMLESS = {
    "reference": ("base", "mean", "none"),
    "sparsify": ("none", "magnitude", "random", "outliers", "variance"),
    "spectral": ("none", "star", "truncate"),
    "consensus": ("none", "sum", "count"),
    "combine": ("sum", "mean", "survivors", "largest", "energy"),
}
"""Choices that go with any number of sources and any other choice."""


def _values(name: str, rule: Rule):
    parameter = PARAMETERS[name]
    if name == "k":
        return st.integers(1, 2)
    if name == "density" and rule.sparsify == "della":
        return st.floats(0.2, 0.8)
    if parameter.choices:
        return st.sampled_from(_HARMLESS.get(name, parameter.choices))
    low, high = max(parameter.low, -1e9), min(parameter.high, 1e9)
    if name == "epsilon" and rule.sparsify == "della":
        high = 0.15
    return st.integers(int(low), int(high)) if parameter.whole else st.floats(low, high)


def _settings(rule: Rule, allowed: list[str]):
    def setting(name: str):
        longest = 1 if PARAMETERS[name].whole else 4
        values = st.lists(_values(name, rule), min_size=1, max_size=longest).map(tuple)
        return st.lists(st.builds(Clause, values, filters), min_size=1, max_size=3).map(
            lambda clauses: Setting(tuple(clauses))
        )

    optional = {name: setting(name) for name in allowed}
    return st.fixed_dictionaries({}, optional=optional).map(parameters)


scales = st.just(1.0) | st.floats(LEAST_SCALE, GREATEST_SCALE).flatmap(
    lambda s: st.sampled_from([s, -s])
)
"""Of what flows into a slice."""


@st.composite
def _slice(draw, rule: Rule, sources: list[str], spanned: bool) -> Slice:
    own = [p for p in rule.parameters if PARAMETERS[p].per_source]
    length = draw(st.integers(1, 6))
    inputs: list[Input] = []
    for source in sources:
        start = draw(st.integers(0, 9)) if spanned else 0
        span = (start, start + length) if spanned else None
        inputs.append(Input(source, span, draw(_settings(rule, own))))
    scale = draw(scales) if spanned else 1.0
    return Slice(tuple(inputs), draw(_settings(rule, list(rule.parameters))), scale)


def _peers(rule: Rule, count: int) -> list[str]:
    """Rules that may stand beside `rule` in a recipe of `count` sources, whatever its numbers."""
    return [
        other.name
        for other in RULES.values()
        if other.takes_base == rule.takes_base
        and other.sources[0] <= count <= (other.sources[1] or count)
        and other.sparsify not in ("della", "importance")
        and other.consensus != "support"
    ]


@st.composite
def _mixed(draw, rule: Rule, count: int) -> Parameters:
    clauses = st.builds(
        Clause,
        st.lists(st.sampled_from(_peers(rule, count)), min_size=1, max_size=3).map(tuple),
        filters,
    )
    listed = draw(st.lists(clauses, min_size=1, max_size=3))
    return ((METHOD, Setting(tuple(listed))),)


@st.composite
def recipes(draw) -> Recipe:
    """Any valid recipe of any rule, in any form, some with other rules and stages in places."""
    rule = draw(st.sampled_from(sorted(RULES.values(), key=lambda r: r.name)))
    least, most = rule.sources
    least = max(least, 2) if rule.consensus == "support" else least
    count = draw(st.integers(least, most or max(least, 3)))
    sources = draw(st.lists(names, min_size=count + 1, max_size=count + 1, unique=True))
    apart = rule.base == "needed" or (rule.base == "optional" and draw(st.booleans()))
    base = sources[0] if apart else sources[1] if draw(st.booleans()) else None
    base = None if base == sources[1] and rule.base == "optional" else base
    listed = sources if apart and draw(st.booleans()) else sources[1:]
    spanned = draw(st.booleans())
    own = [p for p in rule.parameters if not PARAMETERS[p].per_source]
    parts = [
        draw(_slice(rule, draw(st.permutations(listed)), spanned))
        for _ in range(draw(st.integers(1, 3)) if spanned else 1)
    ]
    whole = draw(_settings(rule, [*own, *rule.searched])) if draw(st.booleans()) else ()
    composed = any(
        n in OVERRIDES for items in (whole, *(p.parameters for p in parts)) for n, _ in items
    )
    if rule.base == "needed" and not composed and draw(st.booleans()):
        whole = tuple(sorted((*whole, *draw(_mixed(rule, count)))))
    return Recipe(
        method=rule.name,
        slices=tuple(parts),
        base=base,
        parameters=whole,
        dtype=draw(st.sampled_from([None, "float32", "float16", "bfloat16"])),
        tokenizer=draw(st.none() | st.sampled_from(listed)),
        seed=draw(st.integers(0, 2**40)),
    )
