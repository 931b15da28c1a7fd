"""The protocols between scoring and weights.

An engine holds one model resident and answers requests. It gets weights from a `WeightProvider`,
which knows how a candidate is made; the engine knows only names and shapes, so `fitness` depends on
nothing that merges. Where the model lives in processes of its own, the provider is opened there:
`RemoteProvider` says which, and `ListedWeights` is what it must offer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fitness.items import Reply, Request

if TYPE_CHECKING:
    import torch

Box = tuple[slice, ...]
"""Part of a tensor, one slice per axis; `()` is all. A tensor-parallel rank asks for its own."""


class ShapeError(ValueError):
    """A tensor that is to be written has another shape than its place.

    Args:
        name: the checkpoint's name of the tensor.
        found: its shape, or that of the part that was asked for.
        needed: the place's.
    """

    def __init__(self, name: str, found: Sequence[int], needed: Sequence[int]) -> None:
        self.name, self.found, self.needed = name, list(found), list(needed)
        super().__init__(f"tensor {name} of shape {self.found} does not fit {self.needed}")


@dataclass(frozen=True, slots=True)
class Stack:
    """How deep a candidate is, and what kinds of layers it has.

    Attributes:
        depth: its layers.
        kinds: per layer, bottom first, what tells it from layers of another kind where an
            architecture has several (sliding and full attention, say): layers run in slots of their
            kind only. Empty: all are alike.
    """

    depth: int
    kinds: tuple[str, ...] = ()


class WeightProvider(Protocol):
    """Makes a candidate's weights, one tensor at a time."""

    def stack(self) -> Stack:
        """The prepared candidate's layers; its tensors count them from 0 in their names."""
        ...

    def prepare(self, payload: object) -> None:
        """Called once per candidate, before `tensor`; `payload` says which candidate it is.

        Must validate everything that can be wrong, so that a bad candidate touches no weight.
        """
        ...

    def tensor(self, name: str, box: Box = ()) -> torch.Tensor:
        """The candidate's checkpoint tensor `name`, or the part `box` of it."""
        ...

    def write(self, name: str, out: torch.Tensor, box: Box = ()) -> None:
        """Put the same numbers into `out`, a running model's storage, in place.

        Raises:
            ShapeError: `out` has another shape.
        """
        ...


class ListedWeights(WeightProvider, Protocol):
    """A provider that says what a candidate consists of, for engines that load all they are given.

    `prepare` is passed what `RemoteProvider.encode` made.
    """

    def names(self) -> Sequence[str]:
        """Checkpoint names of the prepared candidate's tensors, each once, grouped by layer."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole tensor `name`."""
        ...

    def storage_dtype(self, name: str) -> torch.dtype:
        """The dtype of `tensor(name)`."""
        ...

    def keep(self) -> None:
        """Called after a candidate was loaded whole: the time to write down what was learnt."""
        ...


@dataclass(frozen=True)
class RemoteProvider:
    """How a process of the engine's opens its weights, and how it is told of a candidate.

    Attributes:
        name: entry point in the group `evomerge.weight_providers`: a callable from arguments to
            `ListedWeights`.
        arguments: for it, JSON-able; the engine adds `device`, where its model lies.
        encode: from the payload of `Engine.load` to plain data for `prepare`, and its version, the
            identity of the weights.
        source_bytes: what the provider would keep in a device's memory beside the model; 0: nothing.
        parameters: of the model; 0: not known.
    """

    name: str
    arguments: Mapping[str, Any]
    encode: Callable[[object], tuple[dict[str, Any], str]]
    source_bytes: int = 0
    parameters: int = 0


class Engine(Protocol):
    """Holds one model resident, swaps its weights in place, answers requests."""

    def load(self, payload: object) -> None:
        """Make the resident model the candidate `payload`. In place: no reload, no disk."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order. Deterministic for the same weights and requests."""
        ...

    def token_lengths(self, requests: Sequence[Request]) -> list[int]:
        """Tokens each request needs: its prompt and what is scored or may be generated after it."""
        ...

    def check_lengths(self, requests: Sequence[Request]) -> None:
        """Refuse, before the search, requests that the model has no room for."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...
