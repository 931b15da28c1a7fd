"""A loader may cut, turn and copy a lazy tensor as it likes: it gets what it would of the whole one."""

import pytest
import torch

from fitness.engines.vllm.lazy import LazyTensor, Merging


class Stored:
    """Tensors in memory, and a record of which parts of them were asked for."""

    def __init__(self, **tensors: torch.Tensor):
        self.tensors = tensors
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.straight: list[bool] = []

    def prepare(self, payload):
        raise AssertionError("the candidate is prepared")

    def stack(self):
        raise AssertionError("where layers run is not a loader's business")

    def keep(self):
        raise AssertionError("a loader has nothing to keep")

    def names(self):
        return tuple(self.tensors)

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def storage_dtype(self, name):
        return self.tensors[name].dtype

    def tensor(self, name, box=()):
        return self.tensors[name][box]

    def write(self, name, out, box=()):
        part = self.tensor(name, box)
        assert part.shape == out.shape
        self.asked.append((name, tuple(part.shape)))
        self.straight.append(out.is_contiguous() and out.dtype == part.dtype)
        out.copy_(part)


WHOLE = torch.arange(6 * 8 * 10, dtype=torch.float32).reshape(6, 8, 10)


def lazy_tensor(tensor: torch.Tensor = WHOLE) -> tuple[Stored, Merging, torch.Tensor]:
    stored = Stored(x=tensor)
    merging = Merging(stored)
    (pair,) = merging.tensors()
    assert pair[0] == "x"
    return stored, merging, pair[1]


FOLLOWED = {
    "narrow": lambda x: x.narrow(0, 2, 3),
    "narrow twice": lambda x: x.narrow(1, 2, 6).narrow(1, 1, 4),
    "two axes": lambda x: x.narrow(2, 5, 5).narrow(0, 0, 2),
    "slices": lambda x: x[1:3, :, 4:],
    "negative": lambda x: x[-2:],
    "empty": lambda x: x[3:3],
    "beyond the end": lambda x: x[4:100],
    "row": lambda x: x[3],
    "element": lambda x: x[3, 2],
    "part of a row": lambda x: x[3].narrow(0, 2, 4),
    "chunk": lambda x: x.chunk(4, dim=1)[2],
    "split": lambda x: x.split(4, dim=2)[2],
    "split sizes": lambda x: x.split([1, 2, 3], dim=0)[1],
    "unbind": lambda x: x.unbind(1)[5],
    "transpose": lambda x: x.transpose(1, 2).narrow(1, 3, 4),
    "permute": lambda x: x.permute(2, 0, 1)[2:7, 1:],
    "row and turn": lambda x: x[2].t().narrow(0, 1, 5),
    "unsqueeze": lambda x: x[2].unsqueeze(0).narrow(1, 2, 3),
    "unsqueeze last": lambda x: x[:, 0].unsqueeze(-1)[1:3],
    "device": lambda x: x.to("cpu").narrow(0, 1, 2),
    "data": lambda x: x.data.narrow(0, 1, 2),
    "same view": lambda x: x.view(6, 8, 10)[0:1],
    "contiguous": lambda x: x.transpose(0, 1).contiguous()[1:3],
}
MADE = {
    "reshape": lambda x: x.reshape(48, 10)[3:5],
    "flatten": lambda x: x[1:3].flatten(),
    "float": lambda x: x.double(),
    "arithmetic": lambda x: x + 1,
    "stack": lambda x: torch.stack([x[0], x[1]]),
    "steps": lambda x: x[::2],
    "index": lambda x: x[torch.tensor([0, 3])],
    "rounded": lambda x: x.to(torch.bfloat16),
}


@pytest.mark.parametrize("cut", FOLLOWED.values(), ids=FOLLOWED)
def test_cuts_merge_no_more_than_they_show(cut):
    stored, merging, lazy = lazy_tensor()
    expected = cut(WHOLE)
    part = cut(lazy)
    assert isinstance(part, LazyTensor), "it was made too early"
    assert part.shape == expected.shape
    assert part.dtype == expected.dtype
    assert not stored.asked
    place = torch.full(expected.shape, -1.0)
    place.copy_(part)
    assert torch.equal(place, expected)
    assert merging.elements == expected.numel()
    assert len(stored.asked) == 1


