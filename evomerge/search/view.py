"""The view: who is told what a search does while it runs."""

from typing import Protocol

from evomerge.evaluation import Evaluation
from evomerge.search.standing import Standing


class View(Protocol):
    """Told what happens; shows it however it likes."""

    def begin(self, phase: str, total: int) -> None:
        """A phase of at most `total` evaluations begins."""
        ...

    def finished(self, evaluation: Evaluation, paid: bool) -> None:
        """An evaluation is known; `paid`: it was made just now, not found in run.db."""
        ...

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        """A generation of a searching phase is complete, `asked` candidates in all."""
        ...

    def say(self, text: str) -> None:
        """A sentence for the user."""
        ...

    def close(self) -> None:
        """Nothing more will happen."""
        ...


class SilentView:
    """Shows nothing."""

    def begin(self, phase: str, total: int) -> None:
        """Nothing."""

    def finished(self, evaluation: Evaluation, paid: bool) -> None:
        """Nothing."""

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
