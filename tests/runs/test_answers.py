"""The answers of earlier runs: exact, whole, shared by processes, and never a reason to stop."""

import dataclasses
import logging
import math
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.answers import measure
from evomerge.runs.answers import AnswerCache
from fitness.items import Item, Response

ROOT = Path(__file__).parents[2]


def items_of(numbers, task="task"):
    return [Item(task, n, (), f"{n:016x}") for n in numbers]


def responses_of(items, seed=0):
    rng = random.Random(seed)

    def response(item):
        cut, unparsed = rng.random() < 0.5, rng.random() < 0.1
        score, tokens, loss = rng.random(), rng.randrange(5000), rng.random()
        return Response(item.task, item.index, score, tokens, cut, unparsed, loss)

    return [response(item) for item in items]


ITEMS = items_of(range(100))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "answers.db"


@pytest.fixture
def cache(path):
    cache = AnswerCache(path)
    yield cache
    cache.close()


def process(path, body, **options):
    """Another driver: `cache`, `answers` and this file's helpers are at hand in `body`."""
    program = (
        "from evomerge.runs.answers import AnswerCache\n"
        "from tests.runs.test_answers import *\n"
        f"cache = AnswerCache(Path({str(path)!r}))\n"
        "answers = cache.fingerprinted('f')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program + body]
    return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **options)


def bits(response):
    return struct.pack("<d", response.score), dataclasses.astuple(response)[3:]


def test_answers_are_given_back_exactly_after_reopening(path):
    scores = [0.0, 1.0, 1 / 3, 0.1 + 0.2, 5e-324, 1 - 2**-53]
    items = items_of(range(len(scores)))
    given = [
        Response("task", i, score, tokens=4000 * i, truncated=i % 2 == 0, parse_failure=i % 3 == 0)
        for i, score in enumerate(scores)
    ]
    cache = AnswerCache(path)
    cache.fingerprinted("f").keep("recipe", items, given)
    cache.close()
    cache = AnswerCache(path)
    found = cache.fingerprinted("f").known("recipe", items)
    assert found == dict(enumerate(given))
    assert [bits(found[i]) for i in range(len(given))] == [bits(r) for r in given]
    assert type(found[0].truncated) is type(found[0].parse_failure) is bool
    cache.close()


OTHER_VALUES = {"tokens": 7, "truncated": True, "parse_failure": True, "loss": 0.0}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Response)][3:])
def test_every_field_of_a_response_is_kept(cache, field):
    """Whoever adds a field to `Response` has to add it to the file, with a new schema version."""
    given = Response("task", 0, 0.25, **{field: OTHER_VALUES[field]})
    answers = cache.fingerprinted("f")
    answers.keep("r", ITEMS[:1], [given])
    assert answers.known("r", ITEMS[:1]) == {0: given} != {0: Response("task", 0, 0.25)}


def test_a_loss_may_be_anything_a_float_can(cache):
    losses = [None, 0.0, -0.0, 1e-300, math.inf, math.nan, 2 / 3]
    answers = cache.fingerprinted("f")
    given = [
        dataclasses.replace(r, loss=x)
        for r, x in zip(responses_of(ITEMS[: len(losses)]), losses, strict=True)
    ]
    answers.keep("r", ITEMS[: len(losses)], given)
    found = [response.loss for response in answers.known("r", ITEMS).values()]
    assert [repr(x) for x in found] == [repr(x) for x in losses]


def test_positions_are_those_of_the_items_asked_for(cache):
    answers = cache.fingerprinted("f")
    given = responses_of(ITEMS)
    answers.keep("r", ITEMS[10:20], given[10:20])
    answers.keep("r", ITEMS[40:50], given[40:50])
    asked = [ITEMS[45], ITEMS[0], ITEMS[12], ITEMS[45], *items_of([7], "other")]
    assert answers.known("r", asked) == {0: given[45], 2: given[12], 3: given[45]}
    moved = [dataclasses.replace(ITEMS[12], index=900)]  # the same document elsewhere in its task
    assert answers.known("r", moved) == {0: dataclasses.replace(given[12], index=900)}