@pytest.mark.parametrize("use", MADE.values(), ids=MADE)
def test_anything_else_makes_the_tensor(use):
    _, _, lazy = lazy_tensor()
    found = use(lazy)
    assert not isinstance(found, LazyTensor)
    assert torch.equal(found, use(WHOLE))


def test_a_copy_goes_straight_into_its_place():
    """Loaders cut the place as well: rows of a fused matrix are contiguous, columns are not."""
    stored, _, lazy = lazy_tensor(WHOLE[0])
    fused = torch.zeros(16, 10)
    fused.narrow(0, 8, 4).copy_(lazy.narrow(0, 4, 4))
    assert torch.equal(fused[8:12], WHOLE[0, 4:])
    assert stored.straight == [True]
    half = torch.zeros(8, 5, dtype=torch.float64)
    half.copy_(lazy.narrow(1, 5, 5))
    assert torch.equal(half, WHOLE[0, :, 5:].double())


def test_the_numbers_are_those_of_the_storage_dtype():
    """A loader's conversion comes after the rounding of what is exported, not instead of it."""
    exact = torch.tensor([1.0, 1.0 + 2**-8 + 2**-12])
    _, _, lazy = lazy_tensor(exact.bfloat16())
    place = torch.zeros(2)
    place.copy_(lazy)
    assert place.tolist() == exact.bfloat16().float().tolist() != exact.tolist()
    place.copy_(lazy_tensor(exact)[2].to(torch.bfloat16))
    assert place.tolist() == exact.bfloat16().float().tolist()


def test_counting_on_the_meta_device_merges_nothing():
    stored, merging, lazy = lazy_tensor()
    torch.empty(6, 8, 10, device="meta").copy_(lazy)
    assert not stored.asked
    assert merging.elements == 0


def test_broadcast_copies_are_torchs():
    _, _, lazy = lazy_tensor(torch.tensor(3.0))
    place = torch.zeros(2, 2)
    place.copy_(lazy)
    assert place.tolist() == [[3.0, 3.0]] * 2
    assert lazy.item() == 3.0


def test_writing_to_a_checkpoint_is_refused():
    """`loaded_weight += 1` in a loader would otherwise be lost when the tensor is copied."""
    _, _, lazy = lazy_tensor()
    for write in (
        lambda x: x.add_(1),
        lambda x: x.zero_(),
        lambda x: x.copy_(WHOLE),
        lambda x: x.copy_(x.detach()),
        lambda x: torch.add(WHOLE, 1, out=x),
    ):
        with pytest.raises((TypeError, RuntimeError), match="checkpoint's tensor x"):
            write(lazy)


def test_the_first_error_is_kept_and_the_rest_is_zeros():
    """An exception inside vLLM's loader would leave its model in pieces."""

    class Failing(Stored):
        def write(self, name, out, box=()):
            if name == "b":
                raise ArithmeticError("no such numbers")
            super().write(name, out, box)

    stored = Failing(a=torch.ones(4), b=torch.ones(4), c=torch.ones(4))
    merging = Merging(stored)
    places = {}
    for name, lazy in merging.tensors():
        places[name] = torch.full((4,), 7.0)
        places[name].copy_(lazy)
    assert {name: place.tolist() for name, place in places.items()} == {
        "a": [1.0] * 4,
        "b": [0.0] * 4,
        "c": [0.0] * 4,
    }
    assert isinstance(merging.error, ArithmeticError)
    assert merging.elements == 4


def test_zeros_are_asked_of_nobody():
    """Layers that are in a running model and not in the candidate: shaped like others, merged never."""
    stored = Stored(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(4, dtype=torch.float16))
    merging = Merging(stored)
    found = dict(merging.tensors({"c": "a", "d": "b"}))
    assert list(found) == ["a", "b", "c", "d"]
    assert found["c"].shape == (2, 3)
    assert found["d"].dtype == torch.float16
    place = torch.full((2, 2), 7.0)
    place.copy_(found["c"][:, 1:])
    assert place.tolist() == [[0.0, 0.0]] * 2
    assert (found["d"] + 1).tolist() == [1.0] * 4, "by an operation that has to make it"
    assert found["c"].t().unsqueeze(0).clone().shape == (1, 3, 2)
    assert stored.asked == []
    assert merging.elements == 0
    place.copy_(found["a"][:, 1:])
    assert place.tolist() == [[1.0, 2.0], [4.0, 5.0]]
