"""What the spaces of stacks share: depths, input scales, lists of slots, and the choice of seeds.

**Depth.** A stack has at least and at most so many layers. What is deeper or shallower is *fitted*:
layers are left out, or repeated in place, evenly over the stack; the first and the last stay.

**Input scales.** A hop may scale the hidden state that flows into its layer. What is searched is a
range within -4 to 4; a number fixes the scale of every hop; None leaves the state alone. A range
may straddle 0, where the scale cannot be folded into weights: values closer to 0 than 0.01 stand for
0.01 of their sign (0 for +0.01).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import copysign
from typing import TypeVar, cast

from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.settings import Scalar
from search_spaces.slots import Slots
from search_spaces.validation import LEAST_SCALE, check_scale
from search_spaces.variables import Genome, Integer, Real, Variable

T = TypeVar("T")

Depth = tuple[int, int]
"""Fewest and most layers of a stack."""

ScaleRange = float | tuple[float, float] | None
"""Input scales: (low, high) to search one per hop, a number for all hops, None for no scaling."""

MOST_LAYERS = 512
"""Of a stack: the deepest models there are have a quarter of them."""

MOST_SEEDS = 24
"""A space of stacks names at most so many starting points: the rest of a population are edits."""

_EXACT = 1e-9
"""A scale this close to 1 is none: on its way through the unit cube 1 does not always stay 1."""

_WHERE = "search space"


@dataclass(frozen=True)
class SlotList:
    """A list of variable length inside a genome: its length, then the same variables per slot.

    Attributes:
        start: place in the genome of its first variable.
        fewest, most: slots that count.
        beside: layers that the variable `depth` counts besides the slots.
        columns: the variables of one slot; `layer` becomes `slot_3.layer`.
    """

    start: int
    fewest: int
    most: int
    beside: int
    columns: tuple[Variable, ...]

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """`depth` unless there is only one, then the slots' variables, bottom first."""
        depth = Integer("depth", self.fewest + self.beside, self.most + self.beside)
        named = (
            replace(c, name=f"slot_{i}.{c.name}") for i in range(self.most) for c in self.columns
        )
        return (*((depth,) if self._varies else ()), *named)

    @cached_property
    def slots(self) -> Slots:
        """Where they stand, for searchers."""
        width = len(self.columns)
        first = self.start + self._varies
        places = (range(first + i * width, first + (i + 1) * width) for i in range(self.most))
        length = self.start if self._varies else None
        return Slots(length, tuple(tuple(columns) for columns in places), self.fewest)

    def rows(self, genome: Genome) -> list[Genome]:
        """The values of the slots that count, in `genome` of the whole space."""
        count = int(genome[self.start]) - self.beside if self._varies else self.most
        columns = self.slots.columns[:count]
        return [genome[places[0] : places[-1] + 1] for places in columns]

    def genome(self, rows: Sequence[Sequence[Scalar]]) -> Genome:
        """The values of `variables` that stand for `rows`; slots at rest repeat the last of them."""
        depth = (len(rows) + self.beside,) if self._varies else ()
        resting = [rows[-1]] * (self.most - len(rows))
        return (*depth, *(value for row in (*rows, *resting) for value in row))

    @property
    def _varies(self) -> bool:
        return self.fewest < self.most


def depth_bounds(depth: Depth | None, layers: int, first: int = 0, last: int = 0) -> Depth:
    """`depth`, checked; None: from half a source's layers to twice as many.

    Args:
        depth: fewest and most layers.
        layers: of each source.
        first, last: layers at the bottom and at the top that are kept as they are.

    Raises:
        InputError: no layers, bounds that do not rise, more kept layers than a source has, or so
            many that nothing is left to search in the shallowest stack.
    """
    if layers < 1:
        raise InputError(
            f"layers = {layers}", "a model has layers", "layers", "count the sources' layers"
        )
    least, most = depth or (max(1, layers // 2), 2 * layers)
    if not 1 <= least <= most <= MOST_LAYERS:
        raise InputError(
            f"depth = [{least}, {most}]",
            f"it is [least, most] with 1 to {MOST_LAYERS} layers, and least not above most",
            _WHERE,
            "correct the depth",
        )
    for name, kept in (("first", first), ("last", last)):
        if not 0 <= kept <= layers:
            raise InputError(
                f"{name} = {kept}",
                f"a source has {layers} layers",
                _WHERE,
                f"keep 0 to {layers} of them",
            )
    if first + last and first + last >= least:
        raise InputError(
            f"first = {first} and last = {last} with depth = [{least}, {most}]",
            "layers are left to search between those that are kept",
            _WHERE,
            f"keep fewer, or raise the least depth above {first + last}",
        )
    return least, most


def fitted(path: Sequence[T], depth: Depth) -> list[T]:
    """`path`, of which elements are left out or repeated in place, evenly, until `depth` holds it."""
    length = len(path)
    count = min(max(length, depth[0]), depth[1])
    if count >= length:
        return [path[i * length // count] for i in range(count)]
    steps, last = max(count - 1, 1), length - 1
    return [path[(2 * i * last + steps) // (2 * steps)] for i in range(count)]


def scale_column(given: ScaleRange) -> tuple[Real, ...]:
    """The variable of an input scale, called `scale`; none if it is not searched.

    Raises:
        InputError: a scale, or an end of a range, of a magnitude outside 0.01 to 4, or a range that
            does not rise.
    """
    if given is None:
        return ()
    if not isinstance(given, (tuple, list)):
        check_scale(given, _WHERE)
        return ()
    # A file may hold anything, whatever the types say.
    ends = cast(Sequence[float], given)
    for end in ends:
        check_scale(end, _WHERE)
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise InputError(
            f"input_scale = {list(ends)}",
            "a range is [low, high] with low below high",
            _WHERE,
            "correct the range, or write one number for all hops",
        )
    return (Real("scale", float(ends[0]), float(ends[1])),)


def scale_at(given: ScaleRange, row: Sequence[Scalar]) -> float:
    """A hop's input scale: the last value of its `row` if it is searched."""
    if given is None or not isinstance(given, (tuple, list)):
        return 1.0 if given is None else float(given)
    value = float(row[-1])
    if abs(value - 1.0) < _EXACT:
        return 1.0
    return value if abs(value) >= LEAST_SCALE else copysign(LEAST_SCALE, value + 0.0)


def resting_scale(given: ScaleRange) -> tuple[float, ...]:
    """The values of `scale_column` that change least: 1, or the end of the range nearest to it."""
    return tuple(min(max(1.0, column.low), column.high) for column in scale_column(given))


def named_seeds(
    decode: Callable[[Genome], Recipe], found: Iterable[tuple[str, Genome]]
) -> dict[str, Genome]:
    """The first `MOST_SEEDS` starting points, without those that decode to an earlier one's recipe."""
    seeds: dict[str, Genome] = {}
    hashes: set[str] = set()
    for name, genome in found:
        identity = decode(genome).hash
        if identity not in hashes and name not in seeds:
            seeds[name] = genome
            hashes.add(identity)
        if len(seeds) == MOST_SEEDS:
            break
    return seeds
