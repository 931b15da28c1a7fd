"""Vocabularies: the rows of two embeddings may be averaged only if they stand for the same tokens."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.errors import InputError

FAST = "tokenizer.json"
SLOW = (
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""What makes a vocabulary where there is no `tokenizer.json`."""

_NAMED = 5


def check_vocabularies(folders: Mapping[str, Path]) -> None:
    """Check that each source maps its tokens to the ids of the first, added tokens included.

    A source without a tokenizer is taken to have the first's: on the Hub many fine-tunes do. Equal
    files are not parsed.

    Args:
        folders: the sources' folders by name; the result gets the first's tokenizer by default.

    Raises:
        InputError: the first source has no tokenizer, one cannot be read, or two differ: names
            the first tokens that do, their ids and both sources.
    """
    (first, folder), *others = folders.items()
    _check_first(first, folder)
    expected: dict[str, int] | None = None
    for name, other in others:
        if not has_tokenizer(other) or _same_files(folder, other):
            continue
        expected = expected or token_ids(folder, first)
        _check_equal(expected, token_ids(other, name), first, name)


def read_vocabularies(folders: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """Source -> token -> id, added tokens included; one object for those whose files are equal.

    A source without a tokenizer has the first's.

    Raises:
        InputError: the first source has no tokenizer, or one cannot be read.
    """
    (first, folder), *others = folders.items()
    _check_first(first, folder)
    tables = {first: token_ids(folder, first)}
    for name, other in others:
        same = not has_tokenizer(other) or _same_files(folder, other)
        tables[name] = tables[first] if same else token_ids(other, name)
    return tables


def _check_first(first: str, folder: Path) -> None:
    if not has_tokenizer(folder):
        raise InputError(
            f"no {FAST}",
            "the first source (the base) brings the tokenizer",
            f"source {first} ({folder})",
            "copy the tokenizer's files of the model it was made from into its folder",
        )


def has_tokenizer(folder: Path) -> bool:
    """Whether a vocabulary lies in a model's folder."""
    return any((folder / name).is_file() for name in (FAST, *SLOW))


def token_ids(folder: Path, source: str) -> dict[str, int]:
    """Token -> id, added tokens included.

    Raises:
        InputError: the files cannot be read.
    """
    where = f"source {source} ({folder})"
    try:
        if (folder / FAST).is_file():
            return _read_fast(json.loads((folder / FAST).read_text(encoding="utf-8")))
        return _read_slow(folder)
    # The classes behind AutoTokenizer raise anything; a file's content may be anything, too.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            "the tokenizer",
            f"it cannot be read ({reason})",
            where,
            f"download it again, or save it with transformers as {FAST}",
        ) from error


def _read_fast(content: Any) -> dict[str, int]:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [token, score], the place is the id
        ids = {token: place for place, (token, _) in enumerate(vocabulary)}
    else:
        ids = dict(vocabulary)
    ids |= {added["content"]: added["id"] for added in content.get("added_tokens") or []}
    return {str(token): int(number) for token, number in ids.items()}


def _read_slow(folder: Path) -> dict[str, int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    return tokenizer.get_vocab()


def _same_files(first: Path, other: Path) -> bool:
    """Whether what makes the vocabulary is, byte for byte, the same."""
    names = [FAST] if (first / FAST).is_file() or (other / FAST).is_file() else SLOW
    for name in names:
        mine, theirs = first / name, other / name
        if mine.is_file() != theirs.is_file():
            return False
        if mine.is_file() and not filecmp.cmp(mine, theirs, shallow=False):
            return False
    return True


def _check_equal(
    mine: Mapping[str, int], theirs: Mapping[str, int], first: str, other: str
) -> None:
    differing = [token for token in {**mine, **theirs} if mine.get(token) != theirs.get(token)]
    if not differing:
        return
    differing.sort(key=lambda token: mine.get(token, theirs.get(token, 0)))
    named = ", ".join(
        f"{token!r} ({_id(mine, token)} in {first}, {_id(theirs, token)} in {other})"
        for token in differing[:_NAMED]
    )
    more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    raise InputError(
        f"token {named}{more}",
        "a token has one id in all sources, or embeddings of different tokens are merged",
        f"tokenizers of {first} and {other}",
        "choose whose tokens the result has (tokenizer_source in a recipe, models.tokenizer in a run "
        f"file: base, union or a source); or, if {other}'s weights were trained with {first}'s "
        f"tokenizer, copy it to {other}'s folder",
    )


def _id(ids: Mapping[str, int], token: str) -> str:
    return f"id {ids[token]}" if token in ids else "none"
