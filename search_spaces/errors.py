"""The one error a user's input can cause: what was passed, the rule, where, what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input is wrong. The command line prints it on one line and exits with 2.

    Args:
        passed: what was passed, with its name and value.
        rule: the rule it breaks.
        where: file, key, model or tensor.
        remedy: what to do next.
    """

    def __init__(self, passed: str, rule: str, where: str, remedy: str) -> None:
        self.passed, self.rule, self.where, self.remedy = passed, rule, where, remedy
        super().__init__(f"{where}: {passed}: {rule}; {remedy}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str, str]]:
        """Rebuild from the four parts (an error may cross to another process)."""
        return type(self), (self.passed, self.rule, self.where, self.remedy)


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy sentence for a misspelt name: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"use one of: {', '.join(names)}"
