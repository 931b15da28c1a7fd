"""The published ways to stack layers, declared once: `TEMPLATES`.

A template turns one or two models and a few whole numbers into a path. The template space makes
variables of them, every space of stacks takes starting points from them, and the documentation and
the tests read the same table. Adding one is a function and an entry.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, zip_longest

from search_spaces.path_slots import Depth
from search_spaces.variables import Integer

Numbers = Mapping[str, int]
"""A template's numbers by name."""


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a template's path: of one model, or the average of two models' (the first of
    them where a space has no averages)."""

    models: tuple[str, ...]
    layer: int


@dataclass(frozen=True, slots=True)
class Template:
    """A way to stack layers.

    Attributes:
        name: in run files, genomes and the names of starting points.
        doc: one line.
        paper: author, year, title.
        roles: what models it takes, one name each.
        alone: whether one model may play both of two roles.
        numbers: its variables, for models of so many layers.
        build: the path, from the layers, the models by role, and the numbers. Total: any numbers
            in their ranges give at least one layer and at most twice a model's.
        start: sensible numbers for so many layers, with which the path has the depth given if there
            are any such numbers.
        whole: numbers with which the path is a model whole that plays all roles or, where it may
            not, the last one; None: there are none.
    """

    name: str
    doc: str
    paper: str
    roles: tuple[str, ...]
    alone: bool
    numbers: Callable[[int], tuple[Integer, ...]]
    build: Callable[[int, tuple[str, ...], Numbers], list[Step]]
    start: Callable[[int, Depth], Numbers]
    whole: Callable[[int], Numbers | None]

    def casts(self, models: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Who may play which role: one model in all of them first, then every pair; those with the
        first model, which is the base if there is one, last."""
        if self.alone:
            yield from ((model,) * len(self.roles) for model in models)
        if len(self.roles) == 2:
            yield from permutations((*models[1:], *models[:1]), 2)


@dataclass(frozen=True, slots=True)
class Start:
    """A template with its models and numbers: a starting point."""

    template: Template
    models: tuple[str, ...]
    numbers: Numbers

    @property
    def name(self) -> str:
        """Such as `layer_swap.maths.ja`, `layer_drop.maths`."""
        return ".".join((self.template.name, *dict.fromkeys(self.models)))

    def steps(self, layers: int) -> list[Step]:
        """The path."""
        return self.template.build(layers, self.models, self.numbers)


def starts(
    models: Sequence[str], layers: int, depth: Depth, names: Sequence[str] | None = None
) -> Iterator[Start]:
    """Starting points of the templates `names` (all), each template's first ones first."""
    templates = [TEMPLATES[name] for name in (TEMPLATES if names is None else names)]
    columns = [[(t, cast) for cast in t.casts(models)] for t in templates]
    for row in zip_longest(*columns):
        for template, cast in filter(None, row):
            yield Start(template, cast, template.start(layers, depth))


