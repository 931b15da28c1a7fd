"""kill -9 of an evaluator or of the driver leaves no process behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from tests.cluster.processes import ended, left_behind

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")

ROOT = Path(__file__).parents[2]

DRIVER = """
import sys
from tests.cluster.arithmetic import MakeArithmetic, recipe
from evomerge.cluster.executor import Job, RayExecutor

folder, address, *splits = sys.argv[1:]
executor = RayExecutor(
    MakeArithmetic(folder), address=address, evaluators=2, cpus_per_evaluator=0.5
)
for job, evaluation in executor.run([Job(n, recipe(n, 2), s) for n, s in enumerate(splits)]):
    print(job.number, evaluation.outcome.value, flush=True)
"""


@pytest.fixture
def ray_folder():
    """Where a local Ray keeps its session; short, as sockets lie there."""
    with tempfile.TemporaryDirectory(prefix="em-") as folder:
        yield folder


def drive(folder, address, ray_folder, *splits):
    """Start a driver with two evaluators; its mark, and the process."""
    mark = f"evomerge-{uuid.uuid4()}"
    added = {"EVOMERGE_TEST_MARK": mark, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": ray_folder}
    environment = {**os.environ, **added}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", DRIVER, folder, address, *splits]
    return mark, subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def noted(folder, name, count, patience=90.0):
    """The lines of the evaluators' note once there are so many."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        lines = [line for path in folder.glob(name) for line in path.read_text().split()]
        if len(lines) >= count:
            return lines
        time.sleep(0.1)
    raise AssertionError(f"{folder}/{name} has not {count} lines after {patience} s")


def test_kill_9_of_the_driver_ends_its_ray_and_its_evaluators(tmp_path, ray_folder):
    """One evaluator has a process of its own, the other is stuck in C, deaf to everything."""
    mark, driver = drive(tmp_path, "local", ray_folder, "spawn", "freeze")
    evaluators = noted(tmp_path, "evaluated-*", 2)
    children = noted(tmp_path, "spawned", 1)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert ended([*evaluators, *children], patience=30)
    assert left_behind(mark, ray_folder) == []


def test_kill_9_of_an_evaluator_ends_its_processes(tmp_path, ray_folder):
    mark, driver = drive(tmp_path, "local", ray_folder, "spawn then die", "search")
    children = noted(tmp_path, "spawned", 3)
    said, _ = driver.communicate(timeout=90)
    assert sorted(said.splitlines()) == ["0 worker lost", "1 scored"]
    assert ended(children)
    assert left_behind(mark, ray_folder) == []


def test_kill_9_of_the_driver_ends_its_evaluators_on_a_cluster(tmp_path, ray_folder):
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        _, driver = drive(tmp_path, cluster.address, ray_folder, "spawn", "freeze")
        evaluators = noted(tmp_path, "evaluated-*", 2)
        children = noted(tmp_path, "spawned", 1)
        driver.kill()
        driver.wait()
        assert ended([*evaluators, *children], patience=30)
    finally:
        cluster.shutdown()
