"""The tally: what the view knows of a session, in numbers. Costs microseconds per candidate."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.cluster.jobs import Executor
from evomerge.evaluation import Evaluation
from evomerge.legs import SEARCHING
from evomerge.live.night import Itinerary, seconds_of
from evomerge.search.standing import Standing
from evomerge.search.view import Leg

WINDOW_SECONDS = 600.0
"""What "now" means in a rate: the last ten minutes."""

_SHOWN = 8
"""Members of the front that are shown."""

_LOOK_SECONDS = 1.0
"""How often the front is looked at between generations."""


@dataclass(frozen=True)
class Shown:
    """A candidate on the front, as the view shows it.

    Attributes:
        id: order of ask.
        recipe: the first characters of its hash.
        values, errors: per objective, in its own units.
    """

    id: int
    recipe: str
    values: tuple[float, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Front:
    """The front at one moment.

    Attributes:
        names, directions: of the objectives.
        best: per objective the member that is best in it; none while nothing is feasible.
        top: the members with the highest mean gain, in units of the front's extent.
        members: how many there are.
    """

    names: tuple[str, ...]
    directions: tuple[str, ...]
    best: tuple[Shown, ...]
    top: tuple[Shown, ...]
    members: int


class Pace:
    """How fast things finish: over the last ten minutes, waits before the first not included.

    Asked by the thread that draws while another one counts.

    Args:
        clock: seconds, monotonic.
        starting: so many come first from evaluators that are only starting (an engine is built,
            kernels are compiled) and tell no rate: it counts from the last of them on.
    """

    def __init__(self, clock: Callable[[], float], starting: int = 0) -> None:
        self._clock = clock
        self._starting = starting
        self._lock = threading.Lock()
        self._ends: deque[tuple[float, int]] = deque()
        self._answers = 0
        self._began: float | None = None

    def finished(self, seconds: float, answers: int) -> None:
        """One is finished that took so long, and so many answers."""
        now = self._clock()
        with self._lock:
            if self._starting:
                self._starting -= 1
                self._began = now
                return
            self._began = now - seconds if self._began is None else self._began
            self._ends.append((now, answers))
            self._answers += answers

    def _recent(self) -> tuple[int, int, float]:
        """Evaluations and answers of the last ten minutes, and the seconds they took."""
        now = self._clock()
        with self._lock:
            while self._ends and self._ends[0][0] < now - WINDOW_SECONDS:
                self._answers -= self._ends.popleft()[1]
            began = now if self._began is None else self._began
            seconds = max(min(now - began, WINDOW_SECONDS), 1e-3)
            return len(self._ends), self._answers, seconds

    def per_hour(self) -> float:
        """Evaluations an hour; 0: not known."""
        count, _, seconds = self._recent()
        return 3600 * count / seconds

    def seconds_per_answer(self) -> float:
        """Of all evaluators together; 0: not known."""
        _, answers, seconds = self._recent()
        return seconds / answers if answers else 0.0

    def answers_each(self) -> float:
        """Answers of an evaluation on average; 0: not known."""
        count, answers, _ = self._recent()
        return answers / count if count else 0.0


class Tally:
    """Counts what `View` is told.

    Args:
        clock: seconds, monotonic.

    Attributes:
        phase, total, done: the phase, its evaluations at most, and those known by now.
        known: of `done`, those that were not paid for now: on record, or of a recipe seen before.
        failures: by outcome, in this phase.
        reason: of the last failure.
        front: at the last look; None: this phase has none.
        generation: the last one that was told of.
        volume, volume_error: hypervolume at that generation.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._executor: Executor | None = None
        self._itinerary = Itinerary([])
        self._hours: dict[str, float] = {}
        self._paid = 0
        self._looked = 0.0
        self._answers_each = self._per_answer = 0.0
        self.begin("", 0)

    def night(self, legs: Sequence[Leg], executor: Executor) -> None:
        """What is to be done, and who does it."""
        self._itinerary, self._executor = Itinerary(legs), executor
        self._hours = {leg.phase: leg.hours - leg.spent for leg in legs if leg.hours is not None}

    def begin(self, phase: str, total: int) -> None:
        """A phase begins; the one before may have ended early."""
        if self.total and self.phase in SEARCHING:
            self._itinerary.ended_early(self.phase, self.done)
        self._itinerary.begin(phase, total)
        self.phase, self.total, self.done, self.known = phase, total, 0, 0
        self.failures: Counter[str] = Counter()
        self.reason = ""
        self.front: Front | None = None
        self.generation = -1
        self.volume = self.volume_error = 0.0
        self.phase_began = self._clock()
        workers = 1 if self._executor is None else self._executor.workers
        self.pace = Pace(self._clock, max(0, workers - self._paid))

    phase, total, done = "", 0, 0

    def finished(self, evaluation: Evaluation, paid: bool) -> None:
        """An evaluation is known."""
        self.done += 1
        self.known += not paid
        if paid:
            seconds = evaluation.merge_seconds + evaluation.score_seconds
            self._paid += 1
            self.pace.finished(seconds, evaluation.answers)
        if not evaluation.scored:
            self.failures[evaluation.outcome.value] += 1
            self.reason = evaluation.reason

    def told(self, standing: Standing) -> None:
        """A candidate was told: look at the front, but not all the time, nor where that is dear."""
        if standing.racing or self._clock() - self._looked < _LOOK_SECONDS:
            return
        self._look(standing)

    def generation_told(self, number: int, standing: Standing) -> None:
        """A generation was."""
        self._look(standing)
        self.generation = number
        self.volume, self.volume_error = standing.hypervolume(), standing.hypervolume_error()

    def _look(self, standing: Standing) -> None:
        self.front, self._looked = front_of(standing), self._clock()

    def workers(self) -> tuple[int, int] | None:
        """How many evaluators are busy, and how many there are; None: not known."""
        if self._executor is None:
            return None
        return self._executor.busy, self._executor.workers

    def elapsed(self) -> float:
        """Seconds of this session."""
        return self._clock() - self._began

    def phase_seconds_left(self) -> float | None:
        """Of the phase under way, by its own rate; None: not known yet."""
        rate, left = self.pace.per_hour(), max(0, self.total - self.done)
        if not left:
            return 0.0
        if not rate:
            return None
        seconds = 3600 * left / rate
        if self.phase in self._hours:
            spent = self._clock() - self.phase_began
            seconds = min(seconds, max(0.0, 3600 * self._hours[self.phase] - spent))
        return seconds

    def night_seconds_left(self) -> float | None:
        """Of the whole night; None: not known yet, or there is nothing to go by."""
        phase = self.phase_seconds_left()
        asked = None
        if phase is not None and self.phase in SEARCHING:
            asked = min(self.total, self.done + round(phase * self.pace.per_hour() / 3600))
        later = self._itinerary.later(asked)
        per_answer = self.pace.seconds_per_answer() or self._per_answer
        if phase is None or (later and not per_answer):
            return None
        self._per_answer = per_answer
        if self.phase in SEARCHING:
            self._answers_each = self.pace.answers_each() or self._answers_each
        answers = {"search": self._answers_each} if self._answers_each else {}
        return phase + seconds_of(later, per_answer, answers)


def front_of(standing: Standing) -> Front:
    """The front as the view shows it."""
    goals = standing.goals
    shown = []
    for member in standing.archive.front():
        candidate = standing.candidate(member.key)
        values, errors = tuple(member.values), tuple(member.errors)
        shown.append(Shown(candidate.id, member.key[:10], values, errors))
    signs = np.array([1 if way == "maximize" else -1 for way in goals.directions])
    best: list[Shown] = []
    if shown:
        gains = np.array([one.values for one in shown]) * signs
        best = [shown[row] for row in gains.argmax(axis=0)]
        extent = np.ptp(gains, axis=0)
        merit = (gains / np.where(extent > 0, extent, 1.0)) @ np.array(goals.weights)
        shown = [shown[row] for row in np.argsort(-merit, kind="stable")]
    return Front(goals.names, goals.directions, tuple(best), tuple(shown[:_SHOWN]), len(shown))
