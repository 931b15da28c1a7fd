"""Licences of the sources, and what a merge of them may carry.

A help, no legal advice: it reads what the sources' own folders say and applies a table of well-known
terms (`licence_table.py`) by a few plain rules. It cannot know what a card leaves out, what was trained
on what, or what a court would say. No licence found means unknown, not free.

The rules, in order:

1. A source without a licence makes the whole unknown.
2. Terms that forbid derivatives forbid handing on any merge.
3. Share-alike wants the whole under itself and nothing else added: two of different names conflict
   (unless one's text lets it become the other), and so does share-alike beside terms that restrict
   use, forbid commerce or demand that a derivative stays under them.
4. Terms reserved for one family of models conflict with another family's own terms.
5. Otherwise the strictest governs: own terms before share-alike before non-commercial before
   permissive; where two of that rank stand beside each other, both apply: `other`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.licence_table import (
    NAMED,
    SHARE_ALIKE,
    TERMS,
    UNMODIFIED,
    Terms,
    canonical,
    terms_of,
    under,
)

if TYPE_CHECKING:
    from evomerge.merge.locations import Location

OTHER = "other"
"""What the Hub calls a licence that is not in its list."""

_SAYS_NOTHING = ("unknown", "none", "unlicensed", "")
_FILES = re.compile(r"(licen[sc]e|copying|unlicense)([._-].*)?", re.IGNORECASE)
_STATED = re.compile(r"^(license(?:_name)?):[ \t]*[\"']?([\w.+-]+)[\"']?[ \t\r]*$", re.MULTILINE)
"""A line that names a licence, in front matter that YAML refuses."""

_OPENING_CHARACTERS = 3000
"""A licence says in its first words which it is; further down it may name others."""


@dataclass(frozen=True)
class Licence:
    """A licence as a source's folder states it.

    Attributes:
        name: as Hugging Face spells it (`apache-2.0`, `llama3.1`); `other` if it has no name there.
        origin: the file it was read from (`README.md`, `LICENSE`).
    """

    name: str
    origin: str


@dataclass(frozen=True)
class Verdict:
    """What a merge may carry.

    Attributes:
        licence: the one it may carry, as the Hub spells it; None: not known, or there is none.
        conflicts: sentences: what cannot be handed on together, and why.
        duties: sentences: what has to be kept, one per licence.
        unknown: sources without a licence, or with one that has no name.
        unread: sources under terms that are not in the table: nobody here knows what they forbid.
    """

    licence: str | None
    conflicts: tuple[str, ...]
    duties: tuple[str, ...]
    unknown: tuple[str, ...]
    unread: tuple[str, ...] = ()


def licences_of(places: "Mapping[str, Location]") -> dict[str, Licence | None]:
    """Every source's licence by name; a LoRA adapter's stands apart, as `NAME (lora)`."""
    found: dict[str, Licence | None] = {}
    for name, place in places.items():
        found[name] = _of_folder(place.model)
        if place.lora is not None:
            found[lora_of(name)] = _of_folder(place.lora)
    return found


def lora_of(source: str) -> str:
    """What the LoRA adapter on a source is called among licences."""
    return f"{source} (lora)"


def judge_licences(licences: Mapping[str, Licence | None]) -> Verdict:
    """What a merge of these sources may carry (see the rules above).

    Args:
        licences: source name -> its licence; None: none was found.
    """
    unknown = tuple(
        name for name, one in licences.items() if one is None or canonical(one.name) == OTHER
    )
    carried: dict[str, list[str]] = {}
    for name, one in licences.items():
        if one is not None and name not in unknown:
            carried.setdefault(canonical(one.name), []).append(name)
    held = {name: terms_of(name) or under(name, NAMED) for name in carried}
    conflicts = tuple(_conflicts(held, carried))
    duties = tuple(_duty(terms, carried[name]) for name, terms in held.items())
    licence = None if unknown or conflicts or not held else _governing(list(held.values()))
    unread = tuple(name for one in carried if terms_of(one) is None for name in carried[one])
    return Verdict(licence, conflicts, tuple(d for d in duties if d), unknown, unread)


def _conflicts(held: Mapping[str, Terms], carried: Mapping[str, list[str]]) -> list[str]:
    found = [
        f"{_said(name, carried)} lets nobody hand on a changed model, and a merge is one"
        for name, terms in held.items()
        if terms.kind == UNMODIFIED
    ]
    for one, other in combinations(held.values(), 2):
        why = _conflict(one, other) or _conflict(other, one)
        if why:
            found.append(f"{_said(one.name, carried)} and {_said(other.name, carried)}: {why}")
    return found


def _conflict(one: Terms, other: Terms) -> str | None:
    """Why `other` cannot stand in a whole that `one` governs; None: it can, as far as `one` says."""
    if one.own_family_only and other.kind == NAMED and other.name != one.name:
        return f"{one.name} may not be used to improve models of other families"
    if other.name in one.refuses:
        return f"{one.name} allows no further terms, and {other.name} has some of its own"
    if one.kind == SHARE_ALIKE and other.kind != UNMODIFIED:
        return _against_share_alike(one, other)
    return None


def _against_share_alike(one: Terms, other: Terms) -> str | None:
    if other.kind == SHARE_ALIKE:
        one_way = other.name in _reached(one) or one.name in _reached(other)
        return None if one_way else "each wants the whole under itself (share-alike)"
    if other.non_commercial and not one.non_commercial:
        return f"{one.name} is share-alike and lets nobody forbid commerce, as {other.name} does"
    if other.restricts_use:
        return f"{one.name} is share-alike and lets nobody restrict use, as {other.name} does"
    if other.kind == NAMED:
        return f"{one.name} is share-alike, and {other.name} keeps derivatives under its own terms"
    return None


def _reached(terms: Terms) -> set[str]:
    """Every licence that a derivative may carry: its own, or one it may become, in several steps."""
    found, rest = {terms.name}, list(terms.becomes)
    while rest:
        name = rest.pop()
        if name not in found:
            found.add(name)
            rest += TERMS[name].becomes
    return found


def _governing(held: list[Terms]) -> str:
    """The strictest of licences that do not conflict; `other` where no single one says it all."""
    named = [t for t in held if t.kind == NAMED]
    shared = [t for t in held if t.kind == SHARE_ALIKE]
    no_commerce = [t for t in held if t.non_commercial]
    if shared:
        ends = set.intersection(*(_reached(t) for t in shared))
        return next((t.name for t in shared if t.name in ends), OTHER)
    if named:
        whole = len(named) == 1 and all(t in named for t in no_commerce)
        return named[0].name if whole else OTHER
    if no_commerce:
        return no_commerce[0].name if len(no_commerce) == 1 else OTHER
    return _of_permissive(held)


def _of_permissive(held: list[Terms]) -> str:
    """Of several permissive licences the one that asks most; `other` where two ask unlike things."""
    asking = [t.name for t in held if t.keep] or [t.name for t in held if not t.free_of_duties]
    if asking and all(terms.keep for terms in held if terms.name in asking):
        return asking[0] if len(asking) == 1 else OTHER
    return min(asking or [t.name for t in held])


def _duty(terms: Terms, sources: list[str]) -> str | None:
    if terms.free_of_duties:
        return None
    what = terms.keep or "keep the licence's text and the copyright notice"
    if terms.name not in TERMS:
        what = "be read: they are not known here"
        return f"{terms.name} ({_list(sources)}): its terms have to {what}"
    extra = {
        SHARE_ALIKE: "; the merge has to carry the same licence",
        NAMED: "; the merge stays under these terms",
    }.get(terms.kind, "")
    commerce = "; no commercial use" if terms.non_commercial else ""
    return f"{terms.name} ({_list(sources)}): its terms ask to {what}{extra}{commerce}"


def _said(name: str, carried: Mapping[str, list[str]]) -> str:
    return f"{name} ({_list(carried[name])})"


def _list(names: list[str]) -> str:
    return ", ".join(names)


def _of_folder(folder: Path) -> Licence | None:
    return _of_card(folder / "README.md") or _of_text(folder)


def _of_card(card: Path) -> Licence | None:
    """What a model card's front matter says; None: no card, no front matter, no licence there."""
    front = front_matter(card)
    stated = front.get("license")
    if isinstance(stated, list):  # several: the terms of all of them, under no known name
        names = [canonical(str(one)) for one in stated]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        stated = names[0] if len(set(names)) == 1 else "+".join(names)
    name = canonical(str(stated or ""))
    if name == OTHER and front.get("license_name"):
        name = canonical(str(front["license_name"]))
    if name in _SAYS_NOTHING:
        return None
    if name == OTHER:
        return _of_text(card.parent) or Licence(OTHER, card.name)
    return Licence(name, card.name)


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two `---` lines of a model card; empty if there is none to read."""
    import yaml

    try:
        text = card.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
    except OSError:
        return {}
    found = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    try:
        content = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError):
        # the 30th of February, `0x_`: what another key says is no reason to miss the licence
        return dict(_STATED.findall(found[1])) if found else {}
    return content if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _of_text(folder: Path) -> Licence | None:
    """What the opening words of a LICENSE file say it is; None: no such file."""
    files = sorted(p for p in folder.glob("*") if p.is_file() and _FILES.fullmatch(p.name))
    for file in files:
        name = recognise(file.read_text(encoding="utf-8", errors="replace"))
        if name is not None:
            return Licence(name, file.name)
    return Licence(OTHER, files[0].name) if files else None


def recognise(text: str) -> str | None:
    """The name of the licence whose text this is; None: none of those known here.

    The phrase that comes first decides, for a licence may name others further down.
    """
    # without punctuation of layout: "Apache License\n  Version 2.0, January 2004"
    start = " ".join(re.sub(r"[#*=_\"'`]+", " ", text).lower().replace(",\n", " ").split())
    start = start[:_OPENING_CHARACTERS]
    found = [
        (start.find(phrase), -len(phrase), terms.name)
        for terms in TERMS.values()
        for phrase in terms.opening
        if phrase in start
    ]
    if not found:
        return None
    name = min(found)[2]
    if name == "bsd-3-clause" and "neither the name" not in start and "bsd 3" not in start:
        return "bsd-2-clause"
    return name
