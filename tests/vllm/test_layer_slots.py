"""Which slots of a running model hold a candidate's layers, and what the model shows meanwhile.

That the candidate then answers as it should is in test_depths.py, with real models.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fitness.engine import Stack
from fitness.engines.vllm.layer_slots import LayerSlots, ascending
from fitness.errors import FitnessError

SLIDES, SEES = "layer_types=slides", "layer_types=sees"


class Inner(nn.Module):
    """A model whose forward pass goes through `layers` up to `end_layer`."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(i) for i in range(config.num_hidden_layers))
        self.end_layer = config.num_hidden_layers


class Layer(nn.Module):
    """A layer with as many experts as the model has layers."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))


def a_model(fixed: bool, types: list[str] | None = None) -> tuple[Inner, LayerSlots]:
    config = SimpleNamespace(num_hidden_layers=4)
    if types:
        config.layer_types = types
    inner = Inner(config)
    outer = nn.ModuleDict({"model": inner, "lm_head": nn.Linear(2, 2)})
    return inner, LayerSlots(outer, config, 4, fixed=fixed)


def shown(inner: Inner) -> list[int]:
    """The slots that the list holds; the forward pass has to agree how many."""
    assert inner.end_layer == len(inner.layers) == inner.config.num_hidden_layers
    return [layer.number for layer in inner.layers]  # pyright: ignore[reportReturnType]


NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.experts.{j}.weight" for i in range(3) for j in range(2)),
    "lm_head.weight",
]


def test_layers_are_left_out():
    inner, slots = a_model(fixed=False)
    slots.open(Stack(3))
    assert shown(inner) == [0, 1, 2]
    assert slots.zeros(NAMES) == {}
    slots.close()
    assert shown(inner) == [0, 1, 2]
    assert slots.identities == 0
    slots.open(Stack(4))
    assert shown(inner) == [0, 1, 2, 3]


def test_layers_of_several_kinds_run_in_slots_of_theirs():
    inner, slots = a_model(fixed=False, types=["slides", "sees"] * 2)
    slots.open(Stack(3, (SEES, SLIDES, SLIDES)))
    assert shown(inner) == [1, 0, 2]
    assert inner.config.layer_types == ["sees", "slides", "slides"], "transformers' code reads it"
    slots.open(Stack(4, (SLIDES, SEES) * 2))
    assert shown(inner) == [0, 1, 2, 3]
    assert inner.config.layer_types == ["slides", "sees"] * 2


def test_slots_that_run_for_nothing_are_zeros():
    """Written once, and again after a layer was there; where the candidate's tensors end."""
    inner, slots = a_model(fixed=True)
    slots.open(Stack(3))
    assert shown(inner) == [0, 1, 2, 3], "the last one is to be written too"
    zeros = {
        f"model.layers.3.experts.{j}.weight": f"model.layers.0.experts.{j}.weight" for j in (0, 1)
    }
    assert slots.zeros(NAMES) == zeros
    slots.close()
    assert slots.identities == 1
    slots.open(Stack(3))
    assert shown(inner) == [0, 1, 2]
    assert slots.zeros(NAMES) == {}
    slots.close()
    assert shown(inner) == [0, 1, 2, 3], "compiled code runs it, whatever this list says"
    slots.open(Stack(4))
    slots.close()
    slots.open(Stack(3))
    assert slots.zeros(NAMES) == zeros


def test_zeros_that_were_not_written_are_written_again():
    _, slots = a_model(fixed=True)
    slots.open(Stack(3))
    assert slots.zeros(NAMES)
    slots.open(Stack(3))  # the load has failed: there was no close()
    assert slots.zeros(NAMES)


def test_zeros_are_like_a_layer_of_the_slots_kind():
    inner, slots = a_model(fixed=True, types=["slides", "sees"] * 2)
    slots.open(Stack(2, (SLIDES, SEES)))
    assert (
        slots.zeros(NAMES)["model.layers.3.experts.0.weight"] == "model.layers.1.experts.0.weight"
    )
    slots.open(Stack(2, (SEES, SLIDES)))
    assert shown(inner) == [1, 2, 0, 3], "candidate first, in the order in which slots run"
    slots.close()
    assert shown(inner) == [0, 1, 2, 3]


def test_a_candidate_without_a_place_changes_nothing():
    inner, slots = a_model(fixed=False, types=["slides", "sees"] * 2)
    slots.open(Stack(2, (SEES, SLIDES)))
    for stack in (Stack(5), Stack(3, (SEES,) * 3), Stack(2)):
        with pytest.raises(FitnessError):
            slots.open(stack)
        assert shown(inner) == [1, 0]


def test_slots_run_in_their_order():
    """Where code is compiled; with slots of each kind for every layer, any candidate finds a place."""
    types = (SLIDES, SEES) * 3
    assert ascending(types, Stack(3, (SEES, SEES, SLIDES))) == (1, 3, 4)
    assert ascending(types, Stack(3, (SLIDES,) * 3)) == (0, 2, 4)
    with pytest.raises(
        FitnessError, match=r"layer 3 .*kind 'layer_types=slides'.*CUDA graphs"
    ) as found:
        ascending(types, Stack(4, (SEES, SEES, SEES, SLIDES)))
    assert "enforce_eager" in found.value.remedy


def test_the_list_of_layers_is_the_outermost():
    with torch.device("meta"):
        two = nn.ModuleDict({"a": Inner(SimpleNamespace(num_hidden_layers=4)), "b": Layer(0)})
    slots = LayerSlots(two, SimpleNamespace(num_hidden_layers=4), 4, fixed=False)
    slots.open(Stack(4))  # in order: there is nothing to find
    with pytest.raises(FitnessError, match="ModuleDict has 2 lists of 4 layers"):
        slots.open(Stack(3))
