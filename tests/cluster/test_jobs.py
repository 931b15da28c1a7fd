"""The rule by which jobs are tried again, and where."""

import pytest

from evomerge.cluster.jobs import (
    NODE_LOSSES,
    TRIES,
    Attempt,
    Ended,
    Job,
    JobQueue,
    worker_name,
)
from evomerge.cluster.slots import ELSEWHERE_SECONDS, Phase, Slot, suited
from evomerge.evaluation import Evaluation, Outcome
from tests.cluster.arithmetic import recipe

JOB = Job(0, recipe(1, 2), "search")


def tried(outcome, **options):
    """How often a job is tried that always ends so; at most 100 times."""
    queue = JobQueue([JOB])
    attempt = queue.fresh()
    for number in range(1, 101):
        ended = Ended(attempt, Evaluation(outcome), frozenset({f"evaluator-{number}"}), **options)
        if queue.settled(ended):
            assert not queue.waiting
            return number
        attempt = queue.waiting.pop()
        assert attempt.tried == {f"evaluator-{n}" for n in range(1, number + 1)}
    return None


def test_every_outcome_has_its_number_of_tries():
    assert set(TRIES) == set(Outcome)
    assert all(tried(outcome) == TRIES[outcome] for outcome in Outcome)
    assert max(TRIES.values()) == 3


def test_what_is_final_is_not_tried_again():
    assert tried(Outcome.TIMED_OUT, final=True) == 1


def test_a_machine_that_leaves_costs_no_try_but_not_for_ever():
    assert tried(Outcome.WORKER_LOST, node_lost=True) == NODE_LOSSES + TRIES[Outcome.WORKER_LOST]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gpu-7.cluster.local", "evaluator-1@gpu-7"),
        ("gpu-7", "evaluator-1@gpu-7"),
        ("10.0.0.7", "evaluator-1@10.0.0.7"),
    ],
)
def test_the_name_of_a_worker(host, name):
    assert worker_name("evaluator-1", host) == name


class TestElsewhere:
    def choose(self, *slots, waited=0.0):
        """The name of the slot for a job that failed on evaluator 0 of node A."""
        attempt = Attempt(JOB, 2, frozenset({"evaluator-0", "A"}), since=100.0)
        made = [Slot(f"evaluator-{n}", phase, node=node) for n, node, phase in slots]
        chosen = suited(attempt, made, 100.0 + waited)
        return None if chosen is None else chosen.name

    def test_another_node_is_best_then_another_evaluator(self):
        old, near = (0, "A", Phase.IDLE), (1, "A", Phase.IDLE)
        assert self.choose(old, near, (2, "B", Phase.IDLE)) == "evaluator-2"
        assert self.choose(old, near) == "evaluator-1"
        assert self.choose(old) == "evaluator-0"

    @pytest.mark.parametrize("phase", [Phase.WORKING, Phase.BUILDING])
    def test_it_waits_for_a_better_one_but_not_for_long(self, phase):
        slots = [(0, "A", Phase.IDLE), (1, "B", phase)]
        assert self.choose(*slots) is None
        assert self.choose(*slots, waited=ELSEWHERE_SECONDS) == "evaluator-0"

    @pytest.mark.parametrize("phase", [Phase.PLACING, Phase.GIVEN_UP])
    def test_it_does_not_wait_for_one_that_may_never_come(self, phase):
        assert self.choose((0, "A", Phase.IDLE), (1, "B", phase)) == "evaluator-0"

    def test_it_waits_for_any_evaluator_at_all(self):
        assert self.choose((0, "A", Phase.WORKING), (1, "B", Phase.BUILDING)) is None
