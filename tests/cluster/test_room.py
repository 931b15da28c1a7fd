"""What evaluators take of a cluster, and how many fit."""

import pytest

from evomerge.cluster.room import Share, capacity, evaluators_wanted, share_wanted
from search_spaces.errors import InputError

CORES = [{"CPU": 8.0}]
CARDS = [{"CPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}]


def test_no_evaluator_is_spread_over_two_nodes():
    nodes = [{"CPU": 6.0, "GPU": 3.0}, {"CPU": 6.0, "GPU": 1.0}, {"CPU": 8.0}]
    assert capacity(nodes, Share(1, 0)) == 20
    assert capacity(nodes, Share(4, 0)) == 4
    assert capacity(nodes, Share(1, 2)) == 1
    assert capacity(nodes, Share(1, 0.5)) == 8
    assert capacity(nodes, Share(4, 1)) == 2
    assert capacity([{"CPU": 0.3}], Share(0.1, 0)) == 3
    assert capacity([], Share(1, 0)) == 0


@pytest.mark.parametrize(
    ("nodes", "gpus", "parallel", "device", "expected"),
    [
        (CARDS, "auto", 1, "auto", 1),
        (CARDS, "auto", 2, "auto", 2),
        (CARDS, "auto", 4, "cuda", 4),
        (CARDS, "auto", 2, "cpu", 0),
        (CORES, "auto", 2, "auto", 0),
        (CORES, "auto", 1, "cpu", 0),
        (CARDS, 0.5, 1, "cuda:0", 0.5),
        (CARDS, 2, 1, "cuda:1", 2),
        (CARDS, 0, 2, "auto", 0),
    ],
)
def test_gpus_of_an_evaluator(nodes, gpus, parallel, device, expected):
    assert share_wanted(nodes, 1, gpus, parallel, device) == Share(1, expected)


@pytest.mark.parametrize(
    ("nodes", "gpus", "parallel", "device", "message"),
    [
        (CORES, "auto", 1, "cuda", "engine.device: device 'cuda': it needs a GPU, and the cluster"),
        (CARDS, 0, 1, "cuda", "it needs a GPU, and evaluators reserve none"),
        (CARDS, "auto", 1, "cuda:1", r"sees the 1 GPU\(s\) that it reserves, counted from 0"),
        (CARDS, 0.5, 2, "auto", "gpus_per_evaluator = 0.5: a model spread over 2 GPUs"),
        (CARDS, 1.5, 1, "auto", "beyond 1, GPUs are reserved whole; use 2"),
        (CARDS, float("nan"), 1, "auto", "gpus_per_evaluator = nan: it is 0 or greater"),
    ],
)
def test_gpus_that_cannot_be_had(nodes, gpus, parallel, device, message):
    with pytest.raises(InputError, match=message):
        share_wanted(nodes, 1, gpus, parallel, device)


def test_a_model_spread_over_more_gpus_than_a_node_has():
    share = share_wanted(CARDS, 1, "auto", 8, "auto")
    with pytest.raises(InputError, match=r"1 evaluator\(s\) of 1 CPU.*8 GPU.*room for 0"):
        evaluators_wanted(CARDS, "auto", share)
    assert evaluators_wanted(CARDS, "auto", Share(1, 2)) == 2
