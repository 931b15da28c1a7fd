"""Jobs, the protocol of those who run them, and the rule by which they are tried again."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from evomerge.asking import EVERYTHING, Asking
from evomerge.evaluation import Evaluation, Evaluator, Outcome
from fitness.errors import FitnessError
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe

logger = logging.getLogger(__name__)

MakeEvaluator = Callable[[], Evaluator]
"""Builds an evaluator where it is going to work. Crosses processes: a module-level function, or a
frozen dataclass with `__call__`."""

USER_ERRORS = (InputError, FitnessError)
"""What a user has to mend: raised to the driver, where anything else is retried."""

TRIES: Mapping[Outcome, int] = {
    Outcome.SCORED: 1,
    Outcome.INVALID_RECIPE: 1,
    Outcome.CANCELLED: 1,
    # A merge is arithmetic: the same files give the same NaN. Once more, elsewhere, tells that from
    # a bad disk; a third try would tell nothing new.
    Outcome.MERGE_FAILED: 2,
    Outcome.SCORING_FAILED: 3,
    Outcome.OUT_OF_MEMORY: 3,
    Outcome.TIMED_OUT: 3,
    Outcome.WORKER_LOST: 3,
}
"""How often a job is tried, at most, before such an outcome is recorded."""

NODE_LOSSES = 10
"""How many machines may leave from under a job before that costs it a try: it is not the candidate's
doing, unless it happens every time."""


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe to be judged.

    Attributes:
        number: the driver's own number for it, given back with the evaluation.
        recipe: what to judge.
        split: the items to judge it on (`search`, `selection` or `test`).
        asking: which of them, and when to stop.
    """

    number: int
    recipe: Recipe
    split: str
    asking: Asking = EVERYTHING


class Executor(Protocol):
    """Runs jobs on one or more evaluators. Used by one thread."""

    @property
    def workers(self) -> int:
        """How many jobs can run at once; on a cluster whose nodes come and go it changes."""
        ...

    @property
    def busy(self) -> int:
        """How many jobs are running; other threads may ask."""
        ...

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Evaluation]]:
        """Every job with its evaluation, in the order in which they finish.

        Args:
            jobs: pulled one at a time, when an evaluator is free for it (and a single one ahead while
                none is even at work). None means "nothing until another result is in", so that a
                driver can ask the next generation before the last candidate of this one is done.

        Raises:
            InputError, FitnessError: an evaluator could not be built, and the user has to mend it.
            EvaluatorBuildError: evaluators could not be built for another reason.
            RuntimeError: `jobs` gave None while nothing was running.
        """
        ...

    def close(self) -> None:
        """Free the evaluators, killing what still runs. May be called twice."""
        ...


class EvaluatorBuildError(RuntimeError):
    """No evaluator could be built; the message carries the last reason."""


class EvaluatorCallError(Exception):
    """An evaluator's call ended without a value.

    Args:
        outcome: how to record it.
        reason: a sentence.
        cause: the error that the user has to mend, if it was one.
        node_lost: the evaluator's machine left, through nobody's fault.
    """

    def __init__(
        self,
        outcome: Outcome,
        reason: str,
        cause: BaseException | None = None,
        *,
        node_lost: bool = False,
    ) -> None:
        self.outcome, self.reason, self.cause = outcome, reason, cause
        self.node_lost = node_lost
        super().__init__(f"{outcome.value}: {reason}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A job being tried.

    Attributes:
        job: what to do.
        number: of the try, from 1.
        tried: names of evaluators, and ids of nodes, that it was tried on.
        nodes_lost: machines that left while they worked on it.
        since: when it began to wait for another try, in seconds of `time.monotonic`.
    """

    job: Job
    number: int = 1
    tried: frozenset[str] = frozenset()
    nodes_lost: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A try that is over.

    Attributes:
        attempt: what was tried.
        evaluation: what came of it.
        where: name of the evaluator and id of its node.
        final: not to be tried again, whatever the outcome.
        node_lost: it ended because the machine left.
    """

    attempt: Attempt
    evaluation: Evaluation
    where: frozenset[str] = frozenset()
    final: bool = False
    node_lost: bool = False


class JobQueue:
    """Jobs still to be tried: those that `waiting` holds, then the ones of `jobs`, lazily.

    Attributes:
        waiting: jobs that were pulled already, most of them to be tried again.
        ended: `jobs` has no more.
    """

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self._jobs = iter(jobs)
        self.waiting: list[Attempt] = []
        self.ended = False

    def fresh(self) -> Attempt | None:
        """The next of `jobs`; None if there is none now, for good if `ended`."""
        if self.ended:
            return None
        try:
            job = next(self._jobs)
        except StopIteration:
            self.ended = True
            return None
        return None if job is None else Attempt(job)

    def settled(self, ended: Ended) -> bool:
        """Whether this was the job's last try; if not, it waits for another."""
        attempt, evaluation = ended.attempt, ended.evaluation
        excused = ended.node_lost and attempt.nodes_lost < NODE_LOSSES
        if not excused and (ended.final or attempt.number >= TRIES[evaluation.outcome]):
            return True
        logger.warning(
            "job %d: %s: %s; trying again",
            attempt.job.number,
            evaluation.outcome.value,
            evaluation.reason,
        )
        again = replace(
            attempt,
            number=attempt.number + (not excused),
            tried=attempt.tried | ended.where,
            nodes_lost=attempt.nodes_lost + excused,
            since=time.monotonic(),
        )
        self.waiting.append(again)
        return False

    def require_progress(self) -> None:
        """Complain if nothing runs, nothing was given, and more is still announced."""
        if not self.ended:
            raise RuntimeError(
                "run(): jobs gave None while no job was running; it would wait forever"
            )


def worker_name(evaluator: str, host: str) -> str:
    """`evaluator-3@host`: who did it, in records and reports; the host without its domain."""
    numeric = host.replace(".", "").isdigit()
    return f"{evaluator}@{host if numeric else host.split('.', 1)[0]}"
