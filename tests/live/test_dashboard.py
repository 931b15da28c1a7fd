"""The dashboard: served for real, its values those of run.db; it leaves no trace and lets nobody else in."""

import builtins
import hashlib
import http.client
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from benchmarks.dashboard import measure
from evomerge.live.dashboard import serve
from evomerge.live.mirror import Mirror
from evomerge.live.record import reading
from evomerge.live.variables import counts, described
from search_spaces.errors import InputError
from search_spaces.path import PathSpace
from search_spaces.space import from_unit
from search_spaces.templates import TemplateSpace
from tests.cli.test_kill import recorded
from tests.conftest import show


@contextmanager
def dashboard(run, *arguments):
    """The command, and its port."""
    command = [sys.executable, "-m", "evomerge.cli", "dashboard", str(run), "--port", "0"]
    process = subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line = process.stderr.readline()
    found = re.match(r"http://127\.0\.0\.1:(\d+)/", line)
    assert found, line + process.stderr.read()
    try:
        yield process, int(found[1])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def studies(port):
    """Name -> study, trials included, as the browser gets them."""
    _, body = ask(port, "/api/studies")
    return {
        found["study_name"]: json.loads(ask(port, f"/api/studies/{found['study_id']}?after=0")[1])
        for found in json.loads(body)["study_summaries"]
    }


def contents(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_its_values_are_those_of_run_db(run, change):
    change(
        "UPDATE evaluations SET outcome = 'timed out', reason = 'slow', objectives = '{}' WHERE"
        " recipe_hash = (SELECT recipe_hash FROM candidates WHERE phase = 'search' AND id = 7)"
    )
    summary, before = show(run), contents(run)
    with dashboard(run) as (process, port):
        found = studies(port)
        assert set(found) == {"run: search", "run: random baseline"}
        study = found["run: search"]
        names = [o["name"] for o in summary["objectives"]]
        assert study["objective_names"] == names
        assert study["directions"] == [o["direction"] for o in summary["objectives"]]
        assert len(study["trials"]) == 12
        for trial, candidate in zip(study["trials"], summary["candidates"], strict=True):
            compare(trial, candidate, names)
        assert study["trials"][7]["state"] == "Fail"
        assert contents(run) == before
        assert ask(port, "/dashboard")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert contents(run) == before, "not even closing leaves a trace"


def compare(trial, candidate, names):
    facts = {fact["key"]: fact["value"].strip('"') for fact in trial["user_attrs"]}
    assert facts["candidate"] == str(candidate["id"])
    assert facts["recipe"] == candidate["recipe_hash"]
    assert facts["outcome"] == candidate["outcome"]
    assert facts["worker"] == candidate["worker"]
    assert facts["phase"] == "search"
    params = {p["name"]: p["param_internal_value"] for p in trial["params"]}
    assert params == pytest.approx(candidate["genome"])
    for parameter in trial["params"]:
        assert (parameter["distribution"]["low"], parameter["distribution"]["high"]) == (0, 1.5)
    if candidate["outcome"] == "scored":
        assert trial["values"] == [candidate["objectives"][name]["value"] for name in names]
        for name in names:
            assert float(facts[f"se {name}"]) == candidate["objectives"][name]["se"]
    else:
        assert facts["reason"] == "slow"


def test_nobody_else_is_let_in(run):
    with dashboard(run) as (_, port):
        assert ask(port, "/api/studies", Host=f"localhost:{port}")[0] == 200
        assert ask(port, "/api/studies", Host="evil.example")[0] == 403
        assert ask(port, "/api/studies", "POST")[0] == 405
        assert ask(port, "/api/studies/0", "DELETE")[0] == 405
        listening = subprocess.run(
            [sys.executable, "-c", LISTENS, str(port)], capture_output=True, text=True, check=True
        )
        assert listening.stdout.split() == ["0100007F"], "127.0.0.1 and nothing else"


LISTENS = """
import sys
port = f":{int(sys.argv[1]):04X}"
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in open(table).readlines()[1:]:
        cells = line.split()
        if cells[1].endswith(port) and cells[3] == "0A":
            print(cells[1].split(":")[0])
"""


def test_a_run_is_followed_while_it_runs_and_after_it_died(write_run, tmp_path):
    folder = tmp_path / "run"
    run_file = write_run({"search.budget": {"evaluations": 400}, "search.population": 8})
    command = [sys.executable, "-m", "evomerge.cli", "search", str(run_file), "--dir", str(folder)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: recorded(folder) >= 5)
        with dashboard(folder) as (process, port):
            first = len(studies(port)["run: search"]["trials"])
            assert first >= 4
            wait_until(lambda: len(studies(port)["run: search"]["trials"]) > first)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            before = contents(folder)
            done = len(show_copy(folder, tmp_path / "copy")["candidates"])
            wait_until(lambda: len(studies(port)["run: search"]["trials"]) == done)
            assert contents(folder) == before
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        assert (folder / "run.db-wal").exists(), "the log that it died with is as it was"
        with dashboard(folder) as (_, port):
            assert len(studies(port)["run: search"]["trials"]) == done
        assert contents(folder) == before
    finally:
        driver.kill()
        driver.wait()


def show_copy(folder, copy):
    """`show` folds the log in, so it is given a copy."""
    return show(shutil.copytree(folder, copy))


def wait_until(what):
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_port_that_is_taken_is_one_line(run, evomerge):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = evomerge("dashboard", run, "--port", port)
    assert done.returncode == 2
    assert f"--port {port}: it cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_optuna_dashboard_the_command_to_install_it(run, monkeypatch):
    original = builtins.__import__

    def missing(name, *rest):
        if name == "optuna_dashboard":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"pip install 'evomerge\[dashboard\]'"):
        serve(run, 0)


