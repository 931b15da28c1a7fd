"""The indicator space: all layers of all models laid out in a row, each of them in or out.

Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, section 3.2: the layers of all
models stand one after the other, the whole row is repeated r times, and an indicator per place
says whether the path goes through it. A path so keeps the order of the row: it is a subset of what
`search_spaces.path` holds, of fixed size, which searchers of vectors handle well.

Variables: `pass_0.maths.layer_3` (in or out) per place, in the row's order, then, if input scales
are searched, `scale.pass_0.maths.layer_3` per place. The paper has a scale per pair of layers that may
follow each other (W_ij); here each place has its own. Scales of places that are out are no part of
the recipe, so that genomes which differ in nothing else are one candidate.

Every genome is valid; one with too many or too few layers is repaired, always alike:

- too deep: of layers that are in more than once, later copies are taken out, lowest first, so that a
  second pass begins where the first one ended; if that is not enough, the rest is thinned out evenly
  (the lowest and the highest layer stay);
- too shallow, or empty: places that are out are put in, in the row's order, so that the first model's
  missing layers come first. Their scales are 1, or the nearest in the range.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from search_spaces.errors import InputError
from search_spaces.path_slots import (
    Depth,
    ScaleRange,
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
from search_spaces.variables import Choice, Genome, Real, Variable


@dataclass(frozen=True)
class IndicatorSpace:
    """Search space over which layers of a row are in; a `SearchSpace`.

    Attributes:
        sources: the sources' names.
        layers: number of layers of each source.
        repeats: how often the row of all layers of all models is laid out.
        depth: fewest and most layers of a stack; None: from half a source's to twice as many, or
            all of the row.
        input_scale: what is searched of input scales.
        merged: further models by name: recipes over sources.
        dtype: storage type of the result.

    Raises:
        InputError: no models, a name twice, no repeats, a depth that is none or beyond the row, a
            scale of a magnitude outside 0.01 to 4, merged models that no recipe can hold together.
    """

    sources: Sequence[str]
    layers: int
    repeats: int = 2
    depth: Depth | None = None
    input_scale: ScaleRange = None
    merged: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise InputError(
                f"repeats = {self.repeats}",
                "the layers are laid out at least once",
                "search space",
                "use 2",
            )
        least = depth_bounds(self.depth, self.layers)[0]
        self._pool.stack([Hop(model, 0) for model in self._pool.models])
        if least > len(self._row):
            raise InputError(
                f"a depth of {least} or more",
                f"{self.repeats} repeats of all layers are {len(self._row)}",
                "search space",
                "repeat the layers more often, or lower the depth",
            )
        scale_column(self.input_scale)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """Whether each place of the row is in, then the places' scales."""
        return self._variables

    @property
    def slots(self) -> Slots | None:
        """None: a place keeps its layer, so moving values along the row means nothing."""
        return None

    @property
    def conditions(self) -> Conditions:
        """A place's scale counts where the place is in."""
        count = len(self._row)
        scales = len(self._variables) - count
        return (*(None,) * count, *((place, 1) for place in range(scales))) if scales else ()

    @property
    def fragile(self) -> bool:
        """True: almost no choice of layers works."""
        return True

    @property
    def most_layers(self) -> int:
        """The greatest depth."""
        return self._bounds[1]

    def decode(self, genome: Genome) -> Recipe:
        """The recipe `genome` stands for, repaired where it is too deep or too shallow.

        Raises:
            InputError: wrong number of values, or one outside its variable's range.
        """
        check_genome(self, genome)
        count, rest = len(self._row), resting_scale(self.input_scale)
        path: list[Hop] = []
        for place in self._repaired([i for i, bit in enumerate(genome[:count]) if bit]):
            model, layer = self._row[place]
            own = genome[count + place :][: len(rest)] if genome[place] else rest
            path.append(Hop(model, layer, scale_at(self.input_scale, own)))
        return self._pool.stack(path)

    def seeds(self) -> dict[str, Genome]:
        """Known good starting points: each model of the pool whole, then the templates that keep
        the row's order.

        Those that are too deep or too shallow are fitted where they can. Scales are 1, or the
        nearest in their range. Points that decode to an earlier one's recipe are left out.
        """
        return named_seeds(self.decode, self._starts())

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self.sources, self.layers, self.merged, self.dtype)

    @cached_property
    def _row(self) -> tuple[tuple[str, int], ...]:
        """Per place, its model and layer."""
        once = [(model, layer) for model in self._pool.models for layer in range(self.layers)]
        return tuple(once * self.repeats)

    @cached_property
    def _bounds(self) -> Depth:
        least, most = depth_bounds(self.depth, self.layers)
        return least, min(most, len(self._row))

    @cached_property
    def _variables(self) -> tuple[Variable, ...]:
        names = [
            f"pass_{place * self.repeats // len(self._row)}.{model}.layer_{layer}"
            for place, (model, layer) in enumerate(self._row)
        ]
        bits = tuple(Choice(name, (False, True)) for name in names)
        scales = scale_column(self.input_scale)
        return (*bits, *(Real(f"scale.{n}", s.low, s.high) for s in scales for n in names))

    def _repaired(self, places: Sequence[int]) -> Sequence[int]:
        """Places of the row that depth allows, as the module says."""
        least, most = self._bounds
        if len(places) < least:
            chosen = set(places)
            out = (place for place in range(len(self._row)) if place not in chosen)
            return sorted((*places, *(next(out) for _ in range(least - len(places)))))
        if len(places) > most:
            places = self._without_copies(places, len(places) - most)
        return fitted(places, self._bounds)

    def _without_copies(self, places: Sequence[int], surplus: int) -> list[int]:
        """`places` without the first `surplus` of those whose layer was there before."""
        seen: set[tuple[str, int]] = set()
        kept: list[int] = []
        for place in places:
            layer = self._row[place]
            if layer in seen and surplus:
                surplus -= 1
            else:
                kept.append(place)
            seen.add(layer)
        return kept

    def _starts(self) -> Iterator[tuple[str, Genome]]:
        models = self._pool.models
        paths = [(model, [(model, layer) for layer in range(self.layers)]) for model in models]
        for start in starts(models, self.layers, self._bounds):
            steps = start.steps(self.layers)
            paths.append((start.name, [(step.models[0], step.layer) for step in steps]))
        for name, path in paths:
            found = self._places(fitted(path, self._bounds)) or self._places(path)
            if found is not None:
                yield name, self._genome(found)

    def _places(self, path: Sequence[tuple[str, int]]) -> list[int] | None:
        """The lowest places at which the row has `path` in its order, if it has."""
        found: list[int] = []
        after = 0
        for hop in path:
            after = next((i for i in range(after, len(self._row)) if self._row[i] == hop), -1) + 1
            if not after:
                return None
            found.append(after - 1)
        return found

    def _genome(self, places: Sequence[int]) -> Genome:
        inside = set(places)
        bits = tuple(place in inside for place in range(len(self._row)))
        return (*bits, *resting_scale(self.input_scale) * len(self._row))
