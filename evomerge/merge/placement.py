"""Where sources live while candidates are merged: on the device, in pinned memory, or in their files.

A merge reads every source once, so it goes at the speed of the memory the sources lie in. On a GPU
they are kept there if they fit; else in pinned host memory, from where the next tensors stream over
while the present one is merged; else they stay mapped files, which stream the same way through
ordinary memory. On a CPU mapped files are the place: the system's page cache is memory already.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from evomerge.merge.host_memory import free_host_memory

_HEADROOM = 0.9
"""Share of free memory that sources may take: kernels, the allocator and others need some."""
_AHEAD = 16
"""Tensors that stream ahead of the one being merged."""

SourceTensor = tuple[str, str]
"""A source's name, and its tensor's."""


class TensorSource(Protocol):
    """What placement reads from: `evomerge.merge.sources.Sources`."""

    def tensor(self, source: str, name: str) -> torch.Tensor:
        """A tensor in host memory."""
        ...


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision, and what it rests on.

    Attributes:
        kind: `device`, `pinned` or `mapped`.
        device: what merges.
        size: bytes of all sources.
        room: bytes that the place may take; None: it takes none.
    """

    kind: str
    device: str
    size: int
    room: int | None = None

    def sentence(self) -> str:
        """For people: what was decided, and why."""
        size = f"{self.size / 1e9:.2f} GB of sources"
        if self.kind == "mapped" and self.device == "cpu":
            return f"{size}: mapped from their files, merged on the CPU"
        room = "" if self.room is None else f" (room for {self.room / 1e9:.2f} GB)"
        places = {
            "device": f"resident in the memory of {self.device}{room}",
            "pinned": f"in pinned host memory{room}, streamed to {self.device}",
            "mapped": f"mapped from their files, streamed to {self.device}: memory holds them "
            f"nowhere{room}; a candidate takes as long as reading them",
        }
        return f"{size}: {places[self.kind]}"


def place(
    size: int,
    device: torch.device,
    *,
    device_free: int = 0,
    host_free: int = 0,
    limit: int | None = None,
) -> Placement:
    """Choose the fastest place that `size` bytes of sources fit.

    Args:
        size: bytes of all sources.
        device: what merges.
        device_free: free bytes there, beside the running model.
        host_free: free bytes of host memory.
        limit: most bytes that sources may take, wherever they are kept; None: what is free.
    """
    if device.type == "cpu":
        return Placement("mapped", "cpu", size)
    for kind, free in (("device", device_free), ("pinned", host_free)):
        room = int(_HEADROOM * free)
        room = room if limit is None else min(room, limit)
        if size <= room:
            return Placement(kind, str(device), size, room)
    return Placement("mapped", str(device), size, room)


def place_here(
    size: int, device: torch.device, limit: int | None = None, reserved: int = 0
) -> Placement:
    """`place` with what is free on this machine now, less `reserved` bytes on the device."""
    if device.type == "cpu":
        return place(size, device)
    device_free = max(0, torch.cuda.mem_get_info(device)[0] - reserved)
    return place(size, device, device_free=device_free, host_free=free_host_memory(), limit=limit)


class Placed:
    """Sources where a `Placement` says. Implements `TensorSource`, on the device that merges.

    Args:
        sources: where tensors come from; one that it makes anew at each call (an adapter's) is made
            once where they are kept.
        placement: where they live.
    """

    def __init__(self, sources: TensorSource, placement: Placement) -> None:
        self.placement = placement
        self._sources = sources
        self._device = torch.device(placement.device)
        self._kept: dict[SourceTensor, torch.Tensor] = {}
        self._arriving: OrderedDict[SourceTensor, tuple[torch.Tensor, torch.Event]] = OrderedDict()
        streams = self._device.type == "cuda" and placement.kind != "device"
        self._stream = torch.cuda.Stream(self._device) if streams else None

    @property
    def keeps(self) -> bool:
        """Whether tensors stay where `tensor` gives them."""
        return self._stream is None

    def tensor(self, source: str, name: str) -> torch.Tensor:
        """The tensor on the device. Do not write to it."""
        asked = (source, name)
        if self._device.type == "cpu":
            return self._sources.tensor(source, name)
        if self.placement.kind == "device":
            if asked not in self._kept:
                self._kept[asked] = self._sources.tensor(source, name).to(self._device)
            return self._kept[asked]
        self._send(asked)
        tensor, arrived = self._arriving.pop(asked)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(arrived)
        tensor.record_stream(current)
        return tensor

    def announce(self, coming: Sequence[SourceTensor]) -> None:
        """Begin to bring tensors over: the next to be asked for, soonest first."""
        if self._stream is not None:
            for asked in coming[:_AHEAD]:
                self._send(asked)

    def forget(self) -> None:
        """Let go of what was announced and not asked for."""
        self._arriving.clear()

    def _send(self, asked: SourceTensor) -> None:
        if asked in self._arriving:
            return
        while len(self._arriving) >= _AHEAD:
            self._arriving.popitem(last=False)
        assert self._stream is not None
        host = self._host(asked)
        with torch.cuda.stream(self._stream):
            there = host.to(self._device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        self._arriving[asked] = (there, arrived)

    def _host(self, asked: SourceTensor) -> torch.Tensor:
        if self.placement.kind == "mapped":
            return self._sources.tensor(*asked)
        if asked not in self._kept:
            self._kept[asked] = self._sources.tensor(*asked).pin_memory()
        return self._kept[asked]
