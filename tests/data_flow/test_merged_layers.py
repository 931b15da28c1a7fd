"""A layer of a merged model is the same weights in a stack as in that model, whatever stands beside."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from evomerge.merge.sources import Sources, open_sources
from evomerge.merge.weights import MergedWeights
from search_spaces import Granularity, ParameterSpace, dump_recipe, from_unit, parse_recipe
from search_spaces.stacking import Hop, Pool
from tests.conftest import ROOT

NAMES = ("base", "lunari", "abacus")
INSIDE = ("self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight")

RULES: dict[str, str | list[str]] = {
    "random masks": "dare_ties",
    "random masks by rank": "della_linear",
    "a threshold over the model": "ties_whole",
    "a depth ramp": "lines",
    "no base": "linear",
    "rules that all need a base": ["ties", "task_arithmetic", "lines"],
    "rules for which a base is optional": ["multislerp", "nuslerp"],
}


@pytest.fixture(scope="module")
def sources() -> Sources:
    return open_sources({n: ROOT / "examples" / "quickstart" / "models" / n for n in NAMES})


def layer(weights: MergedWeights, number: int) -> list[torch.Tensor]:
    return [weights.tensor(f"model.layers.{number}.{inner}").clone() for inner in INSIDE]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("seed", range(4))
def test_a_merged_layer_keeps_its_weights(
    sources: Sources, rule: str | Sequence[str], seed: int
) -> None:
    """Copied layers below it once made the whole recipe one of copies: its base was lost then; and
    masks were drawn for the place where a layer went, not for the one it came from."""
    generator = np.random.default_rng(seed)
    granularity = Granularity(2, rules=not isinstance(rule, str))
    space = ParameterSpace(rule, "base", NAMES[1:], sources.layers, granularity=granularity)
    merged = space.decode(from_unit(space, generator.random(len(space.variables))))
    weights = MergedWeights(sources)
    weights.prepare(merged)
    wanted = [layer(weights, number) for number in range(sources.layers)]
    for _ in range(4):
        path = [Hop("lunari", 3), Hop("m", int(generator.integers(sources.layers))), Hop("base", 0)]
        path += [Hop("m", int(generator.integers(sources.layers))) for _ in range(3)]
        stacked = Pool(NAMES, sources.layers, {"m": merged}).stack(path)
        assert parse_recipe(dump_recipe(stacked), "dump") == stacked
        weights.prepare(stacked)
        for place, hop in enumerate(path):
            if hop.model == "m":
                found = layer(weights, place)
                assert all(torch.equal(a, b) for a, b in zip(found, wanted[hop.layer], strict=True))
