"""Candidates of any depth in an engine built once: what tells layers apart, and where each runs.

An engine's model has slots: as many layers as the deepest candidate. A candidate's layer i runs in
slot i, unless the architecture has layers of several kinds whose slots cannot change theirs; then it
runs in the next free slot of its own kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fitness.engine import Stack
from fitness.errors import FitnessError

LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Configuration lists with one entry per layer."""

SPARSE = "sparse"
"""Stands among the lists for what some mixtures say in `mlp_only_layers` and `decoder_sparse_step`:
which of the layers have experts."""


def layer_lists(config: object, layers: int) -> dict[str, list[object]]:
    """What a configuration says of each layer, by the name of the list.

    Args:
        config: of the language model, as `transformers` reads it (which fills in what a file leaves
            to a pattern).
        layers: entries of each list.
    """
    found: dict[str, list[object]] = {}
    for name in LISTS:
        values = getattr(config, name, None)
        if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == layers:
            found[name] = list(values)
    plain = getattr(config, "mlp_only_layers", None)
    if plain is not None:
        step = int(getattr(config, "decoder_sparse_step", None) or 1)
        experts = range(layers) if getattr(config, "num_experts", None) else ()
        found[SPARSE] = [
            i in experts and i not in plain and (i + 1) % step == 0 for i in range(layers)
        ]
    return found


def layer_kinds(config: object, layers: int) -> tuple[str, ...]:
    """Per layer, bottom first, what tells it from layers of another kind; see `layer_lists`."""
    lists = layer_lists(config, layers)
    return tuple(kind({n: v[i] for n, v in lists.items()}) for i in range(layers))


def kind(entries: dict[str, object]) -> str:
    """The name of a layer's kind: its entries in the lists."""
    return " ".join(f"{name}={value}" for name, value in entries.items())


def places(slots: Sequence[str], stack: Stack) -> tuple[int, ...]:
    """The slot that runs each layer of a candidate, bottom first.

    Args:
        slots: the kind of each slot of the engine's model, from `layer_kinds`.
        stack: the candidate's.

    Raises:
        FitnessError: it has more layers, or more of a kind, than there are slots, or does not say
            what kinds its layers have where slots differ.
    """
    check_depth(len(slots), stack)
    if not stack.kinds and len(set(slots)) > 1:
        raise FitnessError(
            "a candidate whose layers are all alike",
            f"the engine's are not: {', '.join(dict.fromkeys(slots))}",
            "engine",
            "build the engine from the sources' own configuration",
        )
    if not stack.kinds or tuple(stack.kinds) == tuple(slots[: stack.depth]):
        return tuple(range(stack.depth))
    free = {name: _of_kind(slots, name) for name in dict.fromkeys(stack.kinds)}
    found = tuple(next(free[name], -1) for name in stack.kinds)
    if -1 in found:
        short = stack.kinds[found.index(-1)]
        raise FitnessError(
            f"a candidate with {stack.kinds.count(short)} layers of kind '{short}'",
            f"the engine has {list(slots).count(short)} slots of that kind",
            "engine",
            "build it with as many slots of each kind as the deepest candidate has layers",
        )
    return found


def check_depth(slots: int, stack: Stack) -> None:
    """Refuse a candidate that is deeper than the engine's model.

    Raises:
        FitnessError: see above.
    """
    if stack.depth > slots:
        raise FitnessError(
            f"a candidate of {stack.depth} layers",
            f"the engine was built for {slots}",
            "engine",
            "build it for the deepest candidate, or search fewer layers",
        )


def in_slot(name: str, places: Sequence[int]) -> str:
    """The engine's name of the candidate's tensor `name`, whose layer i runs in slot `places[i]`."""
    segments = name.split(".")
    for i, segment in enumerate(segments):
        if segment.isdigit():
            return ".".join([*segments[:i], str(places[int(segment)]), *segments[i + 1 :]])
    return name


def layer_of(name: str) -> int | None:
    """The layer of tensor `name`: the first number among its segments; None outside the stack."""
    return next((int(segment) for segment in name.split(".") if segment.isdigit()), None)


def _of_kind(slots: Sequence[str], wanted: str) -> Iterator[int]:
    return iter([i for i, name in enumerate(slots) if name == wanted])
