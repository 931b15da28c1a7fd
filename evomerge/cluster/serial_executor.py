"""The executor that needs no Ray: one evaluator in this process."""

import logging
import socket
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace

from evomerge.cluster.failures import outcome_of, raised
from evomerge.cluster.jobs import Ended, Job, JobQueue, MakeEvaluator, worker_name
from evomerge.evaluation import Evaluation, Evaluator

logger = logging.getLogger(__name__)


class SerialExecutor:
    """One evaluator in this process: for debugging, and for a machine without Ray.

    It has no deadline; an evaluator that takes the process down takes the run down, and one that
    cannot be built raises its own exception.
    """

    def __init__(self, make_evaluator: MakeEvaluator) -> None:
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator | None = None
        self._busy = 0
        self._name = worker_name("evaluator-0", socket.gethostname())

    @property
    def workers(self) -> int:
        """Always 1."""
        return 1

    @property
    def busy(self) -> int:
        """1 while a job is running."""
        return self._busy

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Evaluation]]:
        """Every job with its evaluation, in their order (see `Executor.run`)."""
        queue = JobQueue(jobs)
        while True:
            attempt = queue.waiting.pop() if queue.waiting else queue.fresh()
            if attempt is None:
                if queue.ended:
                    return
                queue.require_progress()
                continue
            self._busy = 1
            try:
                evaluation = self._evaluate(attempt.job)
            finally:
                self._busy = 0
            if queue.settled(Ended(attempt, evaluation)):
                yield attempt.job, evaluation

    def close(self) -> None:
        """Close the evaluator, if one was built."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None

    def _evaluate(self, job: Job) -> Evaluation:
        if self._evaluator is None:
            self._evaluator = self._make_evaluator()
        try:
            evaluation = self._evaluator.evaluate(job.recipe, job.split, job.asking)
        except Exception as error:  # boundary: a bug in an evaluator must not end the run
            logger.warning("job %d: %s", job.number, traceback.format_exc())
            self._discard()
            evaluation = Evaluation(outcome_of(error), raised(error))
        return replace(evaluation, worker=self._name)

    def _discard(self) -> None:
        """Drop an evaluator that raised: its state is unknown, so closing it may fail too."""
        try:
            self.close()
        except Exception:  # boundary: the evaluation's own failure is what gets recorded
            logger.warning("closing the evaluator: %s", traceback.format_exc())
            self._evaluator = None
