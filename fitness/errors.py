"""The one error a user's input can cause here: what was passed, the rule, where, what to do."""

import difflib
from collections.abc import Iterable


class FitnessError(ValueError):
    """The user's tasks, models or objectives are wrong. The command line exits with 2.

    Args:
        passed: what was passed, with its name and value.
        rule: the rule it breaks.
        where: file, key, task or model.
        remedy: what to do next.
    """

    def __init__(self, passed: str, rule: str, where: str, remedy: str) -> None:
        self.passed, self.rule, self.where, self.remedy = passed, rule, where, remedy
        super().__init__(f"{where}: {passed}: {rule}; {remedy}")

    def __reduce__(self) -> tuple[type["FitnessError"], tuple[str, str, str, str]]:
        """Rebuild from the four parts (an error may cross to another process)."""
        return type(self), (self.passed, self.rule, self.where, self.remedy)


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest known one, or the first few there are."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"use one of: {shown}" if names else "there is none to use"


def one_line(error: BaseException) -> str:
    """The type and message of a lower error, on one line and at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= 200 else text[:199] + "…"
