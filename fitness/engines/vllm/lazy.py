"""Checkpoint tensors that are made when a loader copies them, and only the part it copies.

A tensor-parallel rank's loaders cut its shard out of every tensor before they copy it, each in its
own way. A `LazyTensor` follows the cuts and merges what is left straight into its place, so ranks
share the work without a word about sharding here, and what waits in a loader's buffers has no size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from fitness.engine import ListedWeights

aten = torch.ops.aten

Cut: TypeAlias = tuple[int, int]
"""First index and the one after the last, along an axis."""


class Merging:
    """One prepared candidate on its way into a model.

    No error leaves through a loader, which would leave vLLM's model in pieces: the first is kept,
    and from then on everything is zeros.

    Args:
        provider: prepared.

    Attributes:
        error: what went wrong first.
        elements: how many were merged.
    """

    def __init__(self, provider: ListedWeights) -> None:
        self._provider = provider
        self._like: Mapping[str, str] = {}
        self.error: BaseException | None = None
        self.elements = 0

    def tensors(self, zeros: Mapping[str, str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the candidate by its checkpoint name, and then those that are zeros.

        Args:
            zeros: by name, which of the candidate's tensors has the same shape and dtype.
        """
        self._like = zeros or {}
        for name in (*self._provider.names(), *self._like):
            shape = self._provider.shape(self._like.get(name, name))
            cuts = tuple((0, size) for size in shape)
            yield name, LazyTensor(self, View(name, cuts, tuple(range(len(shape)))))

    def storage_dtype(self, name: str) -> torch.dtype:
        """See `ListedWeights`."""
        return self._provider.storage_dtype(self._like.get(name, name))

    def abandon(self, error: BaseException) -> None:
        """Make nothing any more, because of `error`."""
        self.error = self.error or error

    def write(self, view: View, out: torch.Tensor) -> None:
        """Put what `view` shows into `out`, of its shape."""
        if view.name in self._like:
            out.zero_()
        else:
            self._try(lambda: self._provider.write(view.name, view.as_stored(out), view.box), out)

    def made(self, view: View) -> torch.Tensor:
        """What `view` shows, in host memory and the storage dtype."""
        dtype = self.storage_dtype(view.name)
        if view.name in self._like:
            return torch.zeros(view.shape, dtype=dtype)
        out = torch.empty(view.stored_shape, dtype=dtype)
        self._try(lambda: self._provider.write(view.name, out, view.box), out)
        return view.of_stored(out)

    def _try(self, write: Callable[[], None], out: torch.Tensor) -> None:
        if self.error is None:
            try:
                write()
            except Exception as error:
                self.error = error
            else:
                self.elements += out.numel()
                return
        out.zero_()


@dataclass(frozen=True, slots=True)
class View:
    """A part of a stored tensor, with its axes in another order, dropped or added.

    Attributes:
        name: the tensor's.
        cuts: per stored axis.
        axes: per visible axis the stored one, or None for one that was added; a stored axis that is
            not among them has one element left.
    """

    name: str
    cuts: tuple[Cut, ...]
    axes: tuple[int | None, ...]

    @property
    def box(self) -> tuple[slice, ...]:
        """What to ask the provider for."""
        return tuple(slice(*cut) for cut in self.cuts)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The part's shape with the stored axes."""
        return tuple(stop - start for start, stop in self.cuts)

    @property
    def shape(self) -> tuple[int, ...]:
        """The visible shape."""
        sizes = self.stored_shape
        return tuple(1 if axis is None else sizes[axis] for axis in self.axes)

    def as_stored(self, visible: torch.Tensor) -> torch.Tensor:
        """A tensor of the visible shape, seen with the stored axes."""
        kept = [axis for axis in self.axes if axis is not None]
        shown = visible.squeeze(tuple(i for i, axis in enumerate(self.axes) if axis is None))
        for _ in self._dropped:
            shown = shown.unsqueeze(-1)
        order = [*kept, *self._dropped]
        return shown.permute([order.index(axis) for axis in range(len(order))])

    def of_stored(self, stored: torch.Tensor) -> torch.Tensor:
        """The reverse of `as_stored`."""
        kept = [axis for axis in self.axes if axis is not None]
        shown = stored.permute([*kept, *self._dropped])
        for _ in self._dropped:
            shown = shown.squeeze(-1)
        for place, axis in enumerate(self.axes):
            if axis is None:
                shown = shown.unsqueeze(place)
        return shown.contiguous()  # as a lazy tensor says that it is

    def cut(self, place: int, first: int, last: int) -> View:
        """Elements `first` to `last` of the visible axis `place`, which is a stored one."""
        axis = self.axes[place]
        assert axis is not None
        start = self.cuts[axis][0]
        cuts = [*self.cuts]
        cuts[axis] = (start + first, start + max(first, last))
        return replace(self, cuts=tuple(cuts))

    def without(self, place: int) -> View:
        """Without the visible axis `place`, which has one element."""
        return replace(self, axes=(*self.axes[:place], *self.axes[place + 1 :]))

    @property
    def _dropped(self) -> list[int]:
        return [axis for axis in range(len(self.cuts)) if axis not in self.axes]


