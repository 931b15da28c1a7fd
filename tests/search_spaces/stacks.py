"""What tests of the spaces of stacks share: genomes to draw, and recipes read back as hops."""

from collections.abc import Sequence

from hypothesis import strategies as st

from search_spaces import Choice, Genome, Hop, Real, Recipe, SearchSpace, Variable, dump_recipe
from search_spaces.dialect import parse_recipe
from search_spaces.settings import Scalar


def genomes(space: SearchSpace) -> st.SearchStrategy[Genome]:
    """Any genome of `space`."""
    return st.tuples(*(_values(variable) for variable in space.variables))


def _values(variable: Variable) -> st.SearchStrategy[Scalar]:
    if isinstance(variable, Choice):
        return st.sampled_from(variable.options)
    if isinstance(variable, Real):
        return st.floats(variable.low, variable.high)
    return st.integers(variable.low, variable.high)


def hops_of(recipe: Recipe, layers: int) -> list[Hop]:
    """A recipe of copied layers, layer by layer."""
    found: list[Hop] = []
    for part in recipe.slices:
        (entry,) = part.inputs
        first, stop = entry.layers or (0, layers)
        scales = [part.input_scale] + [1.0] * (stop - first - 1)
        places = zip(range(first, stop), scales, strict=True)
        found += [Hop(entry.source, layer, scale) for layer, scale in places]
    return found


def straight(model: str, layers: Sequence[int]) -> list[Hop]:
    return [Hop(model, layer) for layer in layers]


def with_values(space: SearchSpace, genome: Genome, **values: Scalar) -> Genome:
    """`genome` with other values of some variables; `__` stands for the dot in their names."""
    changed = {name.replace("__", "."): value for name, value in values.items()}
    assert {*changed} <= {v.name for v in space.variables}
    pairs = zip(space.variables, genome, strict=True)
    return tuple(changed.get(variable.name, value) for variable, value in pairs)


def survives_the_dialect(recipe: Recipe) -> bool:
    return parse_recipe(dump_recipe(recipe), "dump").hash == recipe.hash
