"""Bounds on costs of the model, held against what candidates can cost at all."""

from typing import TYPE_CHECKING

from evomerge.config import RunFile
from evomerge.objectives import recipe_costs
from evomerge.search.goals import Goals
from fitness.objectives import EXACT_COSTS
from search_spaces.errors import InputError
from search_spaces.hybrid import HybridSpace
from search_spaces.indicator import IndicatorSpace
from search_spaces.path import PathSpace
from search_spaces.path_slots import depth_bounds
from search_spaces.space import SearchSpace
from search_spaces.stacking import Hop, Pool
from search_spaces.templates import TemplateSpace

if TYPE_CHECKING:
    from evomerge.merge.model_costs import RecipeCosts
    from evomerge.merge.sources import Sources


def check_cost_bounds(
    config: RunFile, goals: Goals, space: SearchSpace, sources: "Sources"
) -> None:
    """Refuse a bound on a cost that no candidate can keep.

    Args:
        config: the run file.
        goals: with the bounds.
        space: of the candidates; of two stages the second's, since the first keeps no such bound.
        sources: opened.

    Raises:
        InputError: layers, parameters or bytes of keys and values bounded below the least, or above
            the most, that a candidate can have; or a cost that cannot be told.
    """
    exact = {o.label: o.cost for o in config.fitness.all_objectives if o.cost in EXACT_COSTS}
    bounds = [bound for bound in goals.constraints if bound.objective in exact]
    if not bounds:
        return
    depths = fewest_layers(space, sources.layers), space.most_layers
    costs = recipe_costs(config, sources)
    for bound in bounds:
        cost = exact[bound.objective]
        assert cost is not None
        least, most = _range(cost, costs, sources, depths)
        hopeless = bound.bound > most if bound.sign == ">=" else bound.bound < least
        if hopeless:
            raise InputError(
                f"constraint {bound.objective} {bound.sign} {bound.bound:.12g}",
                f"candidates of {depths[0]} to {depths[1]} layers have {cost} from {least:,.0f} to "
                f"{most:,.0f}, so none can keep it",
                "fitness",
                "choose another bound" + (", or another `depth`" if space.fragile else ""),
            )


def fewest_layers(space: SearchSpace, layers: int) -> int:
    """Layers of the shallowest candidate, where each source has `layers`."""
    if isinstance(space, PathSpace | IndicatorSpace | TemplateSpace | HybridSpace):
        return depth_bounds(space.depth, layers)[0]
    return layers


def _range(
    cost: str, costs: "RecipeCosts", sources: "Sources", depths: tuple[int, int]
) -> tuple[float, float]:
    """The least and the most of `cost` at these depths: of the cheapest layer, of the dearest."""
    first = sources.names[0]
    pool = Pool([first], sources.layers, {})
    shallow, deep = (
        [costs.of(pool.stack([Hop(first, i)] * depth), [cost])[cost] for i in range(sources.layers)]
        for depth in depths
    )
    return min(shallow), max(deep)
