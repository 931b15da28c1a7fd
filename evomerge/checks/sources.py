"""The sources of a run: where they came from, what their files hold, whose tokens they know."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checks.advice import Advice
from evomerge.config import RunFile
from evomerge.runs.folder import file_hashes

if TYPE_CHECKING:
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources

_SHORT = 12
"""Hexadecimal digits of a hash that are shown."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a source's result depends on: weights, configuration, tokenizer.

    Attributes:
        name: in the source's folder; an adapter's stand under `lora/`.
        bytes: its size.
        sha256: of its content, in full.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """One source.

    Attributes:
        name: `base`, or the expert's.
        model: what the run file calls it: a folder or a hub id.
        revision: the commit, of a model of the Hub; None: a folder.
        folder: where it lies.
        lora: where the adapter on top of it lies; None: there is none.
        files: what it is made of.
        architecture: as its config.json says.
        parameters: of the source itself, a tied embedding counted once.
        dtype: what most of it is stored in.
        tied: whether its head is its embedding.
        tokens: of its tokenizer, added ones included (of the first source's, where it has none).
        rows: of its embedding.
        own_tokenizer: whether it has one.
        vocabulary: `first` (the source that others are held against), `same`, or `other`.
    """

    name: str
    model: str
    revision: str | None
    folder: str
    lora: str | None
    files: tuple[SourceFile, ...]
    architecture: str
    parameters: int
    dtype: str
    tied: bool
    tokens: int
    rows: int
    own_tokenizer: bool
    vocabulary: str

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files)

    @property
    def hash(self) -> str:
        """A short hash of all its files: equal means the same model, tokenizer included."""
        told = "".join(f"{file.name} {file.sha256}\n" for file in self.files)
        return hashlib.sha256(told.encode()).hexdigest()[:_SHORT]

    @property
    def padding_rows(self) -> int:
        """Rows of its embedding that stand for no token."""
        return max(0, self.rows - self.tokens)

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it."""
        return {
            **asdict(self),
            "bytes": self.bytes,
            "hash": self.hash,
            "padding_rows": self.padding_rows,
        }


def describe_sources(
    config: RunFile, folders: Mapping[str, "Location"], sources: "Sources"
) -> tuple[SourceFacts, ...]:
    """Every source, the base first. Hashes files, or remembers their hashes.

    Args:
        config: the run file.
        folders: source name -> where it lies.
        sources: they, opened and compatible.

    Raises:
        InputError: a tokenizer that cannot be read.
    """
    from evomerge.merge.hub import revision_of
    from evomerge.merge.vocabulary import has_tokenizer, read_vocabularies

    first = sources.names[0]
    tables = read_vocabularies({name: place.model for name, place in folders.items()})
    found: list[SourceFacts] = []
    for name, place in folders.items():
        own, table = has_tokenizer(place.model), tables[name]
        same = table is tables[first] or table == tables[first]
        mine = sources.described(name)
        found.append(
            SourceFacts(
                name=name,
                model=config.models.sources[name].model,
                revision=revision_of(place.model),
                folder=str(place.model),
                lora=str(place.lora) if place.lora else None,
                files=_files(place),
                architecture=mine.architecture,
                parameters=mine.parameters,
                dtype=str(sources.dtype(name)).removeprefix("torch."),
                tied=mine.tied,
                tokens=len(table),
                rows=mine.rows,
                own_tokenizer=own,
                vocabulary="first" if name == first else "same" if same else "other",
            )
        )
    return tuple(found)


def _files(place: "Location") -> tuple[SourceFile, ...]:
    return tuple(
        SourceFile(name, _path(place, name).stat().st_size, digest)
        for name, digest in file_hashes(place).items()
    )


def _path(place: "Location", name: str) -> Path:
    adapter = name.removeprefix("lora/")
    if adapter != name and place.lora is not None:
        return place.lora / adapter
    return place.model / name


def advise_on_sources(found: tuple[SourceFacts, ...]) -> list[Advice]:
    """Tokens that an embedding has no row for."""
    return [
        Advice(
            f"'{source.name}' has {source.tokens} tokens and {source.rows} rows in its embedding: a "
            f"prompt with one of the last {source.tokens - source.rows} cannot be answered",
            "save it again after resize_token_embeddings(len(tokenizer)), or bring the tokenizer of "
            "the model it was trained from",
        )
        for source in found
        if source.own_tokenizer and 0 < source.rows < source.tokens
    ]
