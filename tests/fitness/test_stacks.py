"""Where the layers of a candidate run in an engine that was built once."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.engine import Stack
from fitness.engines.stacks import in_slot, layer_kinds, layer_lists, layer_of, places
from fitness.errors import FitnessError

S, F = "layer_types=sliding", "layer_types=full"


def test_layers_that_are_all_alike_stay_in_their_places():
    assert places(["", "", "", ""], Stack(3)) == (0, 1, 2)
    assert places([F, F, F], Stack(2, (F, F))) == (0, 1)


def test_a_layer_runs_in_the_next_slot_of_its_kind():
    slots = [S, F, S, F, S, F]
    assert places(slots, Stack(3, (F, F, S))) == (1, 3, 0)
    assert places(slots, Stack(3, (S, S, S))) == (0, 2, 4)
    assert places(slots, Stack(4, (S, F, S, F))) == (0, 1, 2, 3)


@given(st.lists(st.sampled_from([S, F]), min_size=1, max_size=9))
def test_as_many_slots_of_each_kind_as_layers_are_room_for_every_path(kinds):
    slots = [kind for _ in kinds for kind in (S, F)]
    found = places(slots, Stack(len(kinds), tuple(kinds)))
    assert [slots[place] for place in found] == kinds
    assert len(set(found)) == len(found)
    for kind in (S, F):
        own = [place for place in found if slots[place] == kind]
        assert own == sorted(own)


@pytest.mark.parametrize(
    ("slots", "stack", "message"),
    [
        (["", ""], Stack(3), r"a candidate of 3 layers: the engine was built for 2; build it for"),
        ([S, F, S], Stack(2, (F, F)), r"2 layers of kind '.*full': the engine has 1 slots of that"),
        ([S, S], Stack(1, (F,)), r"1 layers of kind '.*full': the engine has 0 slots"),
        ([S, F], Stack(2), r"whose layers are all alike: the engine's are not: .*sliding, .*full"),
    ],
)
def test_a_candidate_that_finds_no_room_is_refused(slots, stack, message):
    with pytest.raises(FitnessError, match=message):
        places(slots, stack)


def test_names_follow_their_layers():
    assert layer_of("model.layers.12.mlp.experts.3.w1.weight") == 12
    assert layer_of("lm_head.weight") is None
    name = "model.layers.1.mlp.experts.0.w1.weight"
    assert in_slot(name, (4, 7)) == "model.layers.7.mlp.experts.0.w1.weight"
    assert in_slot("model.norm.weight", (4, 7)) == "model.norm.weight"


def test_only_lists_of_one_entry_per_layer_tell_layers_apart():
    config = SimpleNamespace(
        layer_types=["full", "sliding", "full"], no_rope_layers=[1, 0], mlp_layer_types=None
    )
    assert layer_lists(config, 3) == {"layer_types": ["full", "sliding", "full"]}
    assert layer_kinds(config, 3) == (F, S, F)
    assert layer_kinds(SimpleNamespace(), 2) == ("", "")


def test_a_mixtures_layers_without_experts_are_another_kind():
    """`mlp_only_layers` and `decoder_sparse_step` of Qwen's mixtures: every second layer, not 3."""
    config = SimpleNamespace(mlp_only_layers=[3], decoder_sparse_step=2, num_experts=8)
    assert layer_lists(config, 6) == {"sparse": [False, True, False, False, False, True]}