def test_no_run_there(tmp_path, evomerge):
    done = evomerge("dashboard", tmp_path)
    assert done.returncode == 2
    assert "it holds no run" in done.stderr
    (tmp_path / "run.db").write_text("a thesis")
    done = evomerge("dashboard", tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def storage():
    from optuna.storages import InMemoryStorage

    return InMemoryStorage()


def trials(store):
    return store.get_all_trials(store.get_all_studies()[0]._study_id, deepcopy=False)


def test_a_record_without_facts_of_its_variables(run, change):
    """Of an evomerge that did not write them down: ranges are those that were seen."""
    change("DELETE FROM meta WHERE key = 'search_space'")
    store = storage()
    Mirror(run, store)
    [first, *_] = trials(store)
    genome = show(run)["candidates"][0]["genome"]
    assert first.params == pytest.approx(genome)
    name = next(iter(genome))
    seen = [c["genome"][name] for c in show(run)["candidates"]]
    assert first.distributions[name].low == min(seen)
    assert first.distributions[name].high == max(seen)


def test_constraints_are_told_as_optuna_tells_them(run):
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(text.replace("constraints: []", "constraints: ['words >= 0.9']"))
    store = storage()
    Mirror(run, store)
    [first, *_] = trials(store)
    value = show(run)["candidates"][0]["objectives"]["words"]["value"]
    assert list(first.constraints.values()) == pytest.approx([0.9 - value])


SPACES = {
    "path": PathSpace(["one", "two"], 6, (3, 6), first=1, input_scale=(0.5, 2.0)),
    "template": TemplateSpace(["one", "two"], 8),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_variables_that_do_not_count_are_left_out(space):
    """They are those that can be anything without another recipe coming of it."""
    facts = described(space)
    assert json.loads(json.dumps(facts)) == facts
    rng = np.random.default_rng(0)
    resting = 0
    for _ in range(40):
        point = rng.random(len(space.variables))
        genome = from_unit(space, point)
        away = [not counts(fact["when"], genome) for fact in facts]
        resting += sum(away)
        point[away] = rng.random(sum(away))
        assert space.decode(from_unit(space, point)).hash == space.decode(genome).hash
    assert resting
    assert not all(fact["when"] for fact in facts)


def test_the_benchmark_says_what_the_mirror_costs():
    found = measure(40, 5)
    assert found["candidates"] == 40
    assert found["page_bytes"] > 40 * 5 * 50, "the browser's first page has all trials"
    assert found["look_seconds"] < found["load_seconds"]


def test_reading_never_writes(run):
    """Each way of reading: as a file that does not change, and a copy with its log."""
    before = contents(run)
    with reading(run) as record:
        assert record.meta("schema_version") == 3
    assert contents(run) == before
    writer = sqlite3.connect(run / "run.db", isolation_level=None)
    writer.execute("INSERT INTO events (at, kind, detail) VALUES ('', 'late', '{}')")
    copied = shutil.copytree(run, run.parent / "dead")  # as if the writer had been killed
    writer.close()
    before = contents(copied)
    with reading(copied) as record:
        assert record.select("SELECT count(*) FROM events WHERE kind = 'late'") == [(1,)]
    assert contents(copied) == before
