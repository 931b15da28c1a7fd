"""Evaluators in Ray actors: one job in flight on each, replaced when they die or overrun."""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Literal

from evomerge.cluster.jobs import (
    Attempt,
    Ended,
    EvaluatorBuildError,
    EvaluatorCallError,
    Job,
    JobQueue,
    MakeEvaluator,
    worker_name,
)
from evomerge.cluster.slots import ELSEWHERE_SECONDS, Phase, Slot, suited
from evomerge.cluster.stragglers import Stragglers
from evomerge.evaluation import AS_SEARCHED, Evaluation, Outcome

logger = logging.getLogger(__name__)

_SPARED = ("selection", "test", AS_SEARCHED)
"""Splits on which no straggler is cut off: there are few of them, and the report stands on them."""

_DOUBTS = 3
"""After so many failures in a row, of whatever candidates, an evaluator is replaced."""

_DOUBTFUL = (Outcome.SCORING_FAILED, Outcome.OUT_OF_MEMORY)
"""Failures that may be the evaluator's own fault though it did not break."""


class RayExecutor:
    """Evaluators as Ray actors, on this machine or on a cluster.

    A job that fails is tried again, elsewhere if there is an elsewhere (`jobs.TRIES` times at most);
    the last failure is its evaluation. An evaluator that dies, raises or overruns a deadline is
    replaced; so is one that fails at several jobs in a row. One that cannot be built three times in
    a row is given up; the others work on.

    On a cluster nodes may come and go. A job whose node left is tried elsewhere, and that does not
    count as a try; with `auto`, evaluators are added where nodes join.

    Args:
        make_evaluator: builds an evaluator in its actor; has to be picklable.
        address: `local`, or a cluster's (see `RaySession`).
        evaluators: how many, or `auto`: one per GPU (or share) if they take GPUs, else per core(s);
            on a cluster that is not `local`, also of nodes that join later.
        cpus_per_evaluator: cores, also its number of threads; greater than 0.
        gpus_per_evaluator: GPUs, 0 or more; fractions share one; `auto`: `tensor_parallel` if the
            cluster has GPUs and `device` is not `cpu`, else 0.
        tensor_parallel: GPUs that one model is spread over, at least 1; on one node.
        device: what the engine is to run on: `auto`, `cpu`, `cuda` or `cuda:N`.
        deadline_seconds: an evaluation that takes longer is killed; None: never.
        build_seconds: so is a build, counted from when its actor has started; None: never.
        straggler: an evaluation that takes more than this many times the median of the last ones on
            its split (once 8 are finished) is killed too and recorded as timed out, without another
            try; greater than 1. An evaluator's first one is spared, as it warms up. None: never.
        connected: called once Ray is connected; what it gives is used instead of `make_evaluator`
            (files to fetch can only then be offered).

    Raises:
        InputError: no such cluster, no room on it, or no GPU for an engine that needs one.
    """

    def __init__(  # noqa: PLR0913 (the run file's sections)
        self,
        make_evaluator: MakeEvaluator,
        *,
        address: str = "local",
        evaluators: int | Literal["auto"] = "auto",
        cpus_per_evaluator: float = 1.0,
        gpus_per_evaluator: float | Literal["auto"] = "auto",
        tensor_parallel: int = 1,
        device: str = "auto",
        deadline_seconds: float | None = None,
        build_seconds: float | None = 1800.0,
        straggler: float | None = None,
        connected: Callable[[], MakeEvaluator] | None = None,
    ) -> None:
        # Ray would tell of dead workers on stdout, which belongs to `--json`; we do, in the log.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        from evomerge.cluster.crew import Crew
        from evomerge.cluster.ray_session import RaySession
        from evomerge.cluster.room import share_wanted

        self._deadline = deadline_seconds
        self._stragglers = Stragglers(straggler)
        self._session = RaySession(address)
        try:
            nodes = list(self._session.nodes().values())
            share = share_wanted(
                nodes, cpus_per_evaluator, gpus_per_evaluator, tensor_parallel, device
            )
            # kept: what evaluators fetch from lives as long as this refers to it
            self._make_evaluator = connected() if connected else make_evaluator
            self._crew = Crew(
                self._session,
                self._session.shared(self._make_evaluator),
                evaluators,
                share,
                build_seconds,
                elastic=address != "local",
            )
        except BaseException:
            self._session.close()
            raise

    @property
    def workers(self) -> int:
        """Evaluators that work or are being built; on a cluster it changes with the nodes."""
        return self._crew.workers

    @property
    def busy(self) -> int:
        """Evaluators at work."""
        return len(self._crew.working())

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Evaluation]]:
        """Every job with its evaluation, as they finish (see `Executor.run`)."""
        if self._crew.given_up:
            raise EvaluatorBuildError("no evaluator is left to run jobs on")
        for slot in self._crew.working():
            self._crew.replace(slot)  # on a job of a run that its caller did not exhaust
        queue = JobQueue(jobs)
        while True:
            self._hand_out(queue)
            if not queue.waiting and not self._crew.working():
                if queue.ended:
                    return
                queue.require_progress()
            for ended in self._happened(queue):
                if queue.settled(ended):
                    yield ended.attempt.job, ended.evaluation

    def close(self) -> None:
        """Close idle evaluators, kill the rest, and stop Ray if it was started here."""
        self._session.close(*self._crew.close())

    def _hand_out(self, queue: JobQueue) -> None:
        """Jobs to the idle: first those that wait, then new ones."""
        now = time.monotonic()
        for attempt in list(queue.waiting):
            slot = suited(attempt, self._crew.slots, now)
            if slot is not None:
                queue.waiting.remove(attempt)
                self._give(slot, attempt)
        for slot in self._crew.idle():
            attempt = queue.fresh()
            if attempt is None:
                return
            self._give(slot, attempt)
        if not queue.waiting and not self._crew.working():
            # Nobody is even at work: look whether there is any job before waiting for evaluators.
            attempt = queue.fresh()
            if attempt is not None:
                queue.waiting.append(attempt)

    def _give(self, slot: Slot, attempt: Attempt) -> None:
        slot.phase, slot.attempt, slot.since = Phase.WORKING, attempt, time.monotonic()
        slot.call = self._session.evaluate(slot.actor, attempt.job)

    def _happened(self, queue: JobQueue) -> Iterator[Ended]:
        """Wait for something to happen; the tries that ended by it, maybe none."""
        look = self._crew.look(time.monotonic())
        calls = {slot.call: slot for slot in self._crew.slots if slot.call is not None}
        patience = self._patience(queue, look)
        ready = [calls[call] for call in self._session.ended(list(calls), patience)]
        now = time.monotonic()
        late = [slot for slot in calls.values() if slot not in ready and self._due(slot) <= now]
        builds = [slot for slot in (*ready, *late) if slot.attempt is None]
        for slot in ready:
            if slot.attempt is not None:
                yield self._collect(slot, slot.attempt)
        for slot in late:
            if slot.attempt is not None:
                yield self._cut_off(slot, slot.attempt)
        for slot in builds:  # last, as it may raise: no result is to be lost by that
            if slot in ready:
                self._crew.advance(slot)
            else:
                self._crew.overdue(slot)

    def _patience(self, queue: JobQueue, look: float) -> float:
        """Seconds to wait for a call to end before there is something else to do."""
        now = time.monotonic()
        until = min([now + look, *(self._due(slot) for slot in self._crew.slots)])
        if self._crew.idle():
            until = min([until, *(wait.since + ELSEWHERE_SECONDS for wait in queue.waiting)])
        return max(0.0, until - now)

    def _due(self, slot: Slot) -> float:
        """When the slot's call is overdue, in seconds of `time.monotonic`; infinity: never."""
        if slot.attempt is None:
            return self._crew.due(slot)
        limits = [math.inf if self._deadline is None else self._deadline]
        if slot.finished and slot.attempt.job.split not in _SPARED:
            job = slot.attempt.job
            limits.append(self._stragglers.limit(job.split, max(1, job.asking.most)))
        return slot.since + min(limits)

    def _collect(self, slot: Slot, attempt: Attempt) -> Ended:
        """What the slot's call came to; the slot is idle afterwards, or has a fresh evaluator."""
        seconds = time.monotonic() - slot.since
        try:
            evaluation: Evaluation = self._session.result(slot.call)
        except EvaluatorCallError as failure:
            ended = _ended(slot, attempt, Evaluation(failure.outcome, failure.reason))
            self._crew.replace(slot)
            return replace(ended, node_lost=failure.node_lost)
        ended = _ended(slot, attempt, evaluation)
        slot.phase, slot.call, slot.attempt = Phase.IDLE, None, None
        slot.finished += 1
        if evaluation.scored:
            self._count(attempt.job, evaluation, seconds)
            slot.failures = 0
        elif evaluation.outcome in _DOUBTFUL:
            slot.failures += 1
        if slot.failures >= _DOUBTS:
            logger.warning("%s failed %d times in a row; replacing it", slot.name, slot.failures)
            self._crew.replace(slot)
        return ended

    def _count(self, job: Job, evaluation: Evaluation, seconds: float) -> None:
        """Let it tell how long its kind takes, unless its answers were known before."""
        if evaluation.items and not evaluation.answers:
            return
        answers = max(1, evaluation.answers) if job.asking.rungs else 1
        self._stragglers.finished(job.split, seconds / answers)

    def _cut_off(self, slot: Slot, attempt: Attempt) -> Ended:
        """Kill an evaluator that takes too long."""
        seconds = time.monotonic() - slot.since
        hung = self._deadline is not None and seconds >= self._deadline
        if hung:
            reason = f"not done after {self._deadline:g} s; its evaluator was killed"
        else:
            job = attempt.job
            reason = self._stragglers.told(job.split, seconds, job.asking.most)
        ended = _ended(slot, attempt, Evaluation(Outcome.TIMED_OUT, reason))
        self._crew.replace(slot)
        return replace(ended, final=not hung)


def _ended(slot: Slot, attempt: Attempt, evaluation: Evaluation) -> Ended:
    evaluation = replace(evaluation, worker=worker_name(slot.name, slot.host))
    return Ended(attempt, evaluation, frozenset((slot.name, slot.node)))
