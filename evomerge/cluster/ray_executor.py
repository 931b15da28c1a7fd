"""Evaluators in Ray actors: one job in flight on each, replaced when they die or overrun."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from evomerge.cluster.jobs import (
    USER_ERRORS,
    Attempt,
    EvaluatorBuildError,
    EvaluatorCallError,
    Job,
    JobQueue,
    MakeEvaluator,
)
from evomerge.evaluation import Evaluation, Outcome

logger = logging.getLogger(__name__)

_BUILDS = 3
"""How often in a row an evaluator may fail to be built."""


@dataclass(slots=True, eq=False)
class _Slot:
    """A place for one evaluator.

    `call` is what its actor works on: an attempt if there is one, else the build. Without a call it
    is idle, without an actor it has been given up.
    """

    name: str
    actor: Any = None
    call: Any = None
    attempt: Attempt | None = None
    since: float = 0.0
    failed_builds: int = 0


class RayExecutor:
    """Evaluators as Ray actors, on this machine or on a cluster.

    A job whose evaluator dies, raises or overruns the deadline gets a second try on a fresh one (as
    does a job that failed by itself); the second failure is its evaluation. The dead are replaced.
    An evaluator that cannot be built three times in a row is given up; the others work on.

    Args:
        make_evaluator: builds an evaluator in its actor; has to be picklable.
        address: `local`, or a cluster's (see `RaySession`).
        evaluators: how many, or `auto`: one per GPU (or share) if they take GPUs, else per core(s).
        cpus_per_evaluator: cores, also its number of threads; greater than 0.
        gpus_per_evaluator: GPUs, 0 or more; fractions share one.
        deadline_seconds: an evaluation that takes longer is killed; None: never.

    Raises:
        InputError: no such cluster, or no room on it.
    """

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        *,
        address: str = "local",
        evaluators: int | Literal["auto"] = "auto",
        cpus_per_evaluator: float = 1.0,
        gpus_per_evaluator: float = 0.0,
        deadline_seconds: float | None = None,
    ) -> None:
        from evomerge.cluster.ray_session import RaySession, evaluators_wanted

        self._deadline = deadline_seconds
        self._cpus, self._gpus = cpus_per_evaluator, gpus_per_evaluator
        self._slots: list[_Slot] = []
        self._session = RaySession(address)
        try:
            count = evaluators_wanted(evaluators, self._cpus, self._gpus)
            self._make_evaluator = self._session.shared(make_evaluator)
            self._slots = [_Slot(f"evaluator-{index}") for index in range(count)]
            for slot in self._slots:
                self._start(slot)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """How many evaluators there are, those being built included."""
        return sum(slot.actor is not None for slot in self._slots)

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Evaluation]]:
        """Every job with its evaluation, as they finish (see `Executor.run`)."""
        if self.workers == 0:
            raise EvaluatorBuildError("no evaluator is left to run jobs on")
        self._abandon_unfinished()
        queue = JobQueue(jobs)
        while True:
            self._hand_out(queue)
            if not any(slot.attempt for slot in self._slots) and self._idle():
                if queue.ended:
                    return
                queue.require_progress()
            for attempt, evaluation in self._finished():
                if queue.settled(attempt, evaluation):
                    yield attempt.job, evaluation

    def close(self) -> None:
        """Close idle evaluators, kill the rest, and stop Ray if it was started here."""
        idle = [slot.actor for slot in self._idle()]
        busy = [slot.actor for slot in self._slots if slot.call is not None]
        self._slots = []
        self._session.close(idle, busy)

    def _idle(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.actor is not None and slot.call is None]

    def _hand_out(self, queue: JobQueue) -> None:
        for slot in self._idle():
            attempt = queue.pull()
            if attempt is None:
                return
            slot.attempt, slot.since = attempt, time.monotonic()
            slot.call = slot.actor.evaluate.remote(attempt.job.recipe, attempt.job.split)

    def _finished(self) -> list[tuple[Attempt, Evaluation]]:
        """Wait for something to happen; the attempts that ended by it, maybe none."""
        calls = {slot.call: slot for slot in self._slots if slot.call is not None}
        ended = [calls[call] for call in self._session.ended(list(calls), self._patience())]
        attempts = []
        for slot in ended + [slot for slot in self._overdue() if slot not in ended]:
            attempt = slot.attempt
            if attempt is None:
                self._finish_build(slot)
                continue
            evaluation = self._collect(slot) if slot in ended else self._time_out(slot)
            attempts.append((attempt, replace(evaluation, worker=slot.name)))
        return attempts

    def _patience(self) -> float | None:
        """Seconds until the next deadline; None: no deadline."""
        started = [slot.since for slot in self._slots if slot.attempt]
        if self._deadline is None or not started:
            return None
        return max(0.0, min(started) + self._deadline - time.monotonic())

    def _overdue(self) -> list[_Slot]:
        if self._deadline is None:
            return []
        now = time.monotonic()
        return [s for s in self._slots if s.attempt and now - s.since >= self._deadline]

    def _collect(self, slot: _Slot) -> Evaluation:
        """What the slot's call came to; the slot is idle afterwards, or has a fresh evaluator."""
        try:
            evaluation: Evaluation = self._session.result(slot.call)
        except EvaluatorCallError as failure:
            self._replace(slot)
            return Evaluation(failure.outcome, failure.reason)
        slot.call = slot.attempt = None
        return evaluation

    def _time_out(self, slot: _Slot) -> Evaluation:
        self._replace(slot)
        reason = f"not done after {self._deadline:g} s; its evaluator was killed"
        return Evaluation(Outcome.TIMED_OUT, reason)

    def _finish_build(self, slot: _Slot) -> None:
        try:
            self._session.result(slot.call)
        except EvaluatorCallError as failure:
            if isinstance(failure.cause, USER_ERRORS):
                raise failure.cause from None
            self._build_failed(slot, failure.reason)
        else:
            slot.call, slot.failed_builds = None, 0

    def _build_failed(self, slot: _Slot, reason: str) -> None:
        slot.failed_builds += 1
        logger.warning("%s could not be built (%d): %s", slot.name, slot.failed_builds, reason)
        if slot.failed_builds < _BUILDS:
            self._replace(slot)
            return
        self._kill(slot)
        if self.workers == 0:
            raise EvaluatorBuildError(f"{slot.name} could not be built {_BUILDS} times: {reason}")

    def _start(self, slot: _Slot) -> None:
        slot.actor = self._session.actor(self._make_evaluator, self._cpus, self._gpus)
        slot.call = slot.actor.build.remote()

    def _kill(self, slot: _Slot) -> None:
        if slot.actor is not None:
            self._session.kill(slot.actor)
        slot.actor = slot.call = slot.attempt = None

    def _replace(self, slot: _Slot) -> None:
        self._kill(slot)
        self._start(slot)

    def _abandon_unfinished(self) -> None:
        """Jobs of a `run` that its caller did not exhaust: nobody waits for them."""
        for slot in self._slots:
            if slot.attempt is not None:
                self._replace(slot)
