"""Which weights share a variable: all of them, those of a group of layers, of a component, or both.

A granularity cuts a model along two axes. Along depth: contiguous groups of layers, or knots
between which values change linearly. Across: components with a variable of their own; the rest
share one, called `other`. Tensors outside the stack go with the nearest layers: the embeddings with
the first, the final norm and the head with the last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from search_spaces.errors import InputError, nearest
from search_spaces.roles import COMPONENTS
from search_spaces.settings import Clause, Scalar

OTHER = "other"
"""Name of the group of components that have no variable of their own."""

_OUTER = frozenset(("embed", "lm_head"))
_WHERE = "granularity"


@dataclass(frozen=True, slots=True)
class Granularity:
    """Which weights share a variable, as a run file says it.

    Attributes:
        layers: number of contiguous layer groups (as equal as possible), `each` for one per layer,
            `{"knots": k}` for values at k equally spaced depths with straight lines between them;
            None: depth makes no difference.
        components: those with a variable of their own, or `all`; None: components make none.
        rules: whether the method and the stages, where they are searched, are chosen per group too;
            else once for the whole model.
    """

    layers: int | str | Mapping[str, int] | None = None
    components: Sequence[str] | str | None = None
    rules: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive layers [`start`, `stop`) that one slice of the recipe covers.

    Attributes:
        mixes: per clause value, (low, high, share): the value is values[low] + share *
            (values[high] - values[low]), where `values` are those of the depth's labels; of words,
            the nearer one.
    """

    start: int
    stop: int
    mixes: tuple[tuple[int, int, float], ...]

    def clause(self, values: Sequence[Scalar], chosen: str | None) -> Clause:
        """The clause for this stretch, given one value per label of the depth, or one for all."""
        if len(values) == 1:
            return Clause((values[0],), chosen)
        mixed = [
            _between(values[low], values[high], share) if share else values[low]
            for low, high, share in self.mixes
        ]
        return Clause(tuple(mixed), chosen)


def _between(low: Scalar, high: Scalar, share: float) -> Scalar:
    if isinstance(low, (bool, str)) or isinstance(high, (bool, str)):
        return high if share > 0.5 else low
    return low + share * (high - low)


@dataclass(frozen=True, slots=True)
class Depth:
    """The cut along depth.

    Attributes:
        labels: part of a variable's name for each value along depth; empty: there is only one.
        stretches: the recipe's slices, bottom first. The last one holds the last label's value at
            its every depth, so the tensors after the stack have it too.
    """

    labels: tuple[str, ...]
    stretches: tuple[Stretch, ...]


def depth_of(granularity: Granularity, layers: int) -> Depth:
    """The cut along depth of a model with `layers` layers.

    Raises:
        InputError: more groups or knots than layers, fewer than one group or two knots.
    """
    wanted = granularity.layers
    if wanted is None or wanted == 1 or (wanted == "each" and layers == 1):
        return Depth((), (Stretch(0, layers, ((0, 0, 0.0),)),))
    if isinstance(wanted, Mapping):
        if set(wanted) != {"knots"}:
            raise InputError(
                f"layers = {dict(wanted)}",
                "a mapping here says knots",
                _WHERE,
                "write {knots: 3}, say",
            )
        return _knots(wanted["knots"], layers)
    if wanted == "each":
        return _each(layers)
    if isinstance(wanted, str):
        raise InputError(
            f"layers = '{wanted}'",
            "the only word here is `each`",
            _WHERE,
            "write each, a number, or {knots: 3}, say",
        )
    return _groups(wanted, layers)


def components_of(
    granularity: Granularity, present: Sequence[str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The cut across components: (label, its components) per group, each component in one group.

    Listed components come in the order of `COMPONENTS`, the rest last, labelled `other`; where
    components make no difference there is one group with the label "".

    Raises:
        InputError: an unknown component, or one the model does not have.
    """
    wanted = granularity.components
    if isinstance(wanted, str) and wanted != "all":
        raise InputError(
            f"components = '{wanted}'",
            "the only word here is `all`",
            _WHERE,
            "write all, or a list such as [attn, mlp]",
        )
    listed = present if wanted == "all" else tuple(wanted or ())
    for name in (*present, *listed):
        if name not in COMPONENTS:
            raise InputError(
                f"component '{name}'", "it is unknown", _WHERE, nearest(name, COMPONENTS)
            )
        if name not in present:
            raise InputError(
                f"component '{name}'",
                "the model has no such tensors (a tied head, say)",
                _WHERE,
                "leave it out",
            )
    if not listed:
        return (("", tuple(present)),)
    own = tuple((name, (name,)) for name in COMPONENTS if name in listed)
    rest = tuple(name for name in COMPONENTS if name in present and name not in listed)
    return (*own, (OTHER, rest)) if rest else own


def is_outer(components: Sequence[str]) -> bool:
    """Whether the components lie wholly outside the stack of layers, where depth has no meaning."""
    return _OUTER.issuperset(components)


def _groups(count: int, layers: int) -> Depth:
    if not 1 <= count <= layers:
        raise _too_many("layer groups", count, layers, 1)
    edges = [i * layers // count for i in range(count + 1)]
    spans = list(pairwise(edges))
    labels = [f"layers_{a}_{b - 1}" if b - a > 1 else f"layer_{a}" for a, b in spans]
    return Depth(
        tuple(labels), tuple(Stretch(a, b, ((g, g, 0.0),)) for g, (a, b) in enumerate(spans))
    )


def _each(layers: int) -> Depth:
    # As a gradient: a slice per layer would be the same model in a recipe as long as the stack.
    return replace(_knots(layers, layers), labels=tuple(f"layer_{i}" for i in range(layers)))


def _knots(count: int, layers: int) -> Depth:
    if not 2 <= count <= layers:
        raise _too_many("knots", count, layers, 2)
    mixes: list[tuple[int, int, float]] = []
    for layer in range(layers - 1):
        low, rest = divmod(layer * (count - 1), layers - 1)
        mixes.append((low, low + 1, rest / (layers - 1)))
    last = Stretch(layers - 1, layers, ((count - 1, count - 1, 0.0),))
    labels = tuple(f"knot_{k}" for k in range(count))
    return Depth(labels, (Stretch(0, layers - 1, tuple(mixes)), last))


def _too_many(what: str, count: int, layers: int, least: int) -> InputError:
    return InputError(
        f"{count} {what}",
        f"a model of {layers} layers takes {least} to {layers}",
        _WHERE,
        "correct the number",
    )
