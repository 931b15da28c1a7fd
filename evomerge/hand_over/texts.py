"""The parents' licence texts and notices, which most licences want to travel with the merge."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.licence_table import canonical
from evomerge.licences import Licence, Verdict, lora_of

if TYPE_CHECKING:
    from evomerge.merge.locations import Location

FOLDER = "LICENSES"
_TEXT = re.compile(r"(licen[sc]e|notice|copying|use_policy|unlicense)([._-].*)?", re.IGNORECASE)
_LARGEST = 2**20
"""Bytes; a larger file is no licence."""


def copy_texts(
    places: "Mapping[str, Location]",
    licences: Mapping[str, Licence | None],
    verdict: Verdict,
    folder: Path,
) -> None:
    """Copy each source's texts into `LICENSES/SOURCE/`, and the governing one to `LICENSE`.

    Args:
        places: of the sources that went in.
        licences: as `licences_of` gives them.
        verdict: on them.
        folder: of the merge.
    """
    for name, place in places.items():
        for title, origin in zip((name, lora_of(name)), place.folders, strict=False):
            texts = sorted(p for p in origin.iterdir() if p.is_file() and _TEXT.fullmatch(p.name))
            texts = [p for p in texts if p.stat().st_size <= _LARGEST]
            there = folder / FOLDER / title.replace(" ", "-").replace("(", "").replace(")", "")
            for text in texts:
                there.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(text, there / text.name)
            own = licences.get(title)
            governs = own is not None and canonical(own.name) == verdict.licence
            licence = next(
                (p for p in texts if not p.name.lower().startswith(("notice", "use_p"))), None
            )
            if governs and licence and not (folder / "LICENSE").exists():
                shutil.copyfile(licence, folder / "LICENSE")