@pytest.mark.parametrize(
    ("fingerprint", "recipe", "item"),
    [
        ("g", "r", ITEMS[0]),
        ("f", "s", ITEMS[0]),
        ("f", "r", dataclasses.replace(ITEMS[0], digest="changed")),
        ("f", "r", dataclasses.replace(ITEMS[0], task="other")),
        ("f r", "", ITEMS[0]),
    ],
)
def test_another_condition_recipe_or_item_is_not_known(cache, fingerprint, recipe, item):
    cache.fingerprinted("f").keep("r", ITEMS[:1], responses_of(ITEMS[:1]))
    assert cache.fingerprinted("f").known("r", ITEMS[:1])
    assert cache.fingerprinted(fingerprint).known(recipe, [item]) == {}


def test_what_is_there_already_stays(cache):
    answers = cache.fingerprinted("f")
    first, second = responses_of(ITEMS, 1), responses_of(ITEMS, 2)
    answers.keep("r", ITEMS[:60], first[:60])
    answers.keep("r", ITEMS[40:], second[40:])
    assert answers.known("r", ITEMS) == dict(enumerate(first[:60] + second[60:]))
    size = cache.path.stat().st_size
    for _ in range(50):
        answers.keep("r", ITEMS, second)
    assert cache.path.stat().st_size == size


def test_processes_share_a_new_file(path):
    """Six make it at once, each keeps its own 30 candidates and the same 30 as the others."""
    body = (
        "for n in range(30):\n"
        "    answers.keep(f'{SEED}-{n}', ITEMS, responses_of(ITEMS, n))\n"
        "    answers.keep(f'both-{n}', ITEMS, responses_of(ITEMS, n))\n"
    )
    drivers = [
        process(path, body.replace("{SEED}", str(d)), stderr=subprocess.PIPE) for d in range(6)
    ]
    for driver in drivers:
        _, complaints = driver.communicate(timeout=120)
        assert (driver.returncode, complaints) == (0, "")
    cache = AnswerCache(path)
    answers = cache.fingerprinted("f")
    for n in range(30):
        for name in ["both", *range(6)]:
            expected = dict(enumerate(responses_of(ITEMS, n)))
            assert answers.known(f"{name}-{n}", ITEMS) == expected, (name, n)
    (batches,) = cache._connection.execute("SELECT COUNT(*) FROM batches").fetchone()
    assert batches == 30 * 7
    cache.close()


def test_a_driver_killed_in_the_middle_leaves_whole_batches(path):
    body = (
        "print('begun', flush=True)\n"
        "for n in range(10**9):\n"
        "    answers.keep(str(n), ITEMS, responses_of(ITEMS, n))\n"
    )
    rng = random.Random(0)
    for _ in range(4):
        driver = process(path, body, stdout=subprocess.PIPE)
        assert driver.stdout.readline() == "begun\n"
        time.sleep(rng.uniform(0.05, 0.3))
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    cache = AnswerCache(path)
    answers = cache.fingerprinted("f")
    assert cache._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    (batches,) = cache._connection.execute("SELECT COUNT(*) FROM batches").fetchone()
    assert batches > 0
    for n in range(batches):
        assert answers.known(str(n), ITEMS) == dict(enumerate(responses_of(ITEMS, n)))
    answers.keep("next", ITEMS, responses_of(ITEMS))
    assert len(answers.known("next", ITEMS)) == len(ITEMS)
    cache.close()


def test_a_full_disk_is_one_warning(path):
    """The system refuses to let the files grow: what was kept is known, the rest is not kept."""
    body = (
        "import resource\n"
        "for n in range(500):\n"
        "    if n == 100:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))\n"
        "    answers.keep(str(n), ITEMS, responses_of(ITEMS, n))\n"
        "print(sum(len(answers.known(str(n), ITEMS)) == len(ITEMS) for n in range(500)))\n"
        "cache.close()\n"
    )
    driver = process(path, body, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    known, complaints = driver.communicate(timeout=120)
    assert driver.returncode == 0, complaints
    assert 100 <= int(known) < 500
    assert complaints.count("\n") == 1
    assert f"{path} cannot be written" in complaints
    assert "not kept for other runs" in complaints


def test_a_file_that_another_program_locks_is_one_warning(path, cache, caplog):
    answers = cache.fingerprinted("f")
    answers.keep("before", ITEMS, responses_of(ITEMS))
    cache._connection.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for n in range(5):
        answers.keep(str(n), ITEMS, responses_of(ITEMS))
    assert len(answers.known("before", ITEMS)) == len(ITEMS), "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cannot be written (database is locked)" in record.getMessage()
    answers.keep("after", ITEMS, responses_of(ITEMS))
    assert answers.known("after", ITEMS) == {}, "no candidate waits for the file again"


def test_a_file_that_may_only_be_read_is_read(path, caplog, monkeypatch):
    cache = AnswerCache(path)
    cache.fingerprinted("f").keep("r", ITEMS, responses_of(ITEMS))
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda p, **o: connect(f"file:{p}?mode=ro", uri=True, **o)
    )
    reader = AnswerCache(path)
    answers = reader.fingerprinted("f")
    answers.keep("s", ITEMS, responses_of(ITEMS))
    assert len(answers.known("r", ITEMS)) == len(ITEMS)
    assert answers.known("s", ITEMS) == {}
    reader.close()
    cache.close()
    assert [r.getMessage().count("readonly") for r in caplog.records] == [1]


