"""The path space: which layers follow which, as an ordered list of (model, layer).

A genome is a list of slots of which the first few count. A slot names a model of the pool and one of
its layers, and may scale what flows into it; any layer may follow any, as often as one likes. So the
space holds every stack of the sources' layers (Akiba et al. 2024, Evolutionary Optimization of Model
Merging Recipes, searched a subset of them: see `search_spaces.indicator`).

Variables, bottom first:

- `depth`: layers of the stack (left out if it is fixed),
- `slot_3.model`: a source or a merged model (left out if there is one), `slot_3.layer`: from 0,
- `slot_3.scale`: the input scale, if it is searched (`search_spaces.path_slots` says what is).

The lowest `first` and highest `last` layers may be kept: those of the first model of the pool, at
their places, unscaled. They are no variables; `depth` counts them, `slots` does not. Embeddings
come from the model of the lowest layer, the final norm and the head from that of the highest.

Every genome is valid. Slots at rest are no part of the recipe, so that genomes which differ in
nothing else are one candidate, and a path straight through a model is that model. Almost all paths
are garbage: a search begins with `seeds` and small edits of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from search_spaces.path_slots import (
    Depth,
    ScaleRange,
    SlotList,
    depth_bounds,
    fitted,
    named_seeds,
    resting_scale,
    scale_at,
    scale_column,
)
from search_spaces.recipe import Recipe
from search_spaces.slots import Slots
from search_spaces.space import Conditions, check_genome
from search_spaces.stacking import Hop, Pool
from search_spaces.template_table import starts
from search_spaces.variables import Choice, Genome, Integer, Variable

Place = tuple[str, int]
"""A model of the pool, and one of its layers."""


@dataclass(frozen=True)
class PathSpace:
    """Search space over stacks of layers in any order; a `SearchSpace`.

    Attributes:
        sources: the sources' names.
        layers: number of layers of each source.
        depth: fewest and most layers of a stack.
        first, last: layers kept at the bottom and at the top, those of the first model.
        input_scale: what is searched of input scales.
        merged: further models by name: recipes over sources.
        dtype: storage type of the result.

    Raises:
        InputError: no models, a name twice, a depth that is none, more kept layers than the depth
            or a source has, a scale of a magnitude outside 0.01 to 4, merged models that no recipe
            can hold together.
    """

    sources: Sequence[str]
    layers: int
    depth: Depth
    first: int = 0
    last: int = 0
    input_scale: ScaleRange = None
    merged: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])
    dtype: str | None = None

    def __post_init__(self) -> None:
        depth_bounds(self.depth, self.layers, self.first, self.last)
        scale_column(self.input_scale)
        # A recipe checks what it is made of; here, that its parts go together.
        self._pool.stack([Hop(model, 0) for model in self._pool.models])

    @property
    def variables(self) -> tuple[Variable, ...]:
        """`depth`, then per slot its model, layer and scale, bottom first."""
        return self._list.variables

    @property
    def slots(self) -> Slots:
        """The list of slots that `depth` counts."""
        return self._list.slots

    @property
    def conditions(self) -> Conditions:
        """None: what is at rest `slots` says."""
        return ()

    @property
    def fragile(self) -> bool:
        """True: almost no order of layers works."""
        return True

    @property
    def most_layers(self) -> int:
        """The greatest depth."""
        return self.depth[1]

    def decode(self, genome: Genome) -> Recipe:
        """The recipe `genome` stands for.

        Raises:
            InputError: wrong number of values, or one outside its variable's range.
        """
        check_genome(self, genome)
        models, home = self._pool.models, self._pool.models[0]
        several = len(models) > 1
        path = [Hop(home, layer) for layer in range(self.first)]
        for row in self._list.rows(genome):
            model, layer = (str(row[0]), int(row[1])) if several else (home, int(row[0]))
            path.append(Hop(model, layer, scale_at(self.input_scale, row)))
        path += [Hop(home, layer) for layer in range(self.layers - self.last, self.layers)]
        return self._pool.stack(path)

    def seeds(self) -> dict[str, Genome]:
        """Known good starting points: each model of the pool whole, then the templates.

        Those that are too deep or too shallow are fitted; their lowest and highest layers give way
        to the layers that are kept. Scales are 1, or the nearest in their range. Points that
        decode to an earlier one's recipe are left out.
        """
        return named_seeds(self.decode, self._starts())

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self.sources, self.layers, self.merged, self.dtype)

    @cached_property
    def _list(self) -> SlotList:
        models, kept = self._pool.models, self.first + self.last
        named = (Choice("model", models),) if len(models) > 1 else ()
        columns = (*named, Integer("layer", 0, self.layers - 1), *scale_column(self.input_scale))
        return SlotList(0, self.depth[0] - kept, self.depth[1] - kept, kept, columns)

    def _starts(self) -> Iterator[tuple[str, Genome]]:
        models = self._pool.models
        for model in models:
            yield model, self._genome([(model, layer) for layer in range(self.layers)])
        for start in starts(models, self.layers, self.depth):
            steps = start.steps(self.layers)
            yield start.name, self._genome([(step.models[0], step.layer) for step in steps])

    def _genome(self, path: Sequence[Place]) -> Genome:
        """The point nearest to `path`."""
        several, scale = len(self._pool.models) > 1, resting_scale(self.input_scale)
        middle = between(path, self.first, self.last)
        chosen = fitted(middle, (self._list.fewest, self._list.most))
        return self._list.genome([(*place[not several :], *scale) for place in chosen])


def between(path: Sequence[Place], first: int, last: int) -> Sequence[Place]:
    """`path` without its `first` lowest and `last` highest layers, but one layer at the least."""
    half = len(path) // 2
    return path[first : len(path) - last] or path[half : half + 1]
