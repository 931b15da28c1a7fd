"""Ctrl-C: once finishes what is under way, twice stops at once; both resumable, nothing recorded is lost.

On a real terminal the whole foreground process group gets the signal: evaluators must not die of it.
"""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import yaml

from tests.cli.test_kill import FACTS, assert_equal_runs, paid, recorded
from tests.conftest import show
from tests.live.terminal import CTRL_C, Terminal

WAIT = """
import os, time
from pathlib import Path

def patience(answers):
    '''Sleeps while there is a file that says so, as a hung evaluation does.'''
    here = Path(__file__).parent
    while (here / "hang").exists():
        (here / f"hung-{os.getpid()}").touch()
        time.sleep(0.05)
    return 1.0
"""


@pytest.fixture(scope="module")
def night(tmp_path_factory, quickstart):
    """A run file in whose evaluations a file called `hang` can be waited for."""
    import copy

    folder = tmp_path_factory.mktemp("interrupt")
    (folder / "wait.py").write_text(WAIT)
    content = copy.deepcopy(quickstart)
    for task in content["fitness"]["tasks"].values():
        task.update(items=4, selection=4, test=6)
    content["fitness"]["objectives"] = [
        *content["fitness"]["objectives"],
        {"function": "wait.py:patience"},
    ]
    content["search"] |= {"population": 9, "budget": {"evaluations": 18}, "finalists": 2}
    content["search"]["random_baseline"] = False
    content["cluster"] = {"executor": "serial"}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    content["cluster"] = {"evaluators": 2}
    (folder / "ray.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def undisturbed(night):
    command = [sys.executable, "-m", "evomerge.cli", "search", night / "run.yaml"]
    done = subprocess.run(
        [*command, "--dir", night / "whole"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return show(night / "whole")


def driver(night, folder, run_file="run.yaml"):
    """A search in a process group of its own, its output kept."""
    command = [sys.executable, "-m", "evomerge.cli", "search", night / run_file, "--dir", folder]
    return subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(what, process=None):
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _nothing_hangs_on(night):
    """A test that fails while work hangs must not take the others with it."""
    yield
    (night / "hang").unlink(missing_ok=True)


def hang(night, workers, until):
    """Have every evaluator's work hang; gives back the file to remove.

    `until(what)` waits, and takes in meanwhile what the command writes: one that nobody reads stands
    still once its terminal or pipe is full.
    """
    for old in night.glob("hung-*"):
        old.unlink()
    file = night / "hang"
    file.touch()
    until(lambda: len([*night.glob("hung-*")]) == workers)
    return file


def checksum(summary):
    """Of all that a run found: genomes, scores, choice, baselines, in bytes."""
    told = {key: summary[key] for key in ("budget", "baselines", "hypervolume", "chosen")}
    candidates = [{fact: c[fact] for fact in FACTS} for c in summary["candidates"]]
    return hashlib.sha256(json.dumps([told, candidates], sort_keys=True).encode()).hexdigest()


def events(folder):
    with sqlite3.connect(folder / "run.db") as connection:
        return [kind for (kind,) in connection.execute("SELECT kind FROM events ORDER BY id")]


@pytest.mark.parametrize(
    ("run_file", "number"),
    [("run.yaml", signal.SIGINT), ("run.yaml", signal.SIGTERM), ("ray.yaml", signal.SIGTERM)],
)
def test_once_finishes_what_is_under_way(run_file, number, night, undisturbed, evomerge):
    folder = night / f"once-{run_file[:3]}-{int(number)}"
    process = driver(night, folder, run_file)
    workers = 1 if run_file == "run.yaml" else 2
    wait_until(lambda: recorded(folder) >= 3, process)
    hung = hang(night, workers, lambda what: wait_until(what, process))
    before = recorded(folder)
    process.send_signal(number)
    time.sleep(1.0)
    assert process.poll() is None, "it waits for what is under way"
    assert recorded(folder) == before
    hung.unlink()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    under_way = f"finishing {workers} evaluation{'s' if workers > 1 else ''} under way"
    assert f"{under_way}; Ctrl-C again stops now" in stderr
    assert f"interrupted; continue with 'evomerge resume {folder}'" in stderr
    assert recorded(folder) == before + workers, "each is recorded, and nothing was begun after it"
    for noise in ("Traceback", "SIGTERM", "*** "):
        assert noise not in stderr
    assert events(folder)[-1] == "stopped"
    assert "stopped on request" in evomerge("show", folder).stdout
    done = evomerge("resume", folder)
    assert done.returncode == 0, done.stderr
    again = show(folder)
    assert_equal_runs(again, undisturbed)
    assert checksum(again) == checksum(undisturbed)


@pytest.mark.parametrize("run_file", ["run.yaml", "ray.yaml"])
def test_twice_stops_at_once(run_file, night, undisturbed, evomerge):
    """A hung evaluation has no say in it."""
    folder = night / f"twice-{run_file[:3]}"
    process = driver(night, folder, run_file)
    wait_until(lambda: recorded(folder) >= 3, process)
    workers = 1 if run_file == "run.yaml" else 2
    hung = hang(night, workers, lambda what: wait_until(what, process))
    try:
        before = paid(folder)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        hung.unlink()
    assert process.returncode == 3, stderr
    assert f"evomerge resume {folder}" in stderr
    assert "Traceback" not in stderr
    assert paid(folder) == before, "nothing recorded is lost"
    assert evomerge("resume", folder).returncode == 0
    again = show(folder)
    assert paid(folder)[: len(before)] == before
    assert checksum(again) == checksum(undisturbed)


def test_ctrl_c_on_a_terminal_reaches_no_evaluator(night, undisturbed, evomerge):
    """The terminal signals the whole foreground process group, Ray's processes among them."""
    folder = night / "terminal"
    terminal = Terminal("search", night / "ray.yaml", "--dir", folder)
    terminal.until(lambda: recorded(folder) >= 3)
    hung = hang(night, 2, terminal.until)
    before = recorded(folder)
    terminal.press(CTRL_C)
    terminal.read(1.0)
    assert terminal.poll() is None
    hung.unlink()
    assert terminal.end() == 3, terminal.text
    assert "finishing 2 evaluations under way" in terminal.text
    assert terminal.text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in terminal.text
    assert recorded(folder) == before + 2, "both evaluators lived to tell"
    with sqlite3.connect(folder / "run.db") as connection:
        outcomes = connection.execute("SELECT DISTINCT outcome FROM evaluations").fetchall()
    assert outcomes == [("scored",)]
    assert evomerge("resume", folder).returncode == 0
    assert checksum(show(folder)) == checksum(undisturbed)


def test_interrupted_before_anything_is_under_way(night):
    """There is nothing to wait for. The line can be pasted: it names the folder as it was given."""
    command = [sys.executable, "-m", "evomerge.cli", "search", "run.yaml", "--dir", "runs/early"]
    process = subprocess.Popen(
        command, cwd=night, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait_until((night / "runs" / "early" / "run.db").exists, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert "Traceback" not in stderr
    assert "interrupted; continue with 'evomerge resume runs/early'" in stderr
    assert show(night / "runs" / "early")["status"] == "interrupted"


def test_a_main_thread_that_does_not_hear_is_ended(tmp_path):
    """A hung call of C: no handler of Python's runs. The listener answers, and leaves with 3."""
    program = f"""
import hashlib, sys
from pathlib import Path
from evomerge.stopping import Signals
with Signals(Path("runs/mine"), lambda text: print(text, file=sys.stderr, flush=True)) as signals:
    signals.install(lambda: 1)
    Path(r"{tmp_path}/ready").touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes, without a look at signals
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "ready").exists, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "finishing 1 evaluation under way" in stderr
    assert "evomerge resume runs/mine" in stderr


def test_resumable_after_the_group_is_terminated(night, undisturbed, evomerge):
    """As `timeout` does: SIGTERM to every process of the group. Ray's own ones end by it, and Ray then
    ends the driver, with a code of its own; what is recorded is whole."""
    folder = night / "group"
    process = driver(night, folder, "ray.yaml")
    wait_until(lambda: recorded(folder) >= 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    before = paid(folder)
    assert evomerge("resume", folder).returncode == 0
    assert paid(folder)[: len(before)] == before
    assert checksum(show(folder)) == checksum(undisturbed)


@pytest.mark.parametrize("times", [1, 2])
def test_while_the_evaluators_start(times, night, evomerge):
    """Ray takes seconds to start: the run was said to have died, and the second Ctrl-C ended by signal."""
    folder = night / f"starting-{times}"
    process = driver(night, folder, "ray.yaml")
    for line in process.stderr:
        if "starting the evaluators" in line:
            break
    time.sleep(1.0)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    assert "Traceback" not in stderr
    assert events(folder)[-1] == "stopped"
    assert "stopped on request" in evomerge("show", folder).stdout
