"""Recipes to measure: any declared preset, with the parameters a search would vary drawn at random."""

import random
from collections.abc import Sequence

from search_spaces.recipe import Input, Recipe, Slice, parameters
from search_spaces.rules import PARAMETERS, RULES, Rule
from search_spaces.settings import Setting

MERGEKIT = (
    "linear",
    "slerp",
    "task_arithmetic",
    "ties",
    "dare_ties",
    "dare_linear",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "nuslerp",
    "multislerp",
    "karcher",
    "model_stock",
    "sce",
    "nearswap",
    "arcee_fusion",
    "ram",
    "passthrough",
)
"""Presets that mergekit 0.1.5 has under the same name; the first five are what people use most."""


def draw(preset: str, base: str, experts: Sequence[str], number: int) -> Recipe:
    """Candidate `number` of `preset` over all the sources it takes, in bfloat16.

    Every number draws other parameters (where a preset has none, another seed, which does nothing):
    no recipe is met twice. The seed of random masks is a search's: the same for all its candidates.

    Args:
        preset: a name in `RULES`.
        base: the base's source name.
        experts: the experts', of which a preset that takes fewer gets the first.
        number: non-negative; the same number, the same recipe.
    """
    rule = RULES[preset]
    names = list(experts) if rule.takes_base else [base, *experts]
    rng = random.Random(f"{preset} {number}")
    inputs = tuple(Input(n, None, _drawn(rule, rng, True)) for n in names[: rule.sources[1]])
    return Recipe(
        method=preset,
        slices=(Slice(inputs),),
        base=base if rule.takes_base else None,
        parameters=_drawn(rule, rng, False),
        dtype="bfloat16",
        seed=0 if rule.searched else number,
    )


def moved_bytes(recipe: Recipe, parameters: int) -> int:
    """Bytes that a merge of bfloat16 models cannot avoid: each source once, and the result."""
    return 2 * parameters * (len(recipe.sources) + 1)


def _drawn(rule: Rule, rng: random.Random, per_source: bool) -> tuple[tuple[str, Setting], ...]:
    settings: dict[str, Setting] = {}
    for name in rule.searched:
        interval = rule.search(name)
        if PARAMETERS[name].per_source == per_source and interval is not None:
            settings[name] = Setting.constant(round(rng.uniform(*interval), 6))
    return parameters(settings)
