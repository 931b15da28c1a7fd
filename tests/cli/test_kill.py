"""kill -9 of the driver at any moment, then resume: same candidates, same archive, nothing paid twice."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from evomerge.report.summary import summarise
from evomerge.runs.folder import RunFolder
from tests.conftest import show

FACTS = ("id", "genome", "recipe_hash", "objectives", "outcome", "on_front", "selection", "cached")


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, quickstart):
    """A run small enough to be repeated: 24 candidates and as many random ones."""
    import copy

    content = copy.deepcopy(quickstart)
    for task in content["fitness"]["tasks"].values():
        task.update(items=6, selection=6, test=12)
    content["search"] |= {"population": 8, "budget": {"evaluations": 20}, "finalists": 3}
    content["cluster"] = {"executor": "serial"}
    path = tmp_path_factory.mktemp("kill") / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(run_file: Path, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "evomerge.cli", "search", str(run_file), "--dir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def recorded(folder: Path) -> int:
    """Evaluations in run.db, as another process sees them."""
    if not (folder / "run.db").exists():
        return 0
    connection = sqlite3.connect(f"file:{folder / 'run.db'}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute("SELECT count(*) FROM evaluations").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def kill_at(run_file: Path, folder: Path, evaluations: int) -> int:
    """Start a search, kill -9 it once that many evaluations are recorded; how many then are."""
    driver = start(run_file, folder)
    deadline = time.monotonic() + 300
    while recorded(folder) < evaluations and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    return recorded(folder)


@pytest.fixture(scope="module")
def undisturbed(run_file):
    folder = run_file.parent / "undisturbed"
    assert start(run_file, folder).wait() == 0
    return show(folder)


@pytest.mark.parametrize("evaluations", [1, 7, 12, 23, 40, 50])
def test_killed_and_resumed_equals_undisturbed(evaluations, run_file, undisturbed, evomerge):
    folder = run_file.parent / f"killed-{evaluations}"
    kill_at(run_file, folder, evaluations)
    paid_before = paid(folder)
    assert evaluations <= len(paid_before) < len(paid(run_file.parent / "undisturbed"))
    done = evomerge("resume", folder)
    assert done.returncode == 0, done.stderr
    assert paid(folder)[: len(paid_before)] == paid_before
    assert_equal_runs(show(folder), undisturbed)


def assert_equal_runs(again, undisturbed):
    for key in ("status", "budget", "objectives", "baselines", "hypervolume", "chosen"):
        assert again[key] == undisturbed[key], key
    for a, b in zip(again["candidates"], undisturbed["candidates"], strict=True):
        assert {k: a[k] for k in FACTS} == {k: b[k] for k in FACTS}


def test_killed_with_two_ray_evaluators_at_work(run_file, undisturbed, evomerge):
    """Candidates finish in any order there; they are told in the order of ask all the same."""
    ray_file = run_file.parent / "ray.yaml"
    content = yaml.safe_load(run_file.read_text())
    ray_file.write_text(yaml.safe_dump({**content, "cluster": {"evaluators": 2}}))
    folder = run_file.parent / "killed-ray"
    kill_at(ray_file, folder, 9)
    paid_before = paid(folder)
    assert len(paid_before) < len(paid(run_file.parent / "undisturbed"))
    done = evomerge("resume", folder)
    assert done.returncode == 0, done.stderr
    assert paid(folder)[: len(paid_before)] == paid_before
    assert_equal_runs(show(folder), undisturbed)


def test_show_works_while_the_search_records(run_file):
    # a workspace of its own: with the other runs' answers it would be over before it is seen
    folder = run_file.parent / "alone" / "watched"
    driver = start(run_file, folder)
    seen = []
    while driver.poll() is None:
        if (folder / "run.db").exists():
            with closing(RunFolder.open(folder)) as run:
                seen.append(summarise(run))
    assert driver.returncode == 0
    done = [s["budget"]["done"] for s in seen]
    assert done == sorted(done)
    assert len(set(done)) > 2, "it was seen growing"
    assert "running" in {s["status"] for s in seen}


def paid(folder: Path) -> list[tuple[object, ...]]:
    """Every evaluation paid for, with the moment it finished; run.db allows each recipe once a split."""
    connection = sqlite3.connect(folder / "run.db")
    rows = connection.execute(
        "SELECT recipe_hash, split, finished FROM evaluations ORDER BY id"
    ).fetchall()
    connection.close()
    assert len({row[:2] for row in rows}) == len(rows)
    return rows


def test_a_search_killed_twice(run_file, undisturbed, evomerge):
    folder = run_file.parent / "killed-twice"
    kill_at(run_file, folder, 3)
    command = [sys.executable, "-m", "evomerge.cli", "resume", str(folder)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = recorded(folder)
    while recorded(folder) < before + 5 and driver.poll() is None:
        time.sleep(0.002)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert evomerge("resume", folder).returncode == 0
    assert show(folder)["candidates"][-1]["genome"] == undisturbed["candidates"][-1]["genome"]
    assert show(folder)["hypervolume"] == undisturbed["hypervolume"]


def test_ctrl_c_is_exit_3_and_resumable(run_file, undisturbed, evomerge):
    folder = run_file.parent / "interrupted"
    command = [sys.executable, "-m", "evomerge.cli", "search", str(run_file), "--dir", str(folder)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while recorded(folder) < 5 and driver.poll() is None:
        time.sleep(0.002)
    driver.send_signal(signal.SIGINT)
    _, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 3
    assert "resume" in stderr
    assert "Traceback" not in stderr
    assert show(folder)["status"] == "interrupted"
    assert evomerge("resume", folder).returncode == 0
    assert show(folder)["hypervolume"] == undisturbed["hypervolume"]
