"""The models that go in: opened once, mapped into memory, checked to fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evomerge.merge.alignment import Alignment
from evomerge.merge.checkpoint import Checkpoint, is_head, says_tied
from evomerge.merge.compatibility import (
    AnyCheckpoint,
    check_first_is_whole,
    check_tensors,
    gaps,
    odd_tensors,
)
from evomerge.merge.configs import check_configs, differences, result_config
from evomerge.merge.files import FLOATS
from evomerge.merge.locations import Location
from evomerge.merge.lora import AdaptedCheckpoint
from evomerge.merge.tokenizers import Vocabularies, vocabularies
from evomerge.merge.vocabulary import check_vocabularies
from search_spaces.errors import InputError
from search_spaces.roles import role

_BUFFERS = ("rotary_emb.inv_freq",)
"""Floating tensors that older checkpoints carry but that are computed, not learned."""

_FINITE_CHUNK = 2**22


@dataclass(frozen=True, slots=True)
class Described:
    """What a source is.

    Attributes:
        architecture: as its config.json says.
        parameters: a tied embedding counted once.
        tied: whether its head is its embedding.
        rows: of its embedding; 0: it has none.
    """

    architecture: str
    parameters: int
    tied: bool
    rows: int


def open_sources(
    folders: Mapping[str, Path | Location], tokenizer: str | None = None, base: str | None = None
) -> Sources:
    """Open local Hugging Face folders, by source name; tensors stay mapped and are read when used.

    Args:
        folders: where each source lies, LoRA adapters included.
        tokenizer: see `Sources.with_tokenizer`; `base` is the base, or the first source.
        base: the base's name, if there is one.

    Raises:
        InputError: a folder is missing, incomplete, damaged, quantised, an adapter or pickle-only;
            an adapter does not fit its model; no such tokenizer.
    """
    if not folders:
        raise InputError("no models", "a merge needs at least one source", "models", "add models")
    sources = Sources({name: _open(name, place) for name, place in folders.items()})
    if tokenizer == "base" and "base" not in folders:
        tokenizer = base or sources.names[0]
    return sources.with_tokenizer(tokenizer, base)


class Sources:
    """Opened sources by name, in the order given, seen as parts of one result.

    The first source says which tensors the result has, and speaks where a method names no source.
    If a source has a head of its own, the result has one: a tied source's head is its embedding.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, AnyCheckpoint],
        tokenizer: str | None = None,
        tokens: Vocabularies | None = None,
        base: str | None = None,
        family: dict[tuple[str, str | None], Sources] | None = None,
    ) -> None:
        self._all = dict(checkpoints)
        self._first = next(iter(self._all.values()))
        self._family = {} if family is None else family
        self._tokens, self._alignment = tokens, None
        self._aligned: dict[str, dict[str, torch.Tensor]] = {}
        self._base = base
        self.tokenizer = tokenizer
        """The source whose tokens the result has, or `union`; None: nothing was chosen."""
        if tokens is not None and not (tokens.equal and len(set(self._rows().values())) == 1):
            self._alignment = Alignment(tokens.ids, tokens.of, self._rows(), base)

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names."""
        return tuple(self._all)

    def folder(self, source: str) -> Path:
        """Where a source lies; of an adapter, where its model does."""
        return self._all[source].folder

    def files(self, source: str) -> tuple[Path, ...]:
        """A source's weight files, its adapter's included."""
        return self._all[source].files

    def config(self, source: str) -> dict[str, Any]:
        """A source's config.json, as the result needs it: vocabulary, tied or not. Do not change it."""
        origin = self._all[self.tokenizer_of or source]
        return result_config(
            self._all[source],
            rows=self._alignment.rows if self._alignment else None,
            tokens=origin.config if self._alignment else None,
            tied=self.tied,
        )

    def described(self, source: str) -> Described:
        """A source as its own files have it, whatever the result needs of it."""
        checkpoint = self._all[source]
        kinds = checkpoint.config.get("architectures") or [checkpoint.text_config.get("model_type")]
        rows = checkpoint.entries[checkpoint.embedding].shape[0] if checkpoint.embedding else 0
        sizes = {
            name: torch.Size(entry.shape).numel() for name, entry in checkpoint.entries.items()
        }
        tied = checkpoint.head is None
        copied = sum(
            sizes[name]
            for name, entry in checkpoint.entries.items()
            if tied and is_head(name, entry)
        )
        return Described(str(kinds[0]), sum(sizes.values()) - copied, tied, rows)

    def dtype(self, source: str) -> torch.dtype:
        """The floating type most of a source is stored in."""
        return self._all[source].dtype

    def tensor(self, source: str, name: str) -> torch.Tensor:
        """A tensor of the result's shape. Do not write to it.

        A view of the mapped file wherever nothing must be done; float32 and made anew where an
        adapter changes it; made once and kept where rows are matched by token.
        """
        if self._alignment and self._has_rows_of_tokens(name):
            if name not in self._aligned:
                stored = {s: self._stored(s, name) for s in self._all if self.holds(s, name)}
                self._aligned[name] = self._alignment.align(stored)
            return self._aligned[name][source]
        return self._stored(source, name)

    def holds(self, source: str, name: str) -> bool:
        """Whether a source has this tensor; if not, the others are merged without it."""
        return self._name_in(source, name) in self._all[source].entries

    def floating(self, name: str) -> bool:
        """Whether the tensor merges; integers, booleans and computed buffers are copied instead."""
        entry = self._first.entries[self._name_in(self._first.name, name)]
        return entry.floating and not name.endswith(_BUFFERS)

    def names_of(self, source: str) -> tuple[str, ...]:
        """The result's tensors that a source has: of the first source, all of them."""
        return tuple(name for name in self.shapes if self.holds(source, name))

    @cached_property
    def layers(self) -> int:
        """Layers of each source."""
        return self._first.layers

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the result's tensors by name, layers as in the sources."""
        first, found = self._first, dict[str, tuple[int, ...]]()
        for name, entry in first.entries.items():
            if name == self._head or not (name.endswith(_BUFFERS) or is_head(name, entry)):
                found[name] = entry.shape
        if self._head and self._head not in found and self.embedding:
            found[self._head] = first.entries[self.embedding].shape
        if self._alignment:
            rows = self._alignment.rows
            found |= {n: (rows, *found[n][1:]) for n in found if self._has_rows_of_tokens(n)}
        return found

    @cached_property
    def tied(self) -> bool:
        """Whether the result's head is its embedding: no source has a head of its own."""
        return self._head is None and not any(
            says_tied(c.config) is False for c in self._all.values()
        )

    @cached_property
    def embedding(self) -> str | None:
        """The name of the input embedding; None if no tensor outside the stack looks like it."""
        return self._first.embedding

    def with_tokenizer(self, choice: str | None, base: str | None = None) -> Sources:
        """The same sources with embeddings and heads matched by token. Cheap to ask for again.

        Where all sources have the result's vocabulary already, nothing is matched.

        Args:
            choice: a source's name, or `union`; None: as these sources are.
            base: source whose row a token gets in sources that lack it (see `Alignment`), and whose
                tokenizer a union extends; None: no source, and the first.

        Raises:
            InputError: no such source, no tokenizer, or no embedding in one of the sources.
        """
        if choice is None or (choice == self.tokenizer and base in (None, self._base)):
            return self
        if (choice, base) not in self._family:
            folders = {name: c.folder for name, c in self._all.items()}
            tokens = vocabularies(choice, folders, self._rows(), base or self._first.name)
            made = Sources(self._all, choice, tokens, base, self._family)
            self._family[choice, base] = made
        return self._family[choice, base]

    @property
    def matched(self) -> bool:
        """Whether rows are matched by token: embeddings are then not those of the files."""
        return self._alignment is not None

    @property
    def tokenizer_of(self) -> str | None:
        """The source whose tokenizer files the result gets; None: nothing was chosen."""
        return self._tokens.origin if self._tokens else None

    @property
    def tokenizer_text(self) -> str | None:
        """The result's tokenizer.json, where no source has it."""
        return self._tokens.text if self._tokens else None

    def origin(self, source: str, name: str) -> tuple[tuple[Path, ...], str]:
        """What `tensor(source, name)` is made of: files, and the name there.

        The same name in files of the same contents means the same numbers; no files: what is
        computed from the tensor must not outlive these sources (its rows are matched by token).
        """
        if self._alignment and self._has_rows_of_tokens(name):
            return (), name
        inside = self._name_in(source, name)
        return self._all[source].files_of(inside), inside

    def held_bytes(self) -> int:
        """Size of all tensors of all sources as `tensor` gives them: what keeping them takes."""
        return sum(
            torch.Size(shape).numel() * self._itemsize(source, name)
            for source in self._all
            for name, shape in self.shapes.items()
            if self.holds(source, name)
        )

    def parameters(self, layers: int | None = None) -> int:
        """Parameters of a result with so many layers (None: the sources'), tied embeddings counted
        once."""
        sizes = {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}
        inside = sum(size for name, size in sizes.items() if role(name).layer is not None)
        depth = self.layers if layers is None else layers
        return sum(sizes.values()) - inside + inside * depth // self.layers

    def bytes(self) -> int:
        """Size of all weight files together."""
        return sum(p.stat().st_size for p in {p for c in self._all.values() for p in c.files})

    def check_compatible(self) -> None:
        """Check that the sources are one architecture with equal tensors and one vocabulary.

        With a tokenizer chosen, vocabularies may differ. Reads headers, configurations and
        tokenizers, no weights. What differs and may still be merged is in `warnings`.

        Raises:
            InputError: names the first difference and both models, or the first source, if it has
                no tokenizer.
        """
        first, *others = self._all.values()
        for other in others:
            check_configs(first, other)
            both = [n for n in self.shapes if n in first.entries]
            check_tensors(first, other, both, sorted(self._foreign(other)), self.matched)
        check_first_is_whole(first, others, [self._foreign(other) for other in others])
        if self.tokenizer is None:
            check_vocabularies({name: c.folder for name, c in self._all.items()})

    def warnings(self) -> list[str]:
        """What differs between the sources without forbidding a merge, a sentence each.

        The result takes the first source's (or a recipe's base's); the rotary embedding is one.
        """
        found = gaps(self._first.name, self._first.entries)
        for other in list(self._all.values())[1:]:
            found += differences(self._first, other)
            lacking = [name for name in self.shapes if not self.holds(other.name, name)]
            found += odd_tensors(
                other.name, self._first.name, lacking, sorted(self._foreign(other))
            )
        if len({c.head is None for c in self._all.values()}) > 1:
            found.append("some sources tie the head to the embedding: the result has both")
        return found

    def check_finite(self) -> None:
        """Read every floating tensor and check that it holds no NaN or infinity.

        Raises:
            InputError: names the tensor, its file and its source.
        """
        for checkpoint in self._all.values():
            for name in checkpoint.entries:
                _check_finite(checkpoint, name)

    def check_finite_tensor(self, source: str, name: str) -> None:
        """The same of one tensor that a result is made of."""
        _check_finite(self._all[source], self._name_in(source, name))

    def _itemsize(self, source: str, name: str) -> int:
        if self._alignment and self._has_rows_of_tokens(name):
            return self.tensor(source, name).itemsize
        dtype = self._all[source].entries[self._name_in(source, name)].dtype
        return FLOATS[dtype].itemsize if dtype in FLOATS else self._stored(source, name).itemsize

    @cached_property
    def _head(self) -> str | None:
        heads = [c.head for c in self._all.values() if c.head is not None]
        return heads[0] if heads else None

    def _name_in(self, source: str, name: str) -> str:
        """The name in its file of what a source gives for the result's tensor `name`."""
        checkpoint = self._all[source]
        tied = name == self._head and checkpoint.head is None and checkpoint.embedding
        return checkpoint.embedding or name if tied else name

    def _stored(self, source: str, name: str) -> torch.Tensor:
        return self._all[source].tensor(self._name_in(source, name))

    def _has_rows_of_tokens(self, name: str) -> bool:
        outside = role(name).layer is None and role(name).component == "lm_head"
        return name == self.embedding or outside

    def _foreign(self, other: AnyCheckpoint) -> set[str]:
        """Tensors of a source that the result does not have (its own copy of a head aside)."""
        return {
            name
            for name, entry in other.entries.items()
            if name not in self.shapes and not name.endswith(_BUFFERS) and not is_head(name, entry)
        }

    def _rows(self) -> dict[str, int]:
        """Rows of each source's embedding."""
        found: dict[str, int] = {}
        for name, checkpoint in self._all.items():
            if checkpoint.embedding is None:
                raise InputError(
                    f"tokenizer of '{name}'",
                    "it has no embedding whose rows could be matched",
                    checkpoint.where,
                    "leave the tokenizer out",
                )
            found[name] = checkpoint.entries[checkpoint.embedding].shape[0]
        return found


def _open(name: str, place: Path | Location) -> AnyCheckpoint:
    if isinstance(place, Path):
        return Checkpoint(name, place)
    model = Checkpoint(name, place.model)
    return AdaptedCheckpoint(model, place.lora) if place.lora else model


def _check_finite(checkpoint: AnyCheckpoint, name: str) -> None:
    entry = checkpoint.entries[name]
    if entry.floating and not _finite(checkpoint.tensor(name)):
        raise InputError(
            f"tensor {name} in {entry.file.name}",
            "it holds NaN or infinity",
            checkpoint.where,
            "use an intact checkpoint",
        )


def _finite(tensor: torch.Tensor) -> bool:
    """NaN and infinity show at the ends of the range, found much faster than element by element."""
    flat = tensor.reshape(-1)
    ends = [torch.stack(part.aminmax()) for part in flat.split(_FINITE_CHUNK) if part.numel()]
    return all(bool(end.isfinite().all()) for end in ends)
