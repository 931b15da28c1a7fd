"""Licences that models on the Hugging Face Hub carry, declared once: what each asks of a merge.

Plain data, read by `evomerge.licences`. A help for people, no legal advice: the terms themselves
decide. Adding a licence is one line in `TERMS` (and its text's opening words, if it has a text).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Terms:
    """What a licence asks of whoever hands on a model made from one that carries it.

    Attributes:
        name: as the Hub spells it (`license`, or `license_name` beside `license: other`).
        kind: `permissive`; `share_alike`: a derivative must carry the same licence and no further
            restriction; `named`: a derivative stays under these terms; `unmodified`: no derivative
            may be handed on.
        non_commercial: no commercial use.
        restricts_use: forbids fields of use, or has a policy of acceptable use.
        own_family_only: may not be used to improve models of other families.
        keep: what has to be kept or shown, as a clause that follows "its terms ask to"; None: only
            the licence's text and the copyright notice.
        becomes: licences that its own text lets a derivative carry instead (their names).
        refuses: permissive licences that cannot be combined with it.
        opening: phrases, lower case, one of which opens its text.
    """

    name: str
    kind: str = "permissive"
    non_commercial: bool = False
    restricts_use: bool = False
    own_family_only: bool = False
    keep: str | None = None
    becomes: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    opening: tuple[str, ...] = ()

    @property
    def free_of_duties(self) -> bool:
        """Whether nothing at all is asked (a dedication to the public domain)."""
        return self.keep == ""


PERMISSIVE, SHARE_ALIKE, NAMED, UNMODIFIED = "permissive", "share_alike", "named", "unmodified"
KINDS = (PERMISSIVE, SHARE_ALIKE, NAMED, UNMODIFIED)

_NOTHING = ""
_CREDIT = "credit the authors, link the licence and say that the model was changed"


def _llama(version: str, *, named_in_front: bool, own_family_only: bool) -> Terms:
    """Meta's community licences: https://www.llama.com/llama-downloads (section 1.b of each)."""
    front = "begin the model's name with 'Llama', " if named_in_front else ""
    shown = f"{front}show 'Built with Llama', " if named_in_front else ""
    if version == "3":
        shown = "begin the model's name with 'Llama 3', show 'Built with Meta Llama 3', "
    return Terms(
        f"llama{version}",
        NAMED,
        restricts_use=True,
        own_family_only=own_family_only,
        keep=f"{shown}pass on the agreement and its notice, and keep to its acceptable use policy "
        "(services above 700 million monthly users need a licence of their own)",
        opening=(f"llama {version} community license agreement",),
    )


def _open_rail(name: str, *opening: str) -> Terms:
    """Responsible AI licences: the use restrictions (Attachment A) go with every derivative."""
    return Terms(
        name,
        NAMED,
        restricts_use=True,
        keep="pass on its use restrictions (Attachment A) in your own licence",
        opening=opening,
    )


def _creative_commons(kind: str, version: str) -> Terms:
    """`by`, `by-sa`, `by-nc`, `by-nc-sa`, `by-nd`, `by-nc-nd`: https://creativecommons.org/licenses"""
    words = {"by": "attribution", "nc": "noncommercial", "sa": "sharealike", "nd": "noderivatives"}
    parts = kind.split("-")
    spelt = "-".join(words[part] for part in parts)
    shared, fixed = "sa" in parts, "nd" in parts
    newer = (f"cc-{kind}-4.0",) if shared and version != "4.0" else ()
    return Terms(
        f"cc-{kind}-{version}",
        UNMODIFIED if fixed else SHARE_ALIKE if shared else PERMISSIVE,
        non_commercial="nc" in parts,
        keep=_CREDIT,
        # Creative Commons declared GPL-3.0 compatible with BY-SA 4.0, one way, in 2015.
        becomes=("gpl-3.0",) if (kind, version) == ("by-sa", "4.0") else newer,
        opening=(f"{spelt} {version} international", f"{spelt} {version} unported"),
    )


_GNU = "pass on the licence's text and keep every derivative under it, with nothing added"

_OWN_TERMS = "pass on the agreement's text and its notices"

