"""`ray job submit` on a real head with its dashboard: a job starts a run, another continues it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, show

EXAMPLES = ROOT / "examples" / "cluster"
RAY = Path(sys.executable).with_name("ray")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """A head of its own: own ports, own folder, own token. The environment that finds it."""
    pytest.importorskip("ray.dashboard.modules.job.sdk", reason="needs ray[default]")
    # sockets are made below it, and their paths must not be long
    folder = Path(tempfile.mkdtemp(prefix="em-", dir="/tmp"))
    (folder / "token").write_text(secrets.token_hex(32))
    dashboard = free_port()
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [
        str(RAY), "start", "--head", "--block", "--port=0", f"--temp-dir={folder}", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=134217728",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(environment["RAY_API_SERVER_ADDRESS"], process, folder / "log")
        yield environment
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(address, process, log):
    """Until the head's job server answers (that it wants a token is an answer)."""
    patience = time.monotonic() + 120
    while time.monotonic() < patience:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())


@pytest.fixture
def work(tmp_path, write_run):
    """A folder to upload: the run file beside its tasks; the models are elsewhere."""
    folder = tmp_path / "work"
    folder.mkdir()
    content = yaml.safe_load(write_run().read_text())
    shutil.copytree(content["fitness"]["include"], folder / "tasks")
    content["fitness"]["include"] = "tasks"
    content["search"] |= {"random_baseline": False, "budget": {"evaluations": 8}}
    content["cluster"] = {"address": "auto", "evaluators": 1}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder


def submit(work, folder, environment):
    environment = {**environment, "EVOMERGE": f"{sys.executable} -m evomerge.cli"}
    return subprocess.run(
        ["sh", str(EXAMPLES / "submit.sh"), str(work / "run.yaml"), str(folder)],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


def test_a_job_starts_a_run_and_another_one_continues_it(head, work, tmp_path):
    """The upload of the second job differs, so it is unpacked elsewhere than the run remembers."""
    folder = tmp_path / "runs" / "night"
    done = submit(work, folder, head)
    assert done.returncode == 0, done.stdout + done.stderr
    first = show(folder)
    assert (first["status"], first["budget"]["done"]) == ("done", 8)
    (work / "note.txt").write_text("another upload")
    begun_in = yaml.safe_load((folder / "run.yaml").read_text())["frozen"]["origin"]
    done = submit(work, folder, head)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has finished: 8 evaluations" in " ".join(done.stdout.split())
    goes_on_in = yaml.safe_load((folder / "run.yaml").read_text())["frozen"]["origin"]
    assert begun_in != goes_on_in
    done = subprocess.run(
        [
            RAY, "job", "submit", "--", sys.executable, "-m", "evomerge.cli", "resume", folder,
            "--evaluations", "12",
        ],
        env=head, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    second = show(folder)
    assert (second["status"], second["budget"]["done"]) == ("done", 12)
    keep = ("genome", "objectives", "seconds")
    for before, after in zip(first["candidates"], second["candidates"], strict=False):
        assert json.dumps([before[k] for k in keep]) == json.dumps([after[k] for k in keep])


def test_the_users_mistake_is_the_jobs_failure(head, work, tmp_path):
    """A job that "succeeded" with a run file that cannot be read would be found in the morning."""
    (work / "run.yaml").write_text("models: 3\n")
    done = submit(work, tmp_path / "runs" / "night", head)
    assert done.returncode == 1
    assert "error: run.yaml" in done.stdout
    assert "exit code 2" in done.stdout + done.stderr
