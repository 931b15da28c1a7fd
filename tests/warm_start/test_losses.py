"""What a new space lacks is counted or said: nothing is dropped without a word."""

import numpy as np
import pytest

from evomerge.warm_start import _beginning
from search_spaces import (
    Granularity,
    HybridSpace,
    IndicatorSpace,
    ParameterSpace,
    PathSpace,
    from_unit,
)
from search_spaces.transfer import Transfer
from tests.warm_start.runs import WARM, prepared, run

SAME = {"base": "base", "a": "a", "b": "b"}
LAYERS = 4


def merges(rule="ties", experts=("a", "b"), **ranges):
    return ParameterSpace(rule, "base", list(experts), LAYERS, ranges=ranges)


def stacks(kind, scale):
    if kind == "path":
        return PathSpace(["a", "b"], LAYERS, (2, 6), input_scale=scale)
    if kind == "indicator":
        return IndicatorSpace(["a", "b"], LAYERS, 2, (2, 6), input_scale=scale)
    own = kind == "hybrid per slot"
    layers = ParameterSpace("ties", "base", ["a", "b"], LAYERS, granularity=Granularity(None))
    return HybridSpace(layers, (2, 6), input_scale=scale, per_slot=own)


@pytest.mark.parametrize("kind", ["path", "indicator", "hybrid", "hybrid per slot"])
def test_input_scales_that_the_new_space_has_not(kind):
    def moved(old, new):
        way = Transfer(stacks(kind, old), stacks(kind, new), SAME)
        genome = from_unit(way.old, np.random.default_rng(1).random(len(way.old.variables)))
        return way.carried(genome).moved

    assert moved((0.5, 1.5), None) == ("input_scale",)
    assert moved(1.2, (0.5, 1.5)) == ("input_scale",)
    assert moved((0.5, 1.5), (0.5, 1.5)) == moved(None, (0.5, 1.5)) == moved(None, None) == ()
    assert "input_scale" not in moved((0.5, 1.5), (0.9, 1.1)), "by their variables' names"


def test_only_scales_that_count_are_moved():
    old, new = stacks("path", (0.5, 1.5)), stacks("path", None)
    plain = [1.0 if v.name.endswith(".scale") else None for v in old.variables]
    genome = list(next(iter(old.seeds().values())))
    assert Transfer(old, new, SAME).carried(tuple(genome)).moved == ()
    genome[max(i for i, value in enumerate(plain) if value)] = 1.4  # a slot at rest
    assert Transfer(old, new, SAME).carried(tuple(genome)).moved == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dare_ties", "ties", ["that run merged by dare_ties, this one by ties"]),
        (
            "ties",
            "task_arithmetic",
            ["merged by ties, this one by task_arithmetic", "that run's density: left out"],
        ),
        ("ties", ["ties", "dare_ties"], []),
        ("ties", "ties", []),
    ],
)
def test_another_rule_and_numbers_without_a_place_are_said(old, new, said):
    losses = Transfer(merges(old), merges(new), SAME).losses
    assert len(losses) == len(said)
    for loss, part in zip(losses, said, strict=True):
        assert part in loss


def test_numbers_that_the_new_space_fixes_are_counted_instead():
    way = Transfer(merges(), merges(density=0.5), SAME)
    assert way.losses == ()
    genome = from_unit(way.old, np.random.default_rng(1).random(len(way.old.variables)))
    assert way.carried(genome).moved == ("density",)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (merges("sce", "abc"), "as the others do: its weight is not searched"),
        (merges("ties", "abc", weight=1.0), "as the others do: its weight is not searched"),
        (merges("cart", "abc"), "at weight 0.5, the least of its range"),
        (merges("pcb", "abc"), "at weight 0.8, the least of its range"),
        (merges("ties", "abc", weight=[0.05, 1]), "at weight 0.05, or a small one"),
        (merges("ties", "abc", weight=[-1, 1]), "at weight 0, or a small one"),
        (HybridSpace(merges("cart", "abc"), (2, 6)), "at weight 0.5, the least of its range"),
        (PathSpace(["a", "b", "c"], LAYERS, (2, 6)), "no candidate has a layer of it"),
    ],
)
def test_where_a_new_expert_begins(space, said):
    assert said in _beginning(space, "c")


def test_check_says_that_the_rule_is_another(write, folder):
    run(write("dare.yaml", {"space": {"rule": "dare_ties"}}), folder / "dare")
    changes = {"space": {"rule": "ties"}, "search.warm_start": "dare"}
    known = prepared(write("no_dare.yaml", WARM | changes))
    assert known.warm.search.genomes
    said = "that run merged by dare_ties, this one by ties: other models come of it"
    assert ("warm start", said) in known.facts
