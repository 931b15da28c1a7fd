"""The view: who is told what a search does while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evomerge.cluster.jobs import Executor
from evomerge.evaluation import Evaluation
from evomerge.search.standing import Standing


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of the night, as far as it can be told before.

    Attributes:
        phase: what `View.begin` is going to call it.
        evaluations: at most.
        items: that each of them answers, on average.
        hours: that searching may take; None: no limit.
        spent: hours that it took in earlier sessions.
    """

    phase: str
    evaluations: int
    items: float
    hours: float | None = None
    spent: float = 0.0


class View(Protocol):
    """Told what happens; shows it however it likes."""

    def night(self, legs: Sequence[Leg], executor: Executor) -> None:
        """Evaluators are at hand, which can be asked how many are busy, and this is to be done."""
        ...

    def begin(self, phase: str, total: int) -> None:
        """A phase of at most `total` evaluations begins."""
        ...

    def finished(self, evaluation: Evaluation, paid: bool) -> None:
        """An evaluation is known; `paid`: it was made just now, not found in run.db."""
        ...

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        """A generation of a searching phase is complete, `asked` candidates in all."""
        ...

    def told(self, standing: Standing) -> None:
        """The searcher was told of another candidate, where no generation is waited for."""
        ...

    def say(self, text: str) -> None:
        """A sentence for the user."""
        ...

    def close(self) -> None:
        """Nothing more will happen."""
        ...


class SilentView:
    """Shows nothing."""

    def night(self, legs: Sequence[Leg], executor: Executor) -> None:
        """Nothing."""

    def begin(self, phase: str, total: int) -> None:
        """Nothing."""

    def finished(self, evaluation: Evaluation, paid: bool) -> None:
        """Nothing."""

    def generation(self, phase: str, number: int, asked: int, standing: Standing) -> None:
        """Nothing."""

    def told(self, standing: Standing) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
