"""The hybrid space: a path through merged layers, the merge and the path searched together.

Parameter space and data-flow space in one genome (Akiba et al. 2024, Evolutionary Optimization of
Model Merging Recipes, applied one after the other; here they are searched at once). A hop takes a
layer of the *merged* model; how that one is merged is part of the genome, in one of two ways:

- grouped (default): there is one merged model, with the variables of the parameter space in its
  granularity over the sources' layers. A layer that comes twice is merged alike both times.
- per slot: every slot has the parameter space's variables of its own (`slot_3.weight.maths`), so
  each layer of the stack is merged by itself. Choices for the whole model (`normalize`, and the
  method and stages unless the granularity says `rules`) stay one variable, as do components outside the
  stack with variables of their own (`embed`, `lm_head`). The layers that are kept at the bottom and at
  the top share one more set of variables, named as in the parameter space. Its granularity may cut
  across components, not along depth.

Variables: those of the parameter space, then `depth` (left out if it is fixed), then per slot
`slot_3.layer`, in the second way its parameters, and `slot_3.scale` if input scales are searched. `first`,
`last`, `depth` and scales are as in `search_spaces.path`; the kept layers are the merged model's.

The tensors around the stack are merged as the layers next to them: embeddings as the lowest, final
norm and head as the highest. A path straight through the merged model is the parameter space's
recipe of the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace
from search_spaces.path import between
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
from search_spaces.template_table import TEMPLATES, starts
from search_spaces.variables import Choice, Genome, Integer, Variable


@dataclass(frozen=True)
class HybridSpace:
    """Search space over paths through merged layers; a `SearchSpace`.

    Attributes:
        parameter: how layers are merged.
        depth: fewest and most layers of a stack.
        first, last: layers kept at the bottom and at the top, those of the merged model.
        input_scale: what is searched of input scales.
        per_slot: every slot has parameters of its own; else they are grouped by the parameter
            space's granularity.

    Raises:
        InputError: a depth that is none, more kept layers than the depth or a source has, a scale of
            a magnitude outside 0.01 to 4, a granularity along depth where slots have their own
            parameters, parameters that no stack can have (see `Pool`).
    """

    parameter: ParameterSpace
    depth: Depth
    first: int = 0
    last: int = 0
    input_scale: ScaleRange = None
    per_slot: bool = False

    def __post_init__(self) -> None:
        depth_bounds(self.depth, self._layers, self.first, self.last)
        scale_column(self.input_scale)
        if self.per_slot and self.parameter.granularity.layers not in (None, 1):
            raise InputError(
                f"granularity {self.parameter.granularity.layers} along depth with weights per slot",
                "each slot is a layer with parameters of its own",
                "granularity",
                "leave `layers` out, or group the weights",
            )
        for genome in self._corners():
            self.decode(genome)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The parameter space's, then `depth`, then per slot its layer, parameters and scale."""
        return (*(self.parameter.variables[i] for i in self._shared), *self._list.variables)

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
        around = self._around(genome)
        merges: dict[Genome, str] = {}
        path = [Hop(_model(merges, around), layer) for layer in range(self.first)]
        for row in self._list.rows(genome):
            model = _model(merges, self._merge(around, row))
            path.append(Hop(model, int(row[0]), scale_at(self.input_scale, row)))
        top = range(self._layers - self.last, self._layers)
        path += [Hop(_model(merges, around), layer) for layer in top]
        merged = {name: self.parameter.decode(merge) for merge, name in merges.items()}
        return Pool((), self._layers, merged, self.parameter.dtype).stack(path)

    def seeds(self) -> dict[str, Genome]:
        """Known good starting points: the parameter space's, each whole, then templates of them.

        `uniform` and each source by its name; `up_scaling.uniform` and so on. With weights per slot
        there are templates of two sources, too. Those that are too deep or too shallow are fitted;
        scales are 1, or the nearest in their range. Points that decode to an earlier one's recipe
        are left out.
        """
        return named_seeds(self.decode, self._starts())

    @property
    def _layers(self) -> int:
        return self.parameter.layers

    @cached_property
    def _own(self) -> tuple[int, ...]:
        """Places of the parameter space's variables that every slot has."""
        layered = self.parameter.layered
        return tuple(i for i, own in enumerate(layered) if own and self.per_slot)

    @cached_property
    def _shared(self) -> tuple[int, ...]:
        """Places of the parameter space's variables that come once."""
        kept = self.first + self.last
        return tuple(i for i in range(len(self.parameter.variables)) if kept or i not in self._own)

    @cached_property
    def _list(self) -> SlotList:
        kept = self.first + self.last
        own = (self.parameter.variables[i] for i in self._own)
        layer = Integer("layer", 0, self._layers - 1)
        columns = (layer, *own, *scale_column(self.input_scale))
        start = len(self._shared)
        return SlotList(start, self.depth[0] - kept, self.depth[1] - kept, kept, columns)

    def _around(self, genome: Genome) -> Genome:
        """The parameter space's genome of what is no slot (values that slots have at rest)."""
        point = list(self._merges["uniform"])
        for place, value in zip(self._shared, genome, strict=False):
            point[place] = value
        return tuple(point)

    def _merge(self, around: Genome, row: Genome) -> Genome:
        """The parameter space's genome of a slot."""
        point = list(around)
        for place, value in zip(self._own, row[1:], strict=False):
            point[place] = value
        return tuple(point)

    @cached_property
    def _merges(self) -> Mapping[str, Genome]:
        """The parameter space's seeds, `uniform` first."""
        return self.parameter.seeds()

    def _starts(self) -> Iterator[tuple[str, Genome]]:
        for name in self._merges:
            yield name, self._genome([(name, layer) for layer in range(self._layers)])
        names = [t.name for t in TEMPLATES.values() if t.alone or self.per_slot]
        uniform, *sources = self._merges
        for start in starts((*sources, uniform), self._layers, self.depth, names):
            if self.per_slot or len({*start.models}) == 1:
                steps = start.steps(self._layers)
                yield start.name, self._genome([(step.models[0], step.layer) for step in steps])

    def _corners(self) -> Iterator[Genome]:
        """A plain point, and for each option of each choice that point with it; one slot of them
        speaks for all."""
        _, plain = next(self._starts())
        yield plain
        for place, variable in enumerate(self.variables[: self.slots.columns[0][-1] + 1]):
            for option in variable.options if isinstance(variable, Choice) else ():
                yield (*plain[:place], option, *plain[place + 1 :])

    def _genome(self, path: Sequence[tuple[str, int]]) -> Genome:
        """The point nearest to `path`, whose models are names of the parameter space's seeds."""
        merges, scale = self._merges, resting_scale(self.input_scale)
        middle = between(path, self.first, self.last)
        chosen = fitted(middle, (self._list.fewest, self._list.most))
        rows = [(layer, *(merges[name][i] for i in self._own), *scale) for name, layer in chosen]
        around = merges[path[0][0]]
        return (*(around[i] for i in self._shared), *self._list.genome(rows))


def _model(merges: dict[Genome, str], merge: Genome) -> str:
    """The name in the pool of what is merged by the numbers `merge`."""
    return merges.setdefault(merge, f"merged {len(merges)}")