def _text(path):
    path.write_text("notes, not answers\n" * 1000)


def _another_programs(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE batches (candidate, answers, checksum)")
    connection.commit()
    connection.close()


def _another_version(path):
    AnswerCache(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()


def _cut_off(path):
    _filled(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _folder(path):
    path.mkdir()


def _filled(path):
    cache = AnswerCache(path)
    for n in range(30):
        cache.fingerprinted("f").keep(str(n), ITEMS, responses_of(ITEMS, n))
    cache.close()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_text, "file is not a database"),
        (_another_programs, "another program's"),
        (_another_version, "schema version 7, and this evomerge reads version 1"),
        (_cut_off, "malformed"),
        (_folder, "unable to open"),
    ],
)
def test_a_file_that_is_no_use_is_left_alone_with_one_warning(path, caplog, spoil, why):
    path.parent.mkdir()
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    cache = AnswerCache(path)
    answers = cache.fingerprinted("f")
    for n in range(30):
        assert answers.known(f"new {n}", ITEMS) == {}
        answers.keep(f"new {n}", ITEMS, responses_of(ITEMS))
    cache.close()
    (record,) = caplog.records
    assert why in record.getMessage()
    assert str(path) in record.getMessage()
    if before is not None:
        assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "runs").write_text("a file in its place")
    cache = AnswerCache(tmp_path / "runs" / "answers.db")
    cache.fingerprinted("f").keep("r", ITEMS, responses_of(ITEMS))
    assert cache.fingerprinted("f").known("r", ITEMS) == {}
    assert len(caplog.records) == 1


def test_damage_costs_answers_but_never_changes_one(path):
    _filled(path)
    whole = path.read_bytes()
    rng = random.Random(1)
    expected = [dict(enumerate(responses_of(ITEMS, n))) for n in range(30)]
    lost = 0
    for _ in range(60):
        spoilt = bytearray(whole)
        for _ in range(rng.choice([1, 30])):
            spoilt[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(spoilt)
        cache = AnswerCache(path)
        for n, answers in enumerate(expected):
            found = cache.fingerprinted("f").known(str(n), ITEMS)
            assert found.items() <= answers.items()
            lost += len(found) < len(answers)
            cache.fingerprinted("f").keep(str(n), ITEMS, list(answers.values()))
        cache.close()
        for beside in path.parent.glob("answers.db-*"):
            beside.unlink()
    assert lost, "the damage was felt"


def test_the_oldest_answers_make_room(path):
    cache = AnswerCache(path)
    for n in range(300):
        cache.fingerprinted("f").keep(str(n), ITEMS, responses_of(ITEMS, n))
    cache.close()
    limit = path.stat().st_size // 2
    cache = AnswerCache(path, limit)
    known = [bool(cache.fingerprinted("f").known(str(n), ITEMS)) for n in range(300)]
    cache.close()
    assert path.stat().st_size <= limit
    assert known == sorted(known)
    assert 100 < sum(known) < 200
    AnswerCache(path, 0).close()
    assert path.stat().st_size < 2**16


def test_an_interruption_does_not_leave_the_file_locked(path, cache):
    answers = cache.fingerprinted("f")

    def interrupted(connection):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache._change(interrupted)
    other = AnswerCache(path)
    other.fingerprinted("f").keep("r", ITEMS, responses_of(ITEMS))
    assert len(answers.known("r", ITEMS)) == len(ITEMS)
    other.close()


def test_the_benchmark_says_what_it_measured():
    found = measure(candidates=20, items=10)
    assert (found["candidates"], found["items"]) == (20, 10)
    assert all(found[name] > 0 for name in ("us_miss", "us_record", "us_keep", "us_known"))
    assert found["bytes_per_answer"] * 200 == pytest.approx(8192 * 4, abs=8192 * 3)
