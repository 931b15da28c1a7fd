"""The parents' licences, and what they say of the merge."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evomerge.checks.advice import Advice
from evomerge.licences import Licence, Verdict, judge_licences, licences_of

if TYPE_CHECKING:
    from evomerge.merge.locations import Location


@dataclass(frozen=True, slots=True)
class Licences:
    """What the sources say, and what follows.

    Attributes:
        of: source (an adapter apart, as `NAME (lora)`) -> its licence; None: none was found.
        verdict: on a merge of them all.
    """

    of: Mapping[str, Licence | None]
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """As `check --json` has it."""
        of = {name: asdict(found) if found else None for name, found in self.of.items()}
        return {"of": of, "merge": asdict(self.verdict)}


def find_licences(folders: Mapping[str, "Location"]) -> Licences:
    """Read every source's licence, and judge them together."""
    found = licences_of(folders)
    return Licences(found, judge_licences(found))


def advise_on_licences(found: Licences) -> list[Advice]:
    """Conflicts, and sources without a licence beside others that have one.

    Where no source has one (models of one's own, most likely) that is a fact and no warning.
    """
    advice = [
        Advice(
            f"licences: {conflict}",
            "leave one of them out, or keep the merge to yourself (`export --push` refuses it)",
        )
        for conflict in found.verdict.conflicts
    ]
    unknown = found.verdict.unknown
    if unknown and len(unknown) < len(found.of):
        names = ", ".join(f"'{name}'" for name in unknown)
        advice.append(
            Advice(
                f"no licence is known of {names}, so none is of the merge",
                "read their model cards before you hand the merge on",
            )
        )
    return advice