class LazyTensor(torch.Tensor):
    """A `View` of a candidate that looks like a tensor in host memory.

    Cuts and changes of axes give another; `place.copy_(lazy)` merges into `place`; any other
    operation makes the tensor first. What is lazy cannot be written to.
    """

    view_of: View
    merging: Merging

    @staticmethod
    def __new__(  # noqa: D102
        cls: type[LazyTensor], merging: Merging, view: View, device: torch.device | None = None
    ) -> LazyTensor:
        dtype = merging.storage_dtype(view.name)
        made = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, view.shape, dtype=dtype, device=device or torch.device("cpu")
        )
        made.view_of, made.merging = view, merging
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten.copy_.default and isinstance(args[1], cls):
            return _copy(args[0], args[1])
        if isinstance(args[0], cls) and func in _FOLLOWED:
            found = _FOLLOWED[func](args[0].view_of, *args[1:], **kwargs)
            if found is not None:
                return _wrapped(args[0], found)
        if func is aten._to_copy.default and set(kwargs) <= {"device", "non_blocking"}:
            device = torch.device(kwargs.get("device", args[0].device))
            return cls(args[0].merging, args[0].view_of, device)
        _refuse_writing(func, args, kwargs)
        return func(*_made(args), **{name: _made(value) for name, value in kwargs.items()})

    def __repr__(self, **_: Any) -> str:
        return f"LazyTensor({self.view_of})"


def _copy(place: torch.Tensor, lazy: LazyTensor) -> torch.Tensor:
    if isinstance(place, LazyTensor):
        raise TypeError(f"a loader writes to the checkpoint's tensor {place.view_of.name}")
    if place.is_meta:  # vLLM counts what a loader would copy
        return place
    if place.shape != lazy.shape:
        return place.copy_(lazy.merging.made(lazy.view_of))
    lazy.merging.write(lazy.view_of, place)
    return place


def _wrapped(lazy: LazyTensor, found: View | list[View]) -> LazyTensor | list[LazyTensor]:
    if isinstance(found, list):
        return [LazyTensor(lazy.merging, view, lazy.device) for view in found]
    return LazyTensor(lazy.merging, found, lazy.device)


def _made(value: Any) -> Any:
    """`value` with every lazy tensor in it made."""
    if isinstance(value, LazyTensor):
        return value.merging.made(value.view_of).to(value.device)
    if isinstance(value, (tuple, list)):
        return type(value)(_made(item) for item in value)
    return value


def _refuse_writing(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(value, LazyTensor):
            raise TypeError(f"a loader writes to the checkpoint's tensor {value.view_of.name}")


def _same(view: View, *_: Any, **__: Any) -> View:
    return view


def _slice(
    view: View, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> View | None:
    dim %= len(view.axes)
    if step != 1 or view.axes[dim] is None:
        return None
    first, last, _ = slice(start, end).indices(view.shape[dim])
    return view.cut(dim, first, last)


def _select(view: View, dim: int, index: int) -> View:
    dim %= len(view.axes)
    index %= view.shape[dim]
    cut = view if view.axes[dim] is None else view.cut(dim, index, index + 1)
    return cut.without(dim)


def _split(view: View, size: int, dim: int = 0) -> list[View] | None:
    length = view.shape[dim]
    return _split_sizes(
        view, [min(size, length - first) for first in range(0, length, max(size, 1))], dim
    )


def _split_sizes(view: View, sizes: Sequence[int], dim: int = 0) -> list[View] | None:
    dim %= len(view.axes)
    if view.axes[dim] is None:
        return None
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [view.cut(dim, end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _unbind(view: View, dim: int = 0) -> list[View]:
    return [_select(view, dim, index) for index in range(view.shape[dim])]


def _transpose(view: View, one: int, other: int) -> View:
    axes = [*view.axes]
    axes[one], axes[other] = axes[other], axes[one]
    return replace(view, axes=tuple(axes))


def _turned(view: View) -> View:
    return replace(view, axes=view.axes[::-1])


def _permute(view: View, order: Sequence[int]) -> View:
    return replace(view, axes=tuple(view.axes[place] for place in order))


def _unsqueeze(view: View, dim: int) -> View:
    dim %= len(view.axes) + 1
    return replace(view, axes=(*view.axes[:dim], None, *view.axes[dim:]))


def _reshaped(view: View, shape: Sequence[int]) -> View | None:
    return view if tuple(shape) == view.shape else None


_FOLLOWED: dict[Any, Callable[..., View | list[View] | None]] = {
    aten.detach.default: _same,
    aten.alias.default: _same,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split_sizes,
    aten.unbind.int: _unbind,
    aten.transpose.int: _transpose,
    aten.t.default: _turned,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.view.default: _reshaped,
}
"""What gives another view; None where it cannot be followed."""
