"""A stack in one line: `maths 0-5, ja 4-9 x1.2, maths 8-11`."""

from search_spaces.agreement import COPIED
from search_spaces.recipe import Recipe, Setting, Slice
from search_spaces.rules import METHOD


def path_text(recipe: Recipe, merged: str | None = None) -> str:
    """The layers of `recipe`'s result, bottom first, as stretches that follow one another.

    Args:
        recipe: of a stack.
        merged: what merged layers are called; None: by the sources that go in (`maths+ja`).

    Returns:
        Per stretch where it comes from, its first and last layer, and its input scale if it has one.
    """
    stretches: list[tuple[str, int, int, float]] = []
    for part in recipe.slices:
        name, span = origin(recipe, part, merged), part.inputs[0].layers
        if span is None:
            return f"{name}, all layers in order"
        first, last = span[0], span[1] - 1
        before = stretches[-1] if stretches else None
        if before and part.input_scale == 1 and (before[0], before[2] + 1) == (name, first):
            stretches[-1] = (name, before[1], last, before[3])
        else:
            stretches.append((name, first, last, part.input_scale))
    return ", ".join(_stretch(*stretch) for stretch in stretches)


def origin(recipe: Recipe, part: Slice, merged: str | None = None) -> str:
    """What a slice is made of: `maths`, or `maths+ja` where it is merged."""
    if dict(part.parameters).get(METHOD, Setting.constant(recipe.method)) == COPIED:
        return part.inputs[0].source
    if merged is not None:
        return merged
    base = [recipe.base] if recipe.based and recipe.base is not None else []
    return "+".join(dict.fromkeys([*base, *(entry.source for entry in part.inputs)]))


def _stretch(name: str, first: int, last: int, scale: float) -> str:
    span = f"{first}" if first == last else f"{first}-{last}"
    return f"{name} {span}" + ("" if scale == 1 else f" x{scale:.3g}")
