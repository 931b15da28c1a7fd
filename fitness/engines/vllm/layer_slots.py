"""The layers of a running model: slots, of which a candidate uses as many as it has layers.

A slot is what it was when vLLM started: it has its own cache of keys and values, and its kind of
attention. What changes from candidate to candidate is the list of layers that the forward pass goes
through. While a candidate is loaded the list holds the slots it uses, in its order, so that its layer
i is layer i of the model: vLLM's loaders see a model of the candidate's depth, and touch no other slot.

After that the list stays so, if the forward pass is Python that runs anew each time. Compiled code and
CUDA graphs have the layers of the start built in. There all slots run, and those without a layer hold
zeros, which makes them add nothing to the residual stream, in any architecture that has one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fitness.engines.stacks import check_depth, in_slot, layer_kinds, layer_lists, layer_of, places
from fitness.errors import FitnessError

if TYPE_CHECKING:
    import torch

    from fitness.engine import Stack


class LayerSlots:
    """Which slots of a running model a candidate uses, and what becomes of the others.

    Args:
        model: vLLM's, with all its layers in place. It is changed: see `open`.
        config: of the language model, as vLLM reads it.
        count: of its layers.
        fixed: all slots run, in their order, whatever the list holds.
    """

    def __init__(self, model: torch.nn.Module, config: object, count: int, *, fixed: bool) -> None:
        self._model, self._fixed = model, fixed
        self._kinds = layer_kinds(config, count)
        self._lists = layer_lists(config, count)
        self._all = self._shown = tuple(range(count))
        self._used = self._all
        self._stack: _LayerList | None = None
        self._zeros: frozenset[int] = frozenset()
        self._emptied: tuple[int, ...] = ()

    @property
    def identities(self) -> int:
        """Slots that run without a layer of the candidate."""
        return len(self._all) - len(self._used) if self._fixed else 0

    def open(self, stack: Stack) -> None:
        """Let the model's list hold what is to be loaded: the candidate's layers in its order, and
        above them the slots that have to become zeros.

        Raises:
            FitnessError: more layers, or more of a kind, than there are slots; or a model whose
                list of layers is not found.
        """
        used = self._places(stack)
        idle = () if not self._fixed else tuple(sorted({*self._all} - {*used} - self._zeros))
        self._show((*used, *idle))
        self._used, self._emptied = used, idle
        self._zeros -= {*used}

    def close(self) -> None:
        """Let the list hold what runs. After a load that succeeded only: zeros that were not written
        are written again then."""
        if self._fixed:
            self._zeros |= {*self._emptied}
            self._show(self._all)

    def zeros(self, names: Sequence[str]) -> dict[str, str]:
        """What to load into the slots that have to become zeros.

        Args:
            names: of the candidate's tensors.

        Returns:
            By tensor name, that of a tensor of the candidate with its shape and dtype.
        """
        by_layer: dict[int | None, list[str]] = {}
        for name in names if self._emptied else ():
            by_layer.setdefault(layer_of(name), []).append(name)
        found: dict[str, str] = {}
        for number, slot in enumerate(self._emptied, len(self._used)):
            alike = (i for i, p in enumerate(self._used) if self._kinds[p] == self._kinds[slot])
            like = next(alike, 0)
            found |= {in_slot(name, [number] * (like + 1)): name for name in by_layer[like]}
        return found

    def _places(self, stack: Stack) -> tuple[int, ...]:
        if not stack.kinds and stack.depth == len(self._all):
            return self._all  # whatever kinds vLLM's own configuration may know
        used = places(self._kinds, stack)
        return ascending(self._kinds, stack) if self._fixed else used

    def _show(self, slots: tuple[int, ...]) -> None:
        if slots == self._shown:
            return
        self._stack = self._stack or _LayerList(self._model, len(self._all))
        lists = {name: [values[slot] for slot in slots] for name, values in self._lists.items()}
        self._stack.show(slots, lists)
        self._shown = slots


class _LayerList:
    """The list of layers that a model's forward pass goes through.

    Args:
        model: with all its layers in place.
        count: of the layers.

    Raises:
        FitnessError: no list, or several, are of that length.
    """

    def __init__(self, model: torch.nn.Module, count: int) -> None:
        from torch.nn import ModuleList

        lists = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, ModuleList) and len(module) == count
        }
        outermost = min((name.count(".") for name in lists), default=0)
        names = [name for name in lists if name.count(".") == outermost]
        if len(names) != 1:
            raise FitnessError(
                "a candidate that does not use all layers in their order",
                f"vLLM's {type(model).__name__} has {len(names)} lists of {count} layers",
                "engine",
                "use `engine.kind: transformers`",
            )
        self._list = lists[names[0]]
        self._all = list(self._list)
        self._owner: Any = model.get_submodule(names[0].rpartition(".")[0])
        self._config = getattr(self._owner, "config", None)

    def show(self, slots: Sequence[int], lists: Mapping[str, list[object]]) -> None:
        """Let the forward pass go through these slots, in this order.

        Args:
            slots: numbers of layers at the start.
            lists: configuration lists by layer, for these.
        """
        self._list._modules = {str(i): self._all[slot] for i, slot in enumerate(slots)}
        if hasattr(self._owner, "end_layer"):
            self._owner.end_layer = len(slots)
        if self._config is None:
            return
        # Code of transformers asks it for the kind of the layer that is next.
        config = self._owner.config = copy.copy(self._config)
        if hasattr(config, "num_hidden_layers"):
            config.num_hidden_layers = len(slots)
        for name, values in lists.items():
            if hasattr(config, name):
                setattr(config, name, values)


def ascending(slots: Sequence[str], stack: Stack) -> tuple[int, ...]:
    """The slot that runs each layer of a candidate where slots run in their own order.

    Args:
        slots: the kind of each slot.
        stack: the candidate's.

    Raises:
        FitnessError: the slots have no such layers in this order.
    """
    check_depth(len(slots), stack)
    found: list[int] = []
    for number, kind in enumerate(stack.kinds or slots[: stack.depth]):
        start = found[-1] + 1 if found else 0
        slot = next((i for i in range(start, len(slots)) if slots[i] == kind), None)
        if slot is None:
            raise FitnessError(
                f"a candidate whose layer {number} is of kind '{kind}'",
                "no slot of that kind is left above the one below: with CUDA graphs, slots run in "
                "the order they were built in",
                "engine",
                "remove `enforce_eager: false` from the engine's `arguments`",
            )
        found.append(slot)
    return tuple(found)
