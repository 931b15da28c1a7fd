"""Evaluations that take far longer than their kind are cut off, if that is asked for."""

import math

import pytest

from evomerge.cluster.executor import Job, RayExecutor
from evomerge.cluster.stragglers import Stragglers
from evomerge.evaluation import Outcome
from tests.cluster.arithmetic import MakeArithmetic, recipe


class TestUsual:
    def test_eight_tell_how_long_one_takes(self):
        stragglers = Stragglers(3.0)
        for seconds in (1, 2, 3, 4, 5, 6, 7):
            stragglers.finished("search", seconds)
            assert stragglers.limit("search") == math.inf
        stragglers.finished("search", 8)
        assert stragglers.limit("search") == pytest.approx(3 * 4.5)
        assert stragglers.limit("test") == math.inf

    def test_only_the_last_ones_count(self):
        stragglers = Stragglers(2.0)
        for seconds in [1.0] * 100 + [10.0] * 64:
            stragglers.finished("search", seconds)
        assert stragglers.limit("search") == 20.0

    def test_it_is_an_option(self):
        stragglers = Stragglers(None)
        for _ in range(20):
            stragglers.finished("search", 1.0)
        assert stragglers.limit("search") == math.inf


def test_a_straggler_is_cut_off_and_not_tried_again(tmp_path):
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 * 2**20,
    )
    executor = RayExecutor(
        MakeArithmetic(str(tmp_path)), evaluators=2, deadline_seconds=120, straggler=3.0
    )
    given = [Job(number, recipe(number, 0.5), "nap unless large") for number in range(12)]
    evaluations = {job.number: evaluation for job, evaluation in executor.run(given)}
    executor.close()
    ray.shutdown()
    late = evaluations.pop(11)
    assert late.outcome is Outcome.TIMED_OUT
    assert "more than 3 times what evaluations on 'nap unless large' took" in late.reason
    assert "median of 11" in late.reason
    assert all(evaluation.scored for evaluation in evaluations.values())
    assert len((tmp_path / f"evaluated-{given[11].recipe.hash}").read_text().split()) == 1
