"""Which layers of a resident model run: candidates of any depth, without building anything anew.

The model is built with the layers of the deepest candidate. A shallower one runs the first of them:
its layer i has the weights, and the place in the key-value cache, of the model's layer i. Where an
architecture has layers of several kinds, a layer of another kind than the model's layer i is a second
module on the same weights, made when it is needed for the first time and kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fitness.engine import Stack
from fitness.engines.stacks import check_depth, layer_kinds, layer_lists
from fitness.errors import FitnessError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RunningLayers:
    """The layers of a model of `transformers`, of which the first few run.

    Args:
        model: with all its layers in place. It is changed: see `run`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._config: Any = model.config.get_text_config(decoder=True)
        self._most = int(self._config.num_hidden_layers)
        self._list = _stack_of(model, self._most)
        self._slots = [] if self._list is None else list(self._list)
        self._kinds = layer_kinds(self._config, self._most)
        lists = layer_lists(self._config, self._most)
        self._entries = {
            name: {key: values[i] for key, values in lists.items()}
            for i, name in enumerate(self._kinds)
        }
        self._others: dict[tuple[int, str], torch.nn.Module] = {}
        self._running: tuple[str, ...] = self._kinds

    def layers(self) -> dict[int, int]:
        """The layer that each weight of the stack belongs to, by the `id` of the weight."""
        return {
            id(weight): number
            for number, layer in enumerate(self._slots)
            for weight in layer.state_dict(keep_vars=True).values()
        }

    def run(self, stack: Stack) -> None:
        """Let the model be one of `stack.depth` layers, of these kinds.

        Raises:
            FitnessError: more layers than the model was built with, or layers of a kind that it
                does not have.
        """
        check_depth(self._most, stack)
        kinds = tuple(stack.kinds) or self._kinds[: stack.depth]
        if kinds == self._running:
            return
        self._check(stack, kinds)
        assert self._list is not None
        before = self._running
        self._say(kinds)
        try:
            modules = [self._layer(i, name) for i, name in enumerate(kinds)]
        except BaseException:
            self._say(before)
            raise
        self._list._modules = {str(i): module for i, module in enumerate(modules)}
        self._running = kinds

    def _check(self, stack: Stack, kinds: tuple[str, ...]) -> None:
        if self._list is None:
            raise FitnessError(
                f"a candidate of {stack.depth} layers",
                f"this model's {self._most} layers are not found in its modules",
                f"model of type '{self._config.model_type}'",
                "search parameters, not stacks, or use another engine",
            )
        if not stack.kinds and len(self._entries) > 1:
            raise FitnessError(
                "a candidate that does not say of what kinds its layers are",
                f"the engine's differ: {', '.join(self._entries)}",
                "engine",
                "let the provider's stack() name them",
            )
        unknown = next((name for name in kinds if name not in self._entries), None)
        if unknown is not None:
            raise FitnessError(
                f"a layer of kind '{unknown}'",
                f"the engine has {', '.join(self._entries)}",
                "engine",
                "build the engine from the sources' own configuration",
            )

    def _say(self, kinds: tuple[str, ...]) -> None:
        """Write depth and kinds into the configuration, which is read in every forward pass."""
        self._config.num_hidden_layers = len(kinds)
        for key in next(iter(self._entries.values()), {}):
            if hasattr(self._config, key):
                setattr(self._config, key, [self._entries[name][key] for name in kinds])

    def _layer(self, number: int, wanted: str) -> torch.nn.Module:
        own = self._slots[number]
        if self._kinds[number] == wanted:
            return own
        if (number, wanted) not in self._others:
            self._others[number, wanted] = self._another(own, number, wanted)
        return self._others[number, wanted]

    def _another(self, own: torch.nn.Module, number: int, wanted: str) -> torch.nn.Module:
        """A layer of kind `wanted` on the weights of `own`; the configuration says so already."""
        try:
            with torch.device("meta"):
                made: torch.nn.Module = type(own)(self._config, number)
            _share(own, made)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise FitnessError(
                f"layer {number} as one of kind '{wanted}'",
                f"it cannot be made of one of kind '{self._kinds[number]}': {error}",
                f"model of type '{self._config.model_type}'",
                "search parameters, not stacks, or use another engine",
            ) from error
        return made.train(own.training)


def _stack_of(model: PreTrainedModel, layers: int) -> torch.nn.ModuleList | None:
    """The list of the language model's layers: the outermost of that length; None: there is none."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    for root in (decoder, model):
        found = [
            (name.count("."), module)
            for name, module in (root.named_modules() if root is not None else ())
            if isinstance(module, torch.nn.ModuleList) and len(module) == layers
        ]
        if found:
            return min(found, key=lambda entry: entry[0])[1]
    return None


def _share(own: torch.nn.Module, made: torch.nn.Module) -> None:
    """Put the weights of `own` into `made`, which is built alike.

    Raises:
        ValueError: it is not.
    """
    theirs, ours = dict(made.named_modules()), dict(own.named_modules())
    if theirs.keys() != ours.keys():
        raise ValueError("it has other parts")
    for name, module in ours.items():
        for part in ("_parameters", "_buffers"):
            mine, other = getattr(module, part), getattr(theirs[name], part)
            if {k: _shape(v) for k, v in mine.items()} != {k: _shape(v) for k, v in other.items()}:
                raise ValueError(f"its {name or 'weights'} differ")
            other.update(mine)


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