_TABLE: tuple[Terms, ...] = (
    Terms(
        "apache-2.0",
        keep="keep the licence's text, the notices of its NOTICE file, and say what was changed",
        opening=("apache license version 2.0",),
    ),
    Terms(
        "mit",
        opening=("permission is hereby granted, free of charge, to any person", "mit license"),
    ),
    Terms("modified-mit", NAMED, keep=_OWN_TERMS, opening=("modified mit license",)),
    Terms("isc", opening=("isc license", "permission to use, copy, modify, and/or distribute")),
    Terms("bsd"),
    Terms("bsd-2-clause", opening=("bsd 2-clause license",)),
    Terms("bsd-3-clause", opening=("bsd 3-clause license", "redistribution and use in source")),
    Terms("bsd-3-clause-clear", opening=("the clear bsd license",)),
    Terms("bsl-1.0", opening=("boost software license",)),
    Terms("zlib", opening=("zlib license",)),
    Terms("ncsa"),
    Terms("afl-3.0", opening=("academic free license",)),
    Terms("artistic-2.0", opening=("the artistic license 2.0",)),
    Terms("ms-pl", opening=("microsoft public license",)),
    Terms("openmdw-1.0", opening=("openmdw license agreement",)),
    Terms("cdla-permissive-1.0"),
    Terms("cdla-permissive-2.0", opening=("community data license agreement permissive",)),
    Terms("odc-by"),
    Terms("pddl", keep=_NOTHING),
    Terms(
        "cc0-1.0", keep=_NOTHING, opening=("cc0 1.0 universal", "creative commons legal code cc0")
    ),
    Terms("unlicense", keep=_NOTHING, opening=("this is free and unencumbered software",)),
    Terms("wtfpl", keep=_NOTHING, opening=("do what the fuck you want",)),
    *(
        _creative_commons(kind, version)
        for version in ("2.0", "2.5", "3.0", "4.0")
        for kind in ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd")
    ),
    Terms(
        "gpl-2.0",
        SHARE_ALIKE,
        keep=_GNU,
        refuses=("apache-2.0",),
        becomes=(),
        opening=("gnu general public license version 2",),
    ),
    Terms(
        "gpl-3.0",
        SHARE_ALIKE,
        keep=_GNU,
        becomes=("agpl-3.0",),
        opening=("gnu general public license version 3",),
    ),
    Terms("agpl-3.0", SHARE_ALIKE, keep=_GNU, opening=("gnu affero general public license",)),
    Terms(
        "lgpl-3.0",
        SHARE_ALIKE,
        keep=_GNU,
        becomes=("gpl-3.0", "agpl-3.0"),
        opening=("gnu lesser general public license version 3",),
    ),
    Terms(
        "lgpl-2.1",
        SHARE_ALIKE,
        keep=_GNU,
        becomes=("gpl-2.0", "gpl-3.0"),
        opening=("gnu lesser general public license version 2.1",),
    ),
    Terms(
        "mpl-2.0",
        SHARE_ALIKE,
        keep=_GNU,
        becomes=("lgpl-3.0", "gpl-3.0", "agpl-3.0"),
        opening=("mozilla public license",),
    ),
    Terms("epl-2.0", SHARE_ALIKE, keep=_GNU, opening=("eclipse public license",)),
    Terms("eupl-1.2", SHARE_ALIKE, keep=_GNU, becomes=("gpl-3.0", "agpl-3.0")),
    Terms("osl-3.0", SHARE_ALIKE, keep=_GNU, opening=("open software license",)),
    Terms("odbl", SHARE_ALIKE, keep=_GNU),
    _llama("2", named_in_front=False, own_family_only=True),
    _llama("3", named_in_front=True, own_family_only=True),
    _llama("3.1", named_in_front=True, own_family_only=False),
    _llama("3.2", named_in_front=True, own_family_only=False),
    _llama("3.3", named_in_front=True, own_family_only=False),
    _llama("4", named_in_front=True, own_family_only=False),
    Terms(
        "gemma",
        NAMED,
        restricts_use=True,
        keep="pass on the Gemma Terms of Use with their use restrictions, add their notice and mark "
        "changed files as changed",
        opening=("gemma terms of use",),
    ),
    Terms(
        "qwen",
        NAMED,
        keep="show 'Built with Qwen' or 'Improved using Qwen', pass on the agreement and mark "
        "changed files (above 100 million monthly users: ask for a licence)",
        opening=("qwen license agreement",),
    ),
    Terms(
        "tongyi-qianwen",
        NAMED,
        keep="pass on the agreement and its notice, mark changed files (above 100 million monthly "
        "users: ask for a licence)",
        opening=("tongyi qianwen license agreement",),
    ),
    Terms(
        "qwen-research",
        NAMED,
        non_commercial=True,
        keep="show 'Built with Qwen' or 'Improved using Qwen' and pass on the agreement",
        opening=("qwen research license agreement",),
    ),
    Terms(
        "tongyi-qianwen-research",
        NAMED,
        non_commercial=True,
        keep=_OWN_TERMS,
        opening=("tongyi qianwen research license agreement",),
    ),
    Terms(
        "deepseek",
        NAMED,
        restricts_use=True,
        keep="pass on the agreement with its use restrictions (Attachment A)",
        opening=("deepseek license agreement",),
    ),
    Terms(
        "mrl",
        NAMED,
        non_commercial=True,
        keep=_OWN_TERMS,
        opening=("mistral ai research license", "mistral research license"),
    ),
    Terms(
        "mnpl",
        NAMED,
        non_commercial=True,
        keep=_OWN_TERMS,
        opening=("mistral ai non-production license",),
    ),
    _open_rail("openrail"),
    _open_rail("openrail++", "creativeml open rail++-m license"),
    _open_rail("creativeml-openrail-m", "creativeml open rail-m"),
    _open_rail("bigscience-openrail-m", "bigscience openrail-m"),
    _open_rail("bigscience-bloom-rail-1.0", "bigscience rail license v1.0"),
    _open_rail("bigcode-openrail-m", "bigcode open rail-m v1", "bigcode openrail-m"),
    Terms(
        "falcon-llm-license",
        NAMED,
        restricts_use=True,
        keep=_OWN_TERMS,
        opening=("falcon llm license",),
    ),
    Terms(
        "yi-license",
        NAMED,
        restricts_use=True,
        keep=_OWN_TERMS,
        opening=("yi series models license",),
    ),
    Terms(
        "nvidia-open-model-license",
        NAMED,
        restricts_use=True,
        keep=_OWN_TERMS,
        opening=("nvidia open model license",),
    ),
    Terms(
        "exaone", NAMED, non_commercial=True, keep=_OWN_TERMS, opening=("exaone ai model license",)
    ),
    Terms(
        "apple-amlr",
        NAMED,
        non_commercial=True,
        keep=_OWN_TERMS,
        opening=("apple machine learning research",),
    ),
    Terms(
        "fair-noncommercial-research-license",
        NAMED,
        non_commercial=True,
        keep=_OWN_TERMS,
        opening=("fair noncommercial research license",),
    ),
    Terms("intel-research", NAMED, non_commercial=True, keep=_OWN_TERMS),
)

