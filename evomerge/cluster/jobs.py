"""Jobs, the protocol of those who run them, and the rule by which they are tried again."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

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

ATTEMPTS = 2
"""How often a job is tried before its failure is recorded."""


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe to be judged.

    Attributes:
        number: the driver's own number for it, given back with the evaluation.
        recipe: what to judge.
        split: the items to judge it on (`search`, `selection` or `test`).
    """

    number: int
    recipe: Recipe
    split: str


class Executor(Protocol):
    """Runs jobs on one or more evaluators. Used by one thread."""

    @property
    def workers(self) -> int:
        """How many jobs can run at once."""
        ...

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Evaluation]]:
        """Every job with its evaluation, in the order in which they finish.

        Args:
            jobs: pulled one at a time, only when an evaluator is free for it. None means "nothing
                until another result is in", so that a driver can ask the next generation before
                the last candidate of this one is done.

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
        cause: the exception, if the evaluator raised one.
    """

    def __init__(self, outcome: Outcome, reason: str, cause: BaseException | None = None) -> None:
        self.outcome, self.reason, self.cause = outcome, reason, cause
        super().__init__(f"{outcome.value}: {reason}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A job being tried for the `number`-th time, from 1."""

    job: Job
    number: int = 1


class JobQueue:
    """Jobs still to be tried: first those that failed once, then the ones of `jobs`, lazily."""

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self._jobs = iter(jobs)
        self._again: deque[Attempt] = deque()
        self.ended = False

    def pull(self) -> Attempt | None:
        """The next job; None if there is none now, for good if `ended`."""
        if self._again:
            return self._again.popleft()
        if self.ended:
            return None
        try:
            job = next(self._jobs)
        except StopIteration:
            self.ended = True
            return None
        return None if job is None else Attempt(job)

    def settled(self, attempt: Attempt, evaluation: Evaluation) -> bool:
        """Whether `evaluation` is the job's last word; if not, the job is queued again."""
        if attempt.number >= ATTEMPTS or not worth_retrying(evaluation.outcome):
            return True
        logger.warning("job %d: %s: %s; trying again", attempt.job.number, *_told(evaluation))
        self._again.append(replace(attempt, number=attempt.number + 1))
        return False

    def require_progress(self) -> None:
        """Complain if nothing runs, nothing was given, and more is still announced."""
        if not self.ended:
            raise RuntimeError(
                "run(): jobs gave None while no job was running; it would wait forever"
            )


def worth_retrying(outcome: Outcome) -> bool:
    """Whether a second try could end otherwise."""
    return outcome not in (Outcome.SCORED, Outcome.INVALID_RECIPE, Outcome.CANCELLED)


def raised(error: BaseException) -> str:
    """The reason of an evaluation that ended in an exception."""
    return f"the evaluator raised {type(error).__name__}: {error}"


def _told(evaluation: Evaluation) -> tuple[str, str]:
    return evaluation.outcome.value, evaluation.reason
