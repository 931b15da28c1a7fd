"""Sources of different vocabularies: whose tokens the result has, and the tokenizer with them all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.merge.vocabulary import FAST, has_tokenizer, read_vocabularies, token_ids
from search_spaces.errors import InputError, nearest
from search_spaces.validation import UNION

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Vocabularies:
    """The tokens of the sources and of the result.

    Attributes:
        ids: token -> id in the result.
        of: source -> token -> id there.
        origin: the source whose tokenizer files the result gets (its own chat template, say).
        text: the result's tokenizer.json where it is made anew (a union); else None.
    """

    ids: Mapping[str, int]
    of: Mapping[str, Mapping[str, int]]
    origin: str
    text: str | None = None

    @property
    def equal(self) -> bool:
        """Whether every token has one id everywhere."""
        return all(table is self.ids or table == self.ids for table in self.of.values())


def vocabularies(
    choice: str, folders: Mapping[str, Path], rows: Mapping[str, int], first: str
) -> Vocabularies:
    """The vocabulary that `choice` asks for.

    `union` is, as in mergekit, the first source's tokenizer plus what the others have besides: its
    ids stay, then come the others' words in the order of sources and ids (as added tokens, which
    are looked for in the text before anything else), then their added tokens. A token without a row
    in its source's embedding is not taken. (mergekit's order of the words changes from run to run.)

    Args:
        choice: a source's name, or `union`.
        folders: the sources' folders by name; one without a tokenizer has the first's.
        rows: rows of each source's embedding.
        first: the source whose tokenizer a union extends.

    Raises:
        InputError: no such source, a tokenizer that is missing or cannot be read.
    """
    if choice != UNION and choice not in folders:
        raise InputError(
            f"tokenizer '{choice}'",
            "it is `union` or one of the sources",
            "tokenizer",
            nearest(choice, (UNION, *folders)),
        )
    if choice != UNION and not has_tokenizer(folders[choice]):
        raise InputError(
            f"tokenizer of '{choice}'",
            "this source has none",
            f"source {choice} ({folders[choice]})",
            "name another source",
        )
    ordered = {first: folders[first]} | dict(folders)
    tables = read_vocabularies(ordered)
    if choice != UNION:
        return Vocabularies(tables[choice], tables, choice)
    if all(table is tables[first] or table == tables[first] for table in tables.values()):
        return Vocabularies(tables[first], tables, first)
    union = _union(ordered, rows)
    text = json.dumps(json.loads(union.to_str()), ensure_ascii=False, indent=2) + "\n"
    return Vocabularies(union.get_vocab(with_added_tokens=True), tables, first, text)


def _union(folders: Mapping[str, Path], rows: Mapping[str, int]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer

    contents = {name: _content(folder, name) for name, folder in folders.items()}
    first = next(iter(folders))
    union = Tokenizer.from_str(json.dumps(contents[first]))
    known = set(union.get_vocab(with_added_tokens=True))
    words: dict[str, AddedToken] = {}
    added: dict[str, AddedToken] = {}
    for name, content in contents.items():
        if content is None:
            continue
        flags = {entry["content"]: entry for entry in content.get("added_tokens") or []}
        ids = token_ids(folders[name], name)
        for token in sorted(ids, key=lambda t: ids[t]):
            if token in known or ids[token] >= rows[name]:
                continue
            if token in flags:
                added.setdefault(token, _added(flags[token]))
            else:
                words.setdefault(token, AddedToken(token))
    union.add_tokens([word for token, word in words.items() if token not in added])
    for token in added.values():
        union.add_special_tokens([token]) if token.special else union.add_tokens([token])
    return union


def _content(folder: Path, name: str) -> dict[str, Any] | None:
    """A source's tokenizer.json; None where it has no tokenizer at all (the first always has)."""
    if (folder / FAST).is_file():
        return json.loads((folder / FAST).read_text(encoding="utf-8"))
    if not has_tokenizer(folder):
        return None
    raise InputError(
        f"no {FAST}",
        "a union is made of tokenizers in this format",
        f"source {name} ({folder})",
        "load its tokenizer with transformers' AutoTokenizer and save_pretrained it there",
    )


def _added(entry: Mapping[str, Any]) -> Any:
    from tokenizers import AddedToken

    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(entry["content"], **{flag: bool(entry.get(flag)) for flag in flags})
