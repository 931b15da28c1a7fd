"""Nodes join and leave in the middle of a run: several Ray nodes on this machine."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evomerge.cluster.executor import Job, RayExecutor
from tests.cluster.arithmetic import MakeArithmetic, recipe

pytest.importorskip("ray.cluster_utils")

SMALL = {"object_store_memory": 80 * 2**20}
# A lost node is noticed after about 3 s, not 20.
QUICK = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}


@pytest.fixture
def cluster():
    """A head without cores of its own: evaluators run on the nodes that a test adds."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Watched:
    """A run in a thread of its own, so that the test can tamper with the cluster meanwhile: nodes
    end with the thread that started them."""

    def __init__(self, executor, jobs):
        self.executor, self.jobs = executor, jobs
        self.done = []
        self._pool = ThreadPoolExecutor(1)
        self._run = self._pool.submit(self._work)

    def _work(self):
        for job, evaluation in self.executor.run(self.jobs):
            self.done.append((job.number, evaluation))

    def until(self, condition, patience=60.0):
        """Wait until `condition` holds; fail if it does not, or if the run fails first."""
        until = time.monotonic() + patience
        while not condition():
            if self._run.done():
                self._run.result()
            assert time.monotonic() < until, f"not within {patience} s; {len(self.done)} are done"
            time.sleep(0.05)

    def results(self, patience=90.0):
        """Evaluation by job number; each job exactly once."""
        self._run.result(timeout=patience)
        self._pool.shutdown()
        assert sorted(number for number, _ in self.done) == [job.number for job in self.jobs]
        return dict(self.done)


def naps(count):
    return [Job(number, recipe(number, 0.5), "nap") for number in range(count)]


def test_work_flows_to_whoever_is_there(cluster, tmp_path):
    """One node; a second one joins; the first one is lost without a word, two jobs with it."""
    first = cluster.add_node(num_cpus=2, **SMALL)
    executor = RayExecutor(MakeArithmetic(str(tmp_path), "slow"), address=cluster.address)
    assert executor.workers == 2
    watched = Watched(executor, naps(40))
    watched.until(lambda: len(watched.done) >= 3)
    cluster.add_node(num_cpus=2, **SMALL)
    watched.until(lambda: executor.workers == 4)
    watched.until(lambda: len({evaluation.worker for _, evaluation in watched.done}) == 4)
    cluster.remove_node(first, allow_graceful=False)
    watched.until(lambda: executor.workers == 2)
    results = watched.results()
    executor.close()
    assert all(evaluation.scored for evaluation in results.values())


def test_the_only_node_leaves_and_another_one_comes(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, **SMALL)
    executor = RayExecutor(MakeArithmetic(str(tmp_path)), address=cluster.address, evaluators=1)
    watched = Watched(executor, naps(8))
    watched.until(lambda: len(watched.done) >= 2)
    cluster.remove_node(node)
    watched.until(lambda: executor.workers == 0)
    before = len(watched.done)
    time.sleep(3)
    assert len(watched.done) == before < 8
    cluster.add_node(num_cpus=1, **SMALL)
    results = watched.results()
    assert executor.workers == 1
    executor.close()
    assert all(evaluation.scored for evaluation in results.values())


def test_a_run_ends_though_evaluators_still_wait_for_room(cluster, tmp_path):
    cluster.add_node(num_cpus=1, **SMALL)
    second = cluster.add_node(num_cpus=1, **SMALL)
    executor = RayExecutor(MakeArithmetic(str(tmp_path)), address=cluster.address, evaluators=2)
    watched = Watched(executor, naps(12))
    watched.until(lambda: len({evaluation.worker for _, evaluation in watched.done}) == 2)
    cluster.remove_node(second)
    results = watched.results()
    assert executor.workers == 1
    executor.close()
    assert all(evaluation.scored for evaluation in results.values())


def test_a_search_may_begin_before_there_is_room(cluster, tmp_path):
    """It ended with "the cluster has 0 CPU(s)": no node had come up yet, or all had just left."""
    executor = RayExecutor(MakeArithmetic(str(tmp_path), "slow"), address=cluster.address)
    watched = Watched(executor, naps(3))
    time.sleep(1)
    assert not watched.done
    cluster.add_node(num_cpus=1, **SMALL)
    results = watched.results()
    executor.close()
    assert all(evaluation.scored for evaluation in results.values())
