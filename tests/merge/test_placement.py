"""Where sources live: the choice by what is free, and what a user reads of it."""

import pytest
import torch

from evomerge.merge.placement import Placed, Placement, place, place_here

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
GB = 10**9


@pytest.mark.parametrize(
    ("device_free", "host_free", "limit", "kind"),
    [
        (100, 100, None, "device"),
        (44, 100, None, "pinned"),  # 90 % of what is free
        (45, 0, None, "device"),
        (10, 44, None, "mapped"),
        (100, 100, 40, "device"),
        (100, 100, 39, "mapped"),  # the limit holds wherever they are kept
        (0, 0, None, "mapped"),
    ],
)
def test_the_fastest_place_that_fits(device_free, host_free, limit, kind):
    placement = place(
        40 * GB,
        GPU,
        device_free=device_free * GB,
        host_free=host_free * GB,
        limit=None if limit is None else limit * GB,
    )
    assert placement.kind == kind
    assert "40.00 GB of sources" in placement.sentence()
    assert "cuda:0" in placement.sentence()


def test_on_a_cpu_sources_stay_in_their_files():
    placement = place(40 * GB, CPU, host_free=100 * GB)
    assert placement == Placement("mapped", "cpu", 40 * GB)
    assert placement.sentence() == (
        "40.00 GB of sources: mapped from their files, merged on the CPU"
    )
    assert place_here(40 * GB, CPU) == placement


class Held:
    def __init__(self):
        self.tensors = {("a", "x"): torch.arange(4.0), ("a", "y"): torch.arange(5.0)}

    def tensor(self, source, name):
        return self.tensors[source, name]


def test_placed_on_the_cpu_are_the_sources_own_tensors():
    held = Held()
    placed = Placed(held, place(36, CPU))
    placed.announce([("a", "x"), ("a", "y")])
    assert placed.tensor("a", "y") is held.tensors["a", "y"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["device", "pinned", "mapped"])
def test_every_place_gives_the_same_numbers_on_a_gpu(kind):
    held = Held()
    placed = Placed(held, Placement(kind, "cuda", 36))
    for _ in range(2):
        placed.announce(list(held.tensors))
        for asked, tensor in held.tensors.items():
            there = placed.tensor(*asked)
            assert there.device.type == "cuda"
            assert torch.equal(there.cpu(), tensor)
