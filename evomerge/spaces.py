"""From the run file's `space` to a search space over opened sources."""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from evomerge.config import Merging, RunFile
from evomerge.config.space import (
    HybridSection,
    IndicatorSection,
    PathSection,
    Space,
    merged_of,
)
from search_spaces.granularity import Granularity
from search_spaces.hybrid import HybridSpace
from search_spaces.indicator import IndicatorSpace
from search_spaces.parameter import ParameterSpace
from search_spaces.path import PathSpace
from search_spaces.recipe import Recipe
from search_spaces.roles import COMPONENTS, role
from search_spaces.space import SearchSpace
from search_spaces.templates import TemplateSpace

if TYPE_CHECKING:
    from evomerge.merge.sources import Sources

MERGED = "merged"
"""What the first stage's winner is called among the models that layers come from."""


def build_space(config: RunFile, sources: "Sources", merged: Recipe | None = None) -> SearchSpace:
    """The run file's search space over these sources.

    Args:
        config: the run file.
        sources: opened.
        merged: of a search in two stages, what the first found. None: not known yet; a plain merge
            stands in for it, so that the space has its variables.

    Raises:
        InputError: what the section says cannot be searched over these sources.
    """
    section, dtype = config.space, config.export.dtype
    names, layers = list(config.models.sources), sources.layers
    if isinstance(section, Space):
        return _parameter_space(config, section, sources)
    if isinstance(section, HybridSection):
        return HybridSpace(
            _parameter_space(config, section, sources),
            section.depth or _usual_depth(section, layers),
            section.first,
            section.last,
            section.input_scale,
            per_slot=section.weights == "per_slot",
        )
    pool = _pool(config, sources, merged)
    if isinstance(section, PathSection):
        depth = section.depth or _usual_depth(section, layers)
        first, last, scale = section.first, section.last, section.input_scale
        return PathSpace(names, layers, depth, first, last, scale, pool, dtype)
    if isinstance(section, IndicatorSection):
        repeats, depth, scale = section.repeats, section.depth, section.input_scale
        return IndicatorSpace(names, layers, repeats, depth, scale, pool, dtype)
    return TemplateSpace(names, layers, section.templates, dtype, section.depth, pool)


def _usual_depth(section: PathSection | HybridSection, layers: int) -> tuple[int, int]:
    """Half the sources' layers to twice as many; something is left between those that are kept."""
    return max(1, layers // 2, section.first + section.last + 1), 2 * layers


def first_stage(config: RunFile, sources: "Sources") -> ParameterSpace | None:
    """The parameter space whose winner joins the sources; None: the search has one stage."""
    section = merged_of(config.space)
    return None if section is None else _parameter_space(config, section, sources)


def with_merged(space: SearchSpace, recipe: Recipe) -> SearchSpace:
    """The second stage's space once the first stage's winner is known."""
    known = cast(PathSpace | IndicatorSpace | TemplateSpace, space)
    return replace(known, merged={MERGED: recipe})


def _pool(config: RunFile, sources: "Sources", merged: Recipe | None) -> dict[str, Recipe]:
    """The models besides the sources."""
    first = first_stage(config, sources)
    if first is None:
        return {}
    return {MERGED: merged or first.decode(first.seeds()["uniform"])}


def _parameter_space(config: RunFile, section: Merging, sources: "Sources") -> ParameterSpace:
    names = list(config.models.sources)
    present = {role(tensor).component for tensor in sources.names_of(names[0])}
    granularity = section.granularity
    return ParameterSpace(
        rule=section.rule,
        base="base" if config.models.base else None,
        experts=list(config.models.experts),
        layers=sources.layers,
        components=[c for c in COMPONENTS if c in present],
        granularity=Granularity(granularity.layers, granularity.components, granularity.rules),
        ranges=section.parameters,
        seed=config.search.seed,
        dtype=config.export.dtype,
    )
