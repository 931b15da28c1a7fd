"""Input scales become plain weights: a scaled stack is a stock checkpoint.

With w_l the factor on what flows into layer l (1 inside a slice), a scaled stack is

    u_l = w_l h_(l-1),    h_l = u_l + F_l(u_l)                  (Akiba et al. 2024, section 3.2)

and F_l begins with a norm, which takes no notice of the size of what it reads and hands on its sign.
So with c_l = w_2 ... w_l, the stream r_l = h_l / c_l is that of a model without scales:

    r_l = r_(l-1) + F'_l(r_(l-1)) / c_l,    r_0 = w_1 h_0

where F' is F with its norms' gains times the sign of c_l. All of this is exact but for the epsilon
that norms add to the mean square: it counts c_l^2 times what it counts in the scaled model. The first
scale stays in the stream because embeddings can be so small that epsilon counts there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from math import copysign
from operator import mul

import torch

from evomerge.merge.elements import Region
from evomerge.merge.families import Family, Part, family_of
from evomerge.merge.pipeline import ReadyTensor
from evomerge.merge.sources import Sources
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.roles import role, with_layer

_RANGE, _FLOAT16_RANGE = 1e12, 1e4
"""Greatest |c_l| and 1 / |c_l|. Weights and stream are divided by c_l, and norms square the stream
in float32; float16 ends at 65504."""

_PIECE = 2**20
"""Elements that are folded at a time."""


@dataclass(frozen=True, slots=True)
class Fold:
    """What happens to a merged tensor: it becomes factor * x + shift, in float32, rounded once."""

    factor: float
    shift: float = 0.0


_UNCHANGED = Fold(1.0)


def folds(recipe: Recipe, sources: Sources) -> dict[str, Fold]:
    """By output tensor, what the recipe's input scales make of it; only tensors that change.

    Raises:
        InputError: an architecture in which scales cannot be folded, scales whose product leaves
            the storage type's range, or a tensor that the architecture is not known to have.
    """
    if all(part.input_scale == 1 for part in recipe.slices):
        return {}
    family = _family(recipe, sources)
    hops = list(_hops(recipe, sources.layers))
    first, *others = (scale for _, scale in hops)
    products = list(accumulate(others, mul, initial=1.0))
    _check_range(products, recipe.dtype or _dtype(sources.dtype(recipe.sources[0])))
    inside, outside = _by_layer(sources)
    found: dict[str, Fold] = {}
    for number, ((layer, _), product) in enumerate(zip(hops, products, strict=True)):
        for name in inside.get(layer, ()) if product != 1 else ():
            found[with_layer(name, number)] = _inner_fold(family, name, product)
    sign = copysign(1.0, products[-1])
    for name in outside if (first, sign) != (1, 1) else ():
        found[name] = _outer_fold(family, name, first, sign, sources.tied)
    return {name: fold for name, fold in found.items() if fold != _UNCHANGED}


def write_folded(ready: ReadyTensor, fold: Fold, out: torch.Tensor, region: Region) -> bool:
    """`ReadyTensor.write`, and the fold.

    Returns:
        Whether all that was written is finite in `out`'s dtype.
    """
    work = ready.work
    if work.reference == "none" and work.scale == 1 and not fold.shift:
        # Nothing is added at the end: the kernel's last product is the fold.
        return replace(ready, work=replace(work, scale=fold.factor)).write(out, region)
    flat, place = out.view(-1), 0
    memory = torch.empty(min(_PIECE, flat.numel()), dtype=torch.float32, device=out.device)
    finite = torch.ones((), dtype=torch.bool, device=out.device)
    for part in _pieces(region):
        count = part.rows * part.columns
        made = memory[:count]
        ready.write(made, part)
        made.mul_(fold.factor)
        if fold.shift:
            made.add_(fold.shift)
        flat[place : place + count].copy_(made)
        place += count
        # Rounding keeps order: what is not finite shows at the ends, found much faster there.
        finite &= torch.stack(made.aminmax()).to(out.dtype).isfinite().all()
    return bool(finite)


def _family(recipe: Recipe, sources: Sources) -> Family:
    family = family_of(sources.config(recipe.sources[0]))
    if family.unscaled:
        raise InputError(
            f"input scales in a model of type '{family.name}'",
            family.unscaled,
            "recipe",
            "leave the input scales out: the layers themselves can be stacked",
        )
    return family


def _hops(recipe: Recipe, layers: int) -> Iterator[tuple[int, float]]:
    """Per output layer: the sources' layer, and the factor on what flows into it."""
    for part in recipe.slices:
        for number, layer in enumerate(range(*(part.inputs[0].layers or (0, layers)))):
            yield layer, 1.0 if number else part.input_scale


def _dtype(stored: torch.dtype) -> str:
    return str(stored).removeprefix("torch.")


def _check_range(products: list[float], dtype: str) -> None:
    """An error and no warning: a search takes it as a recipe that cannot be had, and goes on."""
    most = _FLOAT16_RANGE if dtype == "float16" else _RANGE
    for number, product in enumerate(products):
        if not 1 / most <= abs(product) <= most:
            raise InputError(
                f"input scales with the product {product:g}",
                f"the layers' weights are divided by it, and {dtype} has room for {1 / most:g} to "
                f"{most:g}",
                f"recipe, layer {number}",
                "choose scales nearer to 1" + (", or dtype bfloat16" if most < _RANGE else ""),
            )


def _by_layer(sources: Sources) -> tuple[dict[int, list[str]], list[str]]:
    """Names of floating tensors: by layer of a source, and outside the layers."""
    inside: dict[int, list[str]] = {}
    outside: list[str] = []
    for name in filter(sources.floating, sources.shapes):
        layer = role(name).layer
        (outside if layer is None else inside.setdefault(layer, [])).append(name)
    return inside, outside


def _inner_fold(family: Family, name: str, product: float) -> Fold:
    part = family.part(name)
    if part is Part.WRITES:
        factor = 1 / product
    elif part is Part.READS:
        factor = product
    else:
        factor = copysign(1.0, product) if part is Part.GAIN else 1.0
    return _fold(factor, family.offset(name))


def _outer_fold(family: Family, name: str, first: float, sign: float, tied: bool) -> Fold:
    """A head that is the embedding grows with it: the norm before it undoes that."""
    part = family.part(name)
    if part is Part.START:
        return Fold(first)
    if part is Part.HEAD:
        return _UNCHANGED
    undone = 1 / first if tied else 1.0
    return _fold(undone * (sign if part is Part.FINAL_GAIN else 1.0), family.offset(name))


def _fold(factor: float, offset: float) -> Fold:
    """`factor` on what the model makes of a tensor: offset + what is stored."""
    return Fold(factor, (factor - 1) * offset)


def _pieces(region: Region) -> Iterator[Region]:
    """Regions of at most `_PIECE` elements, in the order of the output."""
    rows = max(1, _PIECE // max(1, region.columns))
    for row in range(0, region.rows, rows):
        start = region.start + row * region.stride
        for column in range(0, region.columns, _PIECE):
            columns = min(_PIECE, region.columns - column)
            yield Region(min(rows, region.rows - row), columns, region.stride, start + column)
