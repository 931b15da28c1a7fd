"""How far the merge is from where it began, layer by layer: a look at the weights for sanity.

The distance of a part is ||w - r|| / ||r|| (Frobenius norms over all its tensors), with r the base's
weights; without a base, the mean of the sources'. In a stack a layer is compared with the layer it (or
the first of what it merges) comes from. Tensors are read one after the other, and in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from evomerge.merge.sources import Sources
    from search_spaces.recipe import Recipe, TensorPlan

FAR = 2.0
"""A layer is far out if its distance is more than this many times the farthest source's."""

SAME = 1e-7
"""Relative distance below which the merge is the source, but for rounding of float32."""

_PIECE = 2**22
"""Elements looked at at a time."""

MERGE = "merge"
"""What the merge is called among the sources."""


@dataclass(frozen=True)
class Part:
    """A layer, a component of one, or what lies outside the stack.

    Attributes:
        layer: of the merge, from 0; None: outside the stack.
        component: `attn`, `mlp`, `norm`, `embed`, `lm_head` ...; empty: the whole layer.
        distances: by model (`MERGE` and the sources that the part can be compared with), relative.
    """

    layer: int | None
    component: str
    distances: Mapping[str, float]


@dataclass(frozen=True)
class Distances:
    """The merge and its sources, seen from the base.

    Attributes:
        reference: what distances are measured from, in words.
        parts: components of the layers, the bottom first, then what lies outside the stack.
        layers: whole layers.
        whole: distance of the whole model, by model.
        warnings: sentences: what looks wrong.
    """

    reference: str
    parts: tuple[Part, ...]
    layers: tuple[Part, ...]
    whole: Mapping[str, float]
    warnings: tuple[str, ...]


@dataclass
class _Sums:
    """Squared norms of a part."""

    reference: float = 0.0
    apart: dict[str, float] = field(default_factory=dict)
    from_source: dict[str, float] = field(default_factory=dict)

    def add(self, other: _Sums) -> None:
        self.reference += other.reference
        for mine, theirs in ((self.apart, other.apart), (self.from_source, other.from_source)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0.0) + value

    def relative(self) -> dict[str, float]:
        return {name: _ratio(value, self.reference) for name, value in self.apart.items()}


def measure(folder: Path, recipe: Recipe, sources: Sources) -> Distances:
    """Compare a merge on disk with its sources.

    Args:
        folder: the merge.
        recipe: it was made by.
        sources: opened.
    """
    from evomerge.hand_over.files import tensors_of
    from evomerge.merge.resolve import resolve
    from evomerge.merge.shards import release
    from search_spaces.roles import role

    sources = sources.with_tokenizer(recipe.tokenizer, recipe.base)
    base = recipe.base if recipe.base in sources.names else None
    if base is None and "base" in sources.names:
        base = "base"
    plans = resolve(recipe, sources)
    sums: dict[tuple[int | None, str], _Sums] = {}
    for name, merged in tensors_of(folder):
        if name not in plans or not merged.is_floating_point():
            continue
        place = role(name)
        within = sums.setdefault((place.layer, place.component), _Sums())
        theirs = _theirs(plans[name], sources)
        within.add(_squares(merged, theirs, base))
        release(theirs.values())
    return _described(sums, base, sources.names)


def _theirs(plan: TensorPlan, sources: Sources) -> dict[str, torch.Tensor]:
    """Each source's tensor in the place that an output tensor comes from, where it has one."""
    own = {part.source: part.tensor for part in plan.inputs}
    usual = plan.inputs[0].tensor
    asked = {name: own.get(name, usual) for name in sources.names}
    return {name: sources.tensor(name, t) for name, t in asked.items() if sources.holds(name, t)}


def _squares(merged: torch.Tensor, theirs: Mapping[str, torch.Tensor], base: str | None) -> _Sums:
    import torch

    found = _Sums()
    alike = {name: t for name, t in theirs.items() if t.shape == merged.shape}
    for piece, others in _pieces(merged, alike):
        origin = others[base] if base in others else torch.stack([*others.values()]).mean(0)
        found.add(
            _Sums(
                float((origin * origin).sum()),
                {name: float(((t - origin) ** 2).sum()) for name, t in others.items()}
                | {MERGE: float(((piece - origin) ** 2).sum())},
                {name: float(((piece - t) ** 2).sum()) for name, t in others.items()},
            )
        )
    return found


def _pieces(
    merged: torch.Tensor, theirs: Mapping[str, torch.Tensor]
) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """The same elements of all, in float64."""
    flat = {name: tensor.reshape(-1) for name, tensor in theirs.items()}
    own = merged.reshape(-1)
    for start in range(0, own.numel() if flat else 0, _PIECE):
        here = slice(start, start + _PIECE)
        yield own[here].double(), {name: tensor[here].double() for name, tensor in flat.items()}


def _described(
    sums: Mapping[tuple[int | None, str], _Sums], base: str | None, names: Sequence[str]
) -> Distances:
    whole, layers = _Sums(), dict[int, _Sums]()
    order = sorted(sums, key=lambda key: (key[0] is None, key[0] or 0, key[1]))
    for layer, component in order:
        whole.add(sums[layer, component])
        if layer is not None:
            layers.setdefault(layer, _Sums()).add(sums[layer, component])
    parts = tuple(Part(*key, sums[key].relative()) for key in order)
    by_layer = tuple(Part(layer, "", found.relative()) for layer, found in layers.items())
    reference = f"the base ({base})" if base else f"the mean of {', '.join(names)} (no base)"
    warnings = [*_equal_to(whole), *_far(by_layer, base)]
    return Distances(reference, parts, by_layer, whole.relative(), tuple(warnings))


def _equal_to(whole: _Sums) -> Iterator[str]:
    for name, value in whole.from_source.items():
        if _ratio(value, whole.reference) <= SAME:
            yield f"the merge is {name}: no weight differs by more than rounding"


def _far(layers: Sequence[Part], base: str | None) -> Iterator[str]:
    """Layers far outside the range of the sources, in one sentence."""
    far: list[str] = []
    worst = 0.0
    for part in layers:
        theirs = [d for name, d in part.distances.items() if name not in (MERGE, base)]
        most = max(theirs, default=0.0)
        own = part.distances.get(MERGE, 0.0)
        if not math.isfinite(own) or (most > 0 and own > FAR * most):
            far.append(str(part.layer))
            worst = max(worst, own / most if most else math.inf)
    if far:
        yield (
            f"layer {', '.join(far)}: up to {worst:.1f} times as far out as the farthest source; "
            "merges that far out often lose what was not tested"
        )


def _ratio(square: float, reference: float) -> float:
    return math.sqrt(square / reference) if reference > 0 else (math.inf if square > 0 else 0.0)
