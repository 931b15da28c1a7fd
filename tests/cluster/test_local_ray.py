"""A local Ray of our own: it starts by itself, and nothing of it is left behind."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from tests.cluster.processes import left_behind

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")

SCRIPT = """
import os, signal, sys, threading, time
from tests.cluster.arithmetic import MakeArithmetic, recipe
from evomerge.cluster.executor import Job, RayExecutor

folder, ending = sys.argv[1:]
executor = RayExecutor(MakeArithmetic(folder), evaluators=2, cpus_per_evaluator=0.5)
try:
    # Both evaluators get a job, and with `hang` one of them is in the middle of it at the end.
    second = "nap" if ending == "done" else "hang"
    jobs = [Job(0, recipe(1, 2), "nap"), Job(1, recipe(1, 3), second)]
    for job, evaluation in executor.run(jobs):
        print("scored", evaluation.scored, evaluation.objectives["nearness"].se, flush=True)
        if ending == "interrupted":
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
except KeyboardInterrupt:
    print("interrupted", flush=True)
finally:
    executor.close()
import ray
print("closed", ray.is_initialized(), flush=True)
"""


@linux
def test_no_process_is_left_behind(tmp_path):
    """Two runs at once, each with a Ray of its own, one of them interrupted by Ctrl-C."""
    runs, folders = {}, {}
    for ending in ("done", "interrupted"):
        mark, folder = f"evomerge-{uuid.uuid4()}", tmp_path / ending
        folder.mkdir()
        environment = {**os.environ, "EVOMERGE_TEST_MARK": mark, "PYTHONPATH": str(ROOT)}
        environment["RAY_TMPDIR"] = folders[ending] = tempfile.mkdtemp(prefix="em-")
        environment.pop("RAY_ADDRESS", None)
        runs[ending] = mark, start([sys.executable, "-c", SCRIPT, folder, ending], environment)
    said = {}
    for ending, (_, process) in runs.items():
        out, err = process.communicate(timeout=120)
        said[ending] = out.splitlines()
        assert said[ending][:1] == ["scored True 1.0"], err
        assert err == ""
        assert process.returncode == 0
    assert said["done"] == ["scored True 1.0", "scored True 1.0", "closed False"]
    assert len((tmp_path / "done" / "closed").read_text().splitlines()) == 2
    assert said["interrupted"] == ["scored True 1.0", "interrupted", "closed False"]
    for ending, (mark, _) in runs.items():
        assert left_behind(mark, folders[ending]) == []
        shutil.rmtree(folders[ending])


def start(command, environment):
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_address_without_a_cluster_is_the_users_to_mend(tmp_path):
    code = (
        "from evomerge.cluster.executor import RayExecutor\n"
        "from search_spaces.errors import InputError\n"
        "for address in ('127.0.0.1:1', 'ray://127.0.0.1:1', 'nonsense'):\n"
        "    try:\n"
        "        RayExecutor(print, address=address)\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert len(output) == 3
    for line, address in zip(output, ("127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"), strict=True):
        assert line.startswith(f"cluster.address: address '{address}': no Ray cluster answers")
        assert "ray start --head" in line
