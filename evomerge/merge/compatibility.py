"""What several sources must have in common to be merged, and what may differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evomerge.merge.configs import AnyCheckpoint
from search_spaces.errors import InputError
from search_spaces.roles import role, with_layer

_NAMED = 3


def check_tensors(
    first: AnyCheckpoint,
    other: AnyCheckpoint,
    names: Sequence[str],
    foreign: Iterable[str],
    aligned: bool,
) -> None:
    """Check that `other` holds tensors of the first's names and shapes.

    Args:
        first: defines the result.
        other: what is held against it.
        names: the result's tensors that both may have.
        foreign: tensors of `other` that are not the result's.
        aligned: rows of embeddings and heads are matched by token and may differ in number.

    Raises:
        InputError: names the tensor and both sources.
    """
    pair = f"sources {first.name} and {other.name}"
    lacking = [n for n in names if n not in other.entries and role(n).layer is not None]
    inner = [n for n in foreign if role(n).layer is not None]
    if lacking and inner:
        raise InputError(
            f"tensor {lacking[0]}",
            f"{first.name} has it, {other.name} does not, and has {inner[0]} instead",
            pair,
            "merge fine-tunes of the same base model; load and save both with the same transformers",
        )
    for name in names:
        if name not in first.entries or name not in other.entries:
            continue
        a, b = first.entries[name], other.entries[name]
        tokens = aligned and role(name).layer is None and role(name).component != "norm"
        if a.shape != b.shape and not (tokens and a.shape[1:] == b.shape[1:]):
            raise _shape_error(name, a.shape, b.shape, pair)
        if a.floating != b.floating:
            raise InputError(
                f"tensor {name} of types {a.dtype} and {b.dtype}",
                "types must be alike",
                pair,
                "save both models the same way",
            )


def check_first_is_whole(
    first: AnyCheckpoint, others: Sequence[AnyCheckpoint], foreign: Sequence[set[str]]
) -> None:
    """Refuse a first source (the base) that lacks a layer's tensor which all others have.

    Args:
        first: defines the result.
        others: the other sources.
        foreign: per other source, its tensors that are not the result's.

    Raises:
        InputError: names the tensor and the sources.
    """
    common = set.intersection(*foreign) if foreign else set[str]()
    inner = sorted(name for name in common if role(name).layer is not None)
    if inner:
        raise InputError(
            f"tensor {inner[0]}",
            f"{others[0].name} has it, {first.name} does not, and the result gets {first.name}'s "
            "tensors",
            f"sources {first.name} and {others[0].name}",
            "merge fine-tunes of the same base model, saved the same way",
        )


def odd_tensors(name: str, first: str, lacking: Sequence[str], foreign: Sequence[str]) -> list[str]:
    """Warnings about the tensors of source `name` that are missing or left out."""
    found: list[str] = []
    if lacking:
        found.append(
            f"source '{name}' lacks {_some(lacking)}: there the others are merged without it"
        )
    if foreign:
        found.append(
            f"source '{name}' has {_some(foreign)}, which '{first}' does not: left out of the result"
        )
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _shape_error(name: str, a: tuple[int, ...], b: tuple[int, ...], pair: str) -> InputError:
    if role(name).component in ("embed", "lm_head") and a[1:] == b[1:]:
        return InputError(
            f"tensor {name} has {a[0]} and {b[0]} rows",
            "the vocabularies differ",
            pair,
            "choose whose tokens the result has: tokenizer_source in a recipe, models.tokenizer in "
            "a run file (base, union or a source)",
        )
    return InputError(
        f"tensor {name} of shapes {list(a)} and {list(b)}",
        "shapes must be equal",
        pair,
        "merge fine-tunes of the same base model",
    )


def gaps(source: str, tensors: Iterable[str]) -> list[str]:
    """Tensors that a layer lacks and nearly all others have: an incomplete file, most likely."""
    layers: dict[int, set[str]] = {}
    for name in tensors:
        layer = role(name).layer
        if layer is not None:
            layers.setdefault(layer, set()).add(with_layer(name, 0))
    kinds = set().union(*layers.values())
    found: list[str] = []
    for kind in sorted(kinds):
        lacking = [layer for layer, names in layers.items() if kind not in names]
        if 0 < 4 * len(lacking) <= len(layers):
            name = with_layer(kind, lacking[0])
            found.append(
                f"source '{source}' lacks {name}, which its other layers have: so does the result"
            )
    return found