def _up_scaling_numbers(layers: int) -> tuple[Integer, ...]:
    return (Integer("m", 0, layers // 2),)


def _up_scaling(layers: int, models: tuple[str, ...], numbers: Numbers) -> list[Step]:
    lower, upper = models
    m = numbers["m"]
    bottom = [Step((lower,), layer) for layer in range(layers - m)]
    return bottom + [Step((upper,), layer) for layer in range(m, layers)]


def _up_scaling_start(layers: int, depth: Depth) -> Numbers:
    # The paper's 8 of 32 layers, as far as the depth, 2 * (layers - m), allows.
    m = max(layers // 4, layers - depth[1] // 2)
    return {"m": max(0, min(m, layers - (depth[0] + 1) // 2, layers // 2))}


def _layer_swap_numbers(layers: int) -> tuple[Integer, ...]:
    half = (layers + 1) // 2
    return (
        Integer("bottom", 0, half),
        Integer("top", 0, layers - half),
        Integer("transition", 0, max(1, layers // 8)),
    )


def _layer_swap(layers: int, models: tuple[str, ...], numbers: Numbers) -> list[Step]:
    middle, outer = models
    bottom, top, width = (numbers[name] for name in ("bottom", "top", "transition"))

    def who(layer: int) -> tuple[str, ...]:
        below, above = layer - bottom, layers - top - 1 - layer  # < 0 in the outer model's parts
        if below < 0 or above < 0:
            return (outer,)
        mixed = (bottom and below < width) or (top and above < width)
        return (middle, outer) if mixed and middle != outer else (middle,)

    return [Step(who(layer), layer) for layer in range(layers)]


def _layer_swap_start(layers: int, depth: Depth) -> Numbers:
    eighth = max(1, layers // 8)
    # A layer of the middle alone is left between the seams.
    width = min(max(1, layers // 16), (layers - 2 * eighth - 1) // 2)
    return {"bottom": eighth, "top": min(eighth, layers // 2), "transition": max(0, width)}


def _interleave_numbers(layers: int) -> tuple[Integer, ...]:
    half = max(1, layers // 2)
    return (Integer("block", 1, half), Integer("overlap", 0, half // 2))


def _interleave(layers: int, models: tuple[str, ...], numbers: Numbers) -> list[Step]:
    block = numbers["block"]
    # At most half a block: then no layer comes more than twice.
    stride = block - min(numbers["overlap"], block // 2)
    steps: list[Step] = []
    for turn, first in enumerate(range(0, max(layers - block, 0) + stride, stride)):
        model = models[turn % 2]
        steps += [Step((model,), layer) for layer in range(first, min(first + block, layers))]
    return steps


def _interleave_start(layers: int, depth: Depth) -> Numbers:
    block = max(1, layers // 4)
    overlaps = range(block // 2, -1, -1)
    lengths = {
        overlap: len(_interleave(layers, ("", ""), {"block": block, "overlap": overlap}))
        for overlap in overlaps
    }
    inside = [o for o in overlaps if depth[0] <= lengths[o] <= depth[1]]
    return {"block": block, "overlap": inside[0] if inside else 0}


def _layer_drop_numbers(layers: int) -> tuple[Integer, ...]:
    return (Integer("start", 0, layers - 1), Integer("count", 0, layers // 2))


def _layer_drop(layers: int, models: tuple[str, ...], numbers: Numbers) -> list[Step]:
    count = numbers["count"]
    start = min(numbers["start"], layers - count)
    return [Step(models, layer) for layer in range(layers) if not 0 <= layer - start < count]


def _layer_drop_start(layers: int, depth: Depth) -> Numbers:
    # Below the last layer, where the paper finds them to matter least.
    count = min(max(layers // 8, 1, layers - depth[1]), layers - depth[0], layers // 2)
    count = max(0, count)
    return {"start": layers - 1 - count, "count": count}


TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        Template(
            "up_scaling",
            "the lower layers but the last m, then the upper ones but the first m",
            "Kim et al. 2023, SOLAR 10.7B: depth up-scaling",
            ("lower", "upper"),
            True,
            _up_scaling_numbers,
            _up_scaling,
            _up_scaling_start,
            lambda layers: None if layers % 2 else {"m": layers // 2},
        ),
        Template(
            "layer_swap",
            "the bottom and top layers of one model around the middle of another, layers beside "
            "the seams averaged",
            "Bandarkar et al. 2024, Layer Swapping for Zero-Shot Cross-Lingual Transfer",
            ("middle", "outer"),
            False,
            _layer_swap_numbers,
            _layer_swap,
            _layer_swap_start,
            lambda layers: {"bottom": (layers + 1) // 2, "top": layers // 2, "transition": 0},
        ),
        Template(
            "interleave",
            "blocks of layers of two models in turn, each beginning before the last one ended",
            "Goddard et al. 2024, Arcee's MergeKit: passthrough stacks (Goliath-120B)",
            ("lower", "upper"),
            True,
            _interleave_numbers,
            _interleave,
            _interleave_start,
            lambda layers: {"block": max(1, layers // 2), "overlap": 0},
        ),
        Template(
            "layer_drop",
            "a model without a block of layers",
            "Gromov et al. 2024, The Unreasonable Ineffectiveness of the Deeper Layers",
            ("model",),
            True,
            _layer_drop_numbers,
            _layer_drop,
            _layer_drop_start,
            lambda layers: {"start": 0, "count": 0},
        ),
    )
}
"""Every template by name."""
