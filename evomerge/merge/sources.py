"""The models that go in: opened once, mapped into memory, checked to fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evomerge.merge.checkpoint import Checkpoint
from evomerge.merge.configs import check_configs, differences
from evomerge.merge.vocabulary import check_vocabularies
from search_spaces.errors import InputError
from search_spaces.roles import role

_BUFFERS = ("rotary_emb.inv_freq",)
"""Floating tensors that older checkpoints carry but that are computed, not learned."""

_FINITE_CHUNK = 2**22


def open_sources(folders: Mapping[str, Path]) -> Sources:
    """Open local Hugging Face folders, by source name; tensors stay mapped and are read when used.

    Raises:
        InputError: a folder is missing, incomplete, damaged, quantised, an adapter or pickle-only.
    """
    if not folders:
        raise InputError("no models", "a merge needs at least one source", "models", "add models")
    return Sources({name: Checkpoint(name, folder) for name, folder in folders.items()})


class Sources:
    """Opened sources by name, in the order given. Where a method names none, the first speaks."""

    def __init__(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        self._all = dict(checkpoints)
        self._first = next(iter(self._all.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names."""
        return tuple(self._all)

    def folder(self, source: str) -> Path:
        """Where a source lies."""
        return self._all[source].folder

    def config(self, source: str) -> dict[str, Any]:
        """A source's config.json. Do not change it."""
        return self._all[source].config

    def dtype(self, source: str) -> torch.dtype:
        """The floating type most of a source is stored in."""
        return self._all[source].dtype

    def tensor(self, source: str, name: str) -> torch.Tensor:
        """A tensor in its storage dtype, mapped from the file. Do not write to it."""
        return self._all[source].tensor(name)

    def floating(self, name: str) -> bool:
        """Whether a tensor merges; integers, booleans and computed buffers are copied instead."""
        return self._first.entries[name].floating and not name.endswith(_BUFFERS)

    def names_of(self, source: str) -> tuple[str, ...]:
        """A source's parameters; where embeddings are tied, without a copy of the head."""
        return tuple(
            name
            for name in self._all[source].entries
            if not name.endswith(_BUFFERS) and not (self.tied and _is_head(name))
        )

    @cached_property
    def layers(self) -> int:
        """Layers of each source."""
        return self._first.layers

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by tensor name."""
        return {n: self._first.entries[n].shape for n in self.names_of(self._first.name)}

    @cached_property
    def tied(self) -> bool:
        """Whether the head is the embedding: the configurations say so, or a head is missing."""
        said = {_says_tied(checkpoint) for checkpoint in self._all.values()} - {None}
        if said:
            return said == {True}
        return any(not any(map(_is_head, c.entries)) for c in self._all.values())

    @cached_property
    def embedding(self) -> str | None:
        """The name of the input embedding; None if no tensor outside the stack looks like it."""
        rows = self._first.text_config.get("vocab_size")
        tables = [
            name
            for name, entry in self._first.entries.items()
            if role(name).layer is None
            and role(name).component == "embed"
            and len(entry.shape) == 2
        ]
        fitting = [name for name in tables if self._first.entries[name].shape[0] == rows]
        return next(iter(fitting or tables), None)

    def parameters(self) -> int:
        """Parameters of each source, tied embeddings counted once."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def bytes(self) -> int:
        """Size of all weight files together."""
        return sum(path.stat().st_size for c in self._all.values() for path in c.files)

    def check_compatible(self) -> None:
        """Check that the sources are one architecture with equal tensors and one vocabulary.

        Reads headers, configurations and tokenizers, no weights. What differs and may still be
        merged is in `warnings`.

        Raises:
            InputError: names the first difference and both models, or the first source, if it has
                no tokenizer.
        """
        said = {c.name: _says_tied(c) for c in self._all.values()}
        if {True, False} <= set(said.values()):
            raise InputError(
                f"tie_word_embeddings {said}",
                "all sources tie the head to the embedding, or none",
                "config.json",
                "untie the others: save them with a head of their own",
            )
        for other in list(self._all.values())[1:]:
            check_configs(self._first, other)
            self._check_tensors(other)
        check_vocabularies({name: c.folder for name, c in self._all.items()})

    def warnings(self) -> list[str]:
        """What differs between the configurations without forbidding a merge, a sentence each.

        The result takes the first source's (or a recipe's base's); the rotary embedding is one.
        """
        return [
            w for other in list(self._all.values())[1:] for w in differences(self._first, other)
        ]

    def check_finite(self) -> None:
        """Read every floating tensor and check that it holds no NaN or infinity.

        Raises:
            InputError: names the tensor, its file and its source.
        """
        for checkpoint in self._all.values():
            for name, entry in checkpoint.entries.items():
                if entry.floating and not _finite(checkpoint.tensor(name)):
                    raise InputError(
                        f"tensor {name} in {entry.file.name}",
                        "it holds NaN or infinity",
                        checkpoint.where,
                        "use an intact checkpoint",
                    )

    def _check_tensors(self, other: Checkpoint) -> None:
        first, pair = self._first, f"sources {self._first.name} and {other.name}"
        mine, theirs = self.names_of(first.name), set(self.names_of(other.name))
        missing = [n for n in mine if n not in theirs]
        extra = sorted(theirs - set(mine))
        if missing or extra:
            name, has, lacks = (missing[0], first, other) if missing else (extra[0], other, first)
            raise InputError(
                f"tensor {name}",
                f"{has.name} has it, {lacks.name} does not",
                pair,
                "merge fine-tunes of the same base model, saved the same way",
            )
        for name in mine:
            a, b = first.entries[name], other.entries[name]
            if a.shape != b.shape:
                raise _shape_error(name, a.shape, b.shape, pair)
            if a.floating != b.floating:
                raise InputError(
                    f"tensor {name} of types {a.dtype} and {b.dtype}",
                    "types must be alike",
                    pair,
                    "save both models the same way",
                )


def _shape_error(name: str, a: tuple[int, ...], b: tuple[int, ...], pair: str) -> InputError:
    if role(name).component in ("embed", "lm_head") and a[1:] == b[1:]:
        return InputError(
            f"tensor {name} has {a[0]} and {b[0]} rows",
            "the vocabularies differ",
            pair,
            "merge models with the same tokenizer, or resize the embeddings of one first",
        )
    return InputError(
        f"tensor {name} of shapes {list(a)} and {list(b)}",
        "shapes must be equal",
        pair,
        "merge fine-tunes of the same base model",
    )


def _is_head(name: str) -> bool:
    return role(name).layer is None and role(name).component == "lm_head"


def _says_tied(checkpoint: Checkpoint) -> bool | None:
    value = checkpoint.config.get(
        "tie_word_embeddings", checkpoint.text_config.get("tie_word_embeddings")
    )
    return value if isinstance(value, bool) else None


def _finite(tensor: torch.Tensor) -> bool:
    flat = tensor.reshape(-1)
    return all(bool(part.isfinite().all()) for part in flat.split(_FINITE_CHUNK))
