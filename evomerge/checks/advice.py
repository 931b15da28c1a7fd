"""Advice: something that is allowed and most likely not wanted, and what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """A warning.

    Attributes:
        warning: what is so, in a sentence without a full stop.
        remedy: what to do next.
    """

    warning: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.warning}; {self.remedy}"

    def as_json(self) -> dict[str, str]:
        """As `check --json` has it."""
        return {"warning": self.warning, "remedy": self.remedy}
