"""What mergekit 0.1.5 has of our rules and parameters, so that what it would not do can be said."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search_spaces.recipe import Recipe

_DELTA = ("weight", "density", "normalize", "rescale", "lambda")

METHODS: Mapping[str, tuple[str, ...]] = {
    "linear": ("weight", "normalize"),
    "passthrough": ("scale",),
    "slerp": ("t",),
    "nuslerp": ("weight", "nuslerp_row_wise", "nuslerp_flatten"),
    "multislerp": ("weight", "normalize_weights", "eps"),
    "karcher": ("max_iter", "tol"),
    "task_arithmetic": _DELTA,
    "ties": _DELTA,
    "dare_linear": _DELTA,
    "dare_ties": _DELTA,
    "della": (*_DELTA, "epsilon"),
    "della_linear": (*_DELTA, "epsilon"),
    "breadcrumbs": (*_DELTA, "gamma"),
    "breadcrumbs_ties": (*_DELTA, "gamma"),
    "sce": ("select_topk",),
    "model_stock": ("filter_wise",),
    "nearswap": ("t",),
    "arcee_fusion": (),
    "ram": ("epsilon",),
}
"""mergekit's methods that are rules here, and their parameters (tested against mergekit)."""


def extensions(recipe: "Recipe") -> list[str]:
    """Sentences that say what mergekit would refuse or pass over in `recipe`; empty: nothing."""
    if recipe.method not in METHODS:
        return [f"mergekit has no method '{recipe.method}'"]
    return [*_parameters(recipe), *_scales(recipe)]


def _scales(recipe: "Recipe") -> list[str]:
    if all(part.input_scale == 1 for part in recipe.slices):
        return []
    return ["mergekit passes over 'input_scale' and would merge the stack without its scales"]


def _parameters(recipe: "Recipe") -> list[str]:
    settings = [recipe.parameters, *(part.parameters for part in recipe.slices)]
    settings += [entry.parameters for part in recipe.slices for entry in part.inputs]
    named = {name for items in settings for name, _ in items}
    unknown = sorted(named - set(METHODS[recipe.method]))
    if not unknown:
        return []
    names = ", ".join(f"'{name}'" for name in unknown)
    return [f"mergekit's '{recipe.method}' has no {names} and would merge something else"]
