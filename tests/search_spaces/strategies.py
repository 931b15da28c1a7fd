"""Random recipes, for property tests."""

from hypothesis import strategies as st

from search_spaces.recipe import Clause, Input, Recipe, Setting, Slice, parameters
from search_spaces.roles import COMPONENTS
from search_spaces.rules import PARAMETERS, RULES, Rule

_TEXT = st.characters(exclude_categories=["Cs"])
names = st.text(_TEXT, min_size=1, max_size=8).filter(lambda n: n not in ("base", "union"))
filters = (
    st.none()
    | st.sampled_from((*COMPONENTS, "q_proj", "layers.1."))
    | st.text(_TEXT, max_size=5).filter(lambda f: f != "*")
)


def _values(name: str):
    parameter = PARAMETERS[name]
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    low, high = max(parameter.low, -1e9), min(parameter.high, 1e9)
    return st.floats(low, high)


def _settings(allowed: list[str]):
    def setting(name: str):
        values = st.lists(_values(name), min_size=1, max_size=4).map(tuple)
        return st.lists(st.builds(Clause, values, filters), min_size=1, max_size=3).map(
            lambda clauses: Setting(tuple(clauses))
        )

    optional = {name: setting(name) for name in allowed}
    return st.fixed_dictionaries({}, optional=optional).map(parameters)


@st.composite
def _slice(draw, rule: Rule, sources: list[str], spanned: bool) -> Slice:
    own = [p for p in rule.parameters if PARAMETERS[p].per_source]
    length = draw(st.integers(1, 6))
    inputs: list[Input] = []
    for source in sources:
        start = draw(st.integers(0, 9)) if spanned else 0
        span = (start, start + length) if spanned else None
        inputs.append(Input(source, span, draw(_settings(own))))
    return Slice(tuple(inputs), draw(_settings(list(rule.parameters))))


@st.composite
def recipes(draw) -> Recipe:
    """Any valid recipe of any rule, in any form."""
    rule = draw(st.sampled_from(sorted(RULES.values(), key=lambda r: r.name)))
    count = rule.sources[1] or draw(st.integers(1, 3))
    sources = draw(st.lists(names, min_size=count + 1, max_size=count + 1, unique=True))
    base = sources[0] if rule.needs_base or draw(st.booleans()) else None
    listed = sources if base and (not rule.needs_base or draw(st.booleans())) else sources[1:]
    spanned = draw(st.booleans())
    own = [p for p in rule.parameters if not PARAMETERS[p].per_source]
    parts = [
        draw(_slice(rule, draw(st.permutations(listed)), spanned))
        for _ in range(draw(st.integers(1, 3)) if spanned else 1)
    ]
    return Recipe(
        method=rule.name,
        slices=tuple(parts),
        base=base,
        parameters=draw(_settings([*own, *rule.searched])) if draw(st.booleans()) else (),
        dtype=draw(st.sampled_from([None, "float32", "float16", "bfloat16"])),
        tokenizer=draw(st.none() | st.sampled_from(listed)),
        seed=draw(st.integers(0, 2**40)),
    )
