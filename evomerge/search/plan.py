"""What a phase of searching does, and the clock that may end it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evomerge.evaluation import Evaluation
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals
from evomerge.search.race import Race
from evomerge.search.searcher import Searcher
from evomerge.search.standing import Standing
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
        answers: items answered, at most (the last generation may pass it); None: no limit.
        tokens: generated in those answers, likewise.
        patience: candidates without a gain of the front that exceeds its error; None: no limit.
        seeded: begin with the space's known good starting points.
        schedule: `asynchronous` (no evaluator waits for another), or `generational` (what is asked
            does not depend on which evaluator was faster).
        known: genomes of another run to begin with, the best first, where it is seeded.
    """

    phase: str
    algorithm: str
    population: int | None
    seed: int
    evaluations: int
    hours: float | None = None
    answers: int | None = None
    patience: int | None = None
    seeded: bool = True
    schedule: Schedule = "asynchronous"
    tokens: int | None = None
    known: tuple[Genome, ...] = ()


class Clock:
    """Ends a phase before its budget of candidates does: by hours, answers, tokens, or patience.

    Hours count searching time over all sessions, replays not included. Neither time nor, where no
    evaluator waits for another, the order of results is reproducible, so the moment at which a phase
    ended is written down and replayed, for as long as its limits stay what they were.

    Args:
        database: holds the time spent.
        plan: the phase and its limits.
        recorded: candidates of the phase that earlier sessions recorded.
    """

    def __init__(self, database: Database, plan: Plan, recorded: int) -> None:
        self._database = database
        self._plan = plan
        self._recorded = recorded
        self._limits = [plan.hours, plan.answers, plan.patience]
        if plan.tokens is not None:
            self._limits.append(plan.tokens)
        self._key = f"over_{plan.phase}"
        self._spent_key = hours_key(plan.phase)
        self._before: float = database.meta(self._spent_key, 0.0)
        self._reason = "evaluations"
        self._written = -math.inf
        self._began = None if recorded else time.monotonic()  # a replay does not count
        self._gained = (0, -math.inf)

    def over(self, asked: int, standing: Standing) -> bool:
        """Whether to stop before asking more than the `asked` candidates so far."""
        if asked == 0:
            return False
        ended = None if self._limits == [None] * 3 else self._database.meta(self._key)
        if ended is not None and ended["limits"] == self._limits:
            self._reason = ended["reason"]
            return asked >= ended["asked"]
        if asked < self._recorded:
            return False  # paid for already
        reason = self._reached(asked, standing)
        if reason:
            ended = {"limits": self._limits, "asked": asked, "reason": reason}
            self._database.set_meta(self._key, ended)
            self._reason = reason
        return bool(reason)

    def _reached(self, asked: int, standing: Standing) -> str:
        """The limit that is reached; empty: none."""
        plan, hours = self._plan, self._hours()
        reached = {
            "answers": _least(plan.answers) <= standing.answers + standing.again,
            "tokens": _least(plan.tokens) <= standing.tokens,
            "patience": _least(plan.patience) <= asked - self._gained[0],
            "hours": _least(plan.hours) <= hours,
        }
        return next((name for name, so in reached.items() if so), "")

    def pause(self) -> None:
        """The session ends: write down the time spent."""
        if self._began is not None:
            self._hours(last=True)

    def close(self, asked: int) -> None:
        """The phase has ended with `asked` candidates: write down which limit ended it."""
        self.pause()
        ended = {"asked": asked, "reason": self._reason}
        if self._database.meta(ended_key(self._plan.phase)) != ended:
            self._database.set_meta(ended_key(self._plan.phase), ended)

    def generation(self, asked: int, standing: Standing) -> None:
        """A generation is told: note whether the front has gained more than its error."""
        if self._plan.patience is None:
            return
        volume = standing.hypervolume()
        if volume > self._gained[1] + standing.hypervolume_error():
            self._gained = asked, volume

    def _hours(self, *, last: bool = False) -> float:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        spent = self._before + (now - self._began) / 3600
        over = last or spent >= _least(self._plan.hours)
        if over or now - self._written >= _WRITE_SECONDS:
            self._database.set_meta(self._spent_key, spent)
            self._written = now
        return spent


def hours_key(phase: str) -> str:
    """The fact in run.db: hours spent searching in a phase."""
    return f"hours_spent_{phase}"


def ended_key(phase: str) -> str:
    """The fact in run.db: with how many candidates a phase ended, and by which limit."""
    return f"ended_{phase}"


def _least(limit: float | None) -> float:
    return math.inf if limit is None else limit


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
        race: how much each candidate is asked.
        single: the searcher is told one loss, the weighted mean of the objectives.
    """

    plan: Plan
    searcher: Searcher
    space: SearchSpace
    goals: Goals
    ledger: Ledger
    clock: Clock
    view: View
    race: Race
    single: bool

    def ask(self) -> Genome:
        """The searcher's next point as a genome."""
        return from_unit(self.space, self.searcher.ask())

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Tell the searcher what the candidate asked as the `number`-th (from 0) came to."""
        losses = self.goals.losses([evaluation], single=self.single)[0]
        self.searcher.tell(number, losses, self.goals.violations([evaluation])[0])

    def latest(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates by all that they answered, where the searcher was told the first of it."""
        return [replace(c, evaluation=self.ledger.latest(c.recipe_hash)) for c in candidates]
