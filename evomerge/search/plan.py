"""What a phase of searching does, and the clock that may end it."""

import math
import time
from dataclasses import dataclass
from typing import Literal

from evomerge.evaluation import Evaluation
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.goals import Goals
from evomerge.search.searcher import Searcher
from evomerge.search.view import View
from search_spaces.space import SearchSpace, from_unit
from search_spaces.variables import Genome

_WRITE_SECONDS = 5.0
"""Between two records of the time spent: what a crash may give back."""

Schedule = Literal["asynchronous", "generational"]


@dataclass(frozen=True)
class Plan:
    """What one phase of searching does.

    Attributes:
        phase: `search`, or `random` for the baseline.
        algorithm: a name in `ALGORITHMS`.
        population: candidates per generation; None: the algorithm's default.
        seed: of the searcher.
        evaluations: how many candidates are asked at most.
        hours: of searching, earlier sessions included; None: no limit.
        seeded: begin with the space's known good starting points.
        schedule: `asynchronous` (no evaluator waits for another), or `generational` (what is asked
            does not depend on which evaluator was faster).
    """

    phase: str
    algorithm: str
    population: int | None
    seed: int
    evaluations: int
    hours: float | None = None
    seeded: bool = True
    schedule: Schedule = "asynchronous"


class Clock:
    """The `hours` budget: counts searching time over all sessions, replays not included.

    Time is not reproducible, so the moment it ran out is written down and replayed.

    Args:
        database: holds the time spent.
        plan: the phase and its hours.
        recorded: candidates of the phase that earlier sessions recorded.
    """

    def __init__(self, database: Database, plan: Plan, recorded: int) -> None:
        self._database = database
        self._hours = plan.hours
        self._recorded = recorded
        self._key = f"hours_over_{plan.phase}"
        self._spent_key = f"hours_spent_{plan.phase}"
        self._before: float = database.meta(self._spent_key, 0.0) if plan.hours else 0.0
        self._written = -math.inf
        self._began = None if recorded else time.monotonic()  # a replay does not count

    def over(self, asked: int) -> bool:
        """Whether to stop before asking more than the `asked` candidates so far."""
        if self._hours is None or asked == 0:
            return False
        ended = self._database.meta(self._key)
        if ended is not None and ended["hours"] == self._hours:
            return asked >= ended["asked"]
        if asked < self._recorded:
            return False  # paid for already
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        spent = self._before + (now - self._began) / 3600
        if spent < self._hours:
            if now - self._written >= _WRITE_SECONDS:
                self._database.set_meta(self._spent_key, spent)
                self._written = now
            return False
        self._database.set_meta(self._spent_key, spent)
        self._database.set_meta(self._key, {"hours": self._hours, "asked": asked})
        return True


@dataclass(frozen=True)
class Phase:
    """A plan under way, and all that takes part.

    Attributes:
        plan: what to do.
        searcher: proposes points and learns from losses.
        space: decodes genomes.
        goals: what is optimised.
        ledger: evaluates and records.
        clock: may end it before the budget does.
        view: shows what is going on.
        single: the searcher is told one loss, the weighted mean of the objectives.
    """

    plan: Plan
    searcher: Searcher
    space: SearchSpace
    goals: Goals
    ledger: Ledger
    clock: Clock
    view: View
    single: bool

    def ask(self) -> Genome:
        """The searcher's next point as a genome."""
        return from_unit(self.space, self.searcher.ask())

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Tell the searcher what the candidate asked as the `number`-th (from 0) came to."""
        losses = self.goals.losses([evaluation], single=self.single)[0]
        self.searcher.tell(number, losses, self.goals.violations([evaluation])[0])