TERMS: Mapping[str, Terms] = {terms.name: terms for terms in _TABLE}
"""Every licence known here, by name."""

ALIASES: Mapping[str, str] = {
    "apache": "apache-2.0",
    "apache-license-2.0": "apache-2.0",
    "apache2": "apache-2.0",
    "apache2.0": "apache-2.0",
    "mit-license": "mit",
    "cc0": "cc0-1.0",
    "gpl": "gpl-3.0",
    "agpl": "agpl-3.0",
    "lgpl": "lgpl-3.0",
    "gplv3": "gpl-3.0",
    "llama-2": "llama2",
    "llama2-community": "llama2",
    "llama-3": "llama3",
    "llama3-community": "llama3",
    "llama-3.1": "llama3.1",
    "llama-3.2": "llama3.2",
    "llama-3.3": "llama3.3",
    "llama-4": "llama4",
    "qwen-license": "qwen",
    "tongyi-qianwen-license": "tongyi-qianwen",
    "tongyi": "tongyi-qianwen",
    "qwen-research-license": "qwen-research",
    "deepseek-license": "deepseek",
    "mistral-ai-research-license": "mrl",
    "mistral-research-license": "mrl",
    "mistral-ai-research-licence": "mrl",
    "mistral-ai-non-production-license": "mnpl",
    "openrail-m": "openrail",
    "nvidia-open-model": "nvidia-open-model-license",
}
"""Other spellings that cards carry -> the name in `TERMS`."""


def terms_of(name: str) -> Terms | None:
    """What is known of a licence, by any of its spellings; None: nothing."""
    return TERMS.get(canonical(name))


def canonical(name: str) -> str:
    """A licence's name as `TERMS` spells it; an unknown one in lower case, with hyphens."""
    plain = "-".join(name.strip().lower().replace("_", "-").split())
    return ALIASES.get(plain, plain)


def under(name: str, kind: str) -> Terms:
    """Terms that nobody described here: as `kind`, nothing else known."""
    return replace(Terms(name), kind=kind)


HUB = frozenset(TERMS) - {
    *("modified-mit", "qwen", "qwen-research", "tongyi-qianwen", "tongyi-qianwen-research"),
    *("deepseek", "mrl", "mnpl", "falcon-llm-license", "yi-license", "exaone"),
    *("nvidia-open-model-license", "cc-by-sa-2.0", "cc-by-sa-2.5", "cc-by-nc-2.5"),
    *("cc-by-nc-sa-2.5", "cc-by-nd-2.0", "cc-by-nd-2.5", "cc-by-nd-3.0"),
    *("cc-by-nc-nd-2.0", "cc-by-nc-nd-2.5"),
}
"""Names in the Hub's own list (https://huggingface.co/docs/hub/repositories-licenses, 2026); a card says
`license: other` for the rest."""
