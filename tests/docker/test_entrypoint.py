"""The entrypoint run as a script: on this machine's evomerge and Ray, as a container would run it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from evomerge.runs.database import Database
from tests.conftest import ROOT, show

ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
BIN = Path(sys.executable).parent


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "EVOMERGE_HEAD")}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        **more,
    }


def run(*arguments, **more):
    return subprocess.run(
        [ENTRYPOINT, *map(str, arguments)],
        env=environment(**more), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def run_file(write_run):
    file = write_run({"search.random_baseline": False})
    content = yaml.safe_load(file.read_text())
    content["fitness"]["tasks"] = {"sums": {"items": 6, "selection": 6, "test": 6}}
    content["fitness"]["objectives"] = ["sums"]
    file.write_text(yaml.safe_dump(content))
    return file


def test_it_starts_a_run_and_continues_it_also_where_the_run_file_is_mounted_elsewhere(
    run_file, tmp_path
):
    """The run's folder is called after the run file, in the folder for runs, unless it is said."""
    disk = tmp_path / "disk"
    done = run("search", run_file, "--evaluations", 8, EVOMERGE_RUNS=str(disk))
    assert done.returncode == 0, done.stderr
    assert show(disk / "run")["budget"]["done"] == 8
    (tmp_path / "moved").mkdir()
    moved = shutil.move(run_file, tmp_path / "moved" / "run.yaml")
    done = run("search", moved, f"--dir={disk / 'run'}", "--evaluations", 10)
    assert done.returncode == 0, done.stderr
    assert show(disk / "run")["budget"]["done"] == 10
    frozen = yaml.safe_load((disk / "run" / "run.yaml").read_text())["frozen"]
    assert frozen["origin"] == str(moved)


def test_docker_stop_is_ctrl_c_once(run_file, tmp_path):
    """SIGTERM to the process that the container began with ends the run as resumable: exit code 3."""
    folder = tmp_path / "night"
    command = [ENTRYPOINT, "search", run_file, "--dir", folder, "--evaluations", "400"]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    patience = time.monotonic() + 120
    while not (folder / "run.db").exists() or recorded(folder) < 3:
        assert time.monotonic() < patience
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    before = recorded(folder)
    assert before < 390
    done = run("resume", folder, "--moved", run_file.parent, "--json", "--evaluations", before + 2)
    assert done.returncode == 0, done.stderr
    assert recorded(folder) == before + 2


def recorded(folder):
    database = Database(folder / "run.db")
    try:
        return len(database.candidates("search"))
    finally:
        database.close()


def test_anything_else_is_evomerge_s():
    done = run("--help")
    assert done.returncode == 0
    assert "Evolve merge recipes" in done.stdout
    assert run("show", "/nowhere").returncode == 2
    assert run("search", "--help").returncode == 0
    assert run("search").returncode == 2


@pytest.mark.parametrize("arguments", [("worker",), ("search", "run.yaml", "--dir")])
def test_what_is_missing_is_said_in_one_line(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """A head without cores and a worker with one, begun by the script; their ports are their own."""
    folder = Path(tempfile.mkdtemp(prefix="em-", dir="/tmp"))  # sockets' paths must not be long
    port = free_port()
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    head = [
        "head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}",
        "--include-dashboard=false", f"--ray-client-server-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=134217728",
    ]  # fmt: skip
    worker = [
        "worker", f"127.0.0.1:{port}", "--node-ip-address=127.0.0.1", "--num-cpus=1",
        f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=134217728",
    ]  # fmt: skip
    started = []
    try:
        for arguments in (head, worker):
            log = (folder / f"{arguments[0]}.log").open("w")
            started.append(
                subprocess.Popen(
                    [ENTRYPOINT, *arguments], env=environment(**own), stdout=log, stderr=log
                )
            )
            if arguments is head:
                wait_for(port, started[0], folder / "head.log", own)
        yield own | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        for process in started:
            assert process.poll() is None, "a head or a worker ended by itself"
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(port, process, log, own):
    patience = time.monotonic() + 120
    while time.monotonic() < patience:
        assert process.poll() is None, log.read_text()
        asked = [BIN / "ray", "health-check", "--address", f"127.0.0.1:{port}"]
        done = subprocess.run(asked, env=environment(**own), capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_a_head_and_a_worker_evaluate_a_search(cluster, run_file, tmp_path):
    """The head has no core for an evaluator, so all of them are the worker's."""
    content = yaml.safe_load(run_file.read_text())
    content["cluster"] = {"address": "auto", "evaluators": 1, "gpus_per_evaluator": 0}
    run_file.write_text(yaml.safe_dump(content))
    done = run("search", run_file, "--dir", tmp_path / "night", "--evaluations", 8, **cluster)
    assert done.returncode == 0, done.stderr
    found = show(tmp_path / "night")
    assert found["budget"]["done"] == 8
    assert {c["outcome"] for c in found["candidates"]} == {"scored"}


def stand_in(folder, name, text):
    """A program of that name, first on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


def test_a_head_of_its_own_comes_before_the_search(tmp_path):
    """Stand-ins for ray and evomerge: only the order and the arguments are looked at."""
    log = tmp_path / "log"
    for name in ("ray", "evomerge"):
        folder = stand_in(tmp_path / "bin", name, f'echo "{name} $*" >> {log}')
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / "has").mkdir()
    for folder in ("new", "has"):
        if folder == "has":
            (tmp_path / folder / "run.db").touch()
        subprocess.run(
            [ENTRYPOINT, "search", "/in put/run.yaml", "--hours", "2", "--dir", tmp_path / folder, "--json"],
            env={"PATH": path, "EVOMERGE_HEAD": "7000"}, check=True,
        )  # fmt: skip
    head = "ray start --head --port=7000 --num-cpus=0 --dashboard-host=127.0.0.1"
    assert log.read_text().splitlines() == [
        head,
        f"evomerge search /in put/run.yaml --dir {tmp_path}/new --hours 2 --json",
        head,
        f"evomerge resume {tmp_path}/has --moved /in put --hours 2 --json",
    ]
