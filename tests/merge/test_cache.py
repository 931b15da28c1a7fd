"""Tables on disk: found by content, refused when damaged, and never in the way."""

import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from evomerge.merge.cache import Arrays, Cache, cache_folder
from evomerge.merge.deltas import Delta, Origin
from evomerge.merge.prepared import Prepared
from tests.merge.taus import KINDS, LARGE, named
from tests.merge.test_statistics import FAMILIES


def _tables(seed: int = 0, count: int = 5) -> dict[str, Arrays]:
    random = np.random.default_rng(seed)
    return {
        f"table {i}": {
            "values": random.random(7, np.float32),
            "counts": random.integers(0, 2**40, 7),
            "sums": random.random((7, i)),
        }
        for i in range(count)
    }


def _same(found: dict[str, Arrays], expected: dict[str, Arrays]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].keys() == expected[name].keys()
        and all(np.array_equal(found[name][f], expected[name][f]) for f in expected[name])
        for name in expected
    )


def _only_file(cache: Cache) -> Path:
    (path,) = (cache.folder / "tables").iterdir()
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_tables_come_back(cache):
    assert cache.load("shelf") == {}
    cache.store("shelf", _tables())
    assert _same(Cache(cache.folder).load("shelf"), _tables())
    assert cache.load("another shelf") == {}


def test_tables_are_added_to_a_shelf(cache):
    cache.store("shelf", _tables(0, 2))
    cache.store("shelf", {"more": _tables()["table 3"]})
    assert _same(cache.load("shelf"), {**_tables(0, 2), "more": _tables()["table 3"]})


def test_a_file_of_the_cache_is_what_its_module_says(cache):
    cache.store("shelf", _tables(0, 2))
    entries = load_file(_only_file(cache))
    assert sorted(entries) == [f"{i}/{f}" for i in (0, 1) for f in ("counts", "sums", "values")]


def test_any_flipped_bit_is_noticed_or_without_effect(cache, caplog):
    cache.store("shelf", _tables(0, 2))
    path = _only_file(cache)
    content = path.read_bytes()
    noticed = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = cache.load("shelf")
        noticed += not found
        assert not found or _same(found, _tables(0, 2))
    assert noticed > 0.9 * len(content)
    assert len(caplog.records) == noticed
    cache.store("shelf", _tables())
    assert _same(cache.load("shelf"), _tables())


@pytest.mark.parametrize("left", [0, 4, 100, 0.5, 0.999])
def test_a_cut_off_file_is_noticed(cache, caplog, left):
    cache.store("shelf", _tables())
    content = _only_file(cache).read_bytes()
    _only_file(cache).write_bytes(content[: int(left * len(content)) if left < 1 else left])
    assert cache.load("shelf") == {}
    assert len(caplog.records) == 1


def test_another_shelfs_file_is_refused(cache, caplog):
    cache.store("one", _tables(1))
    one = _only_file(cache)
    content = one.read_bytes()
    one.unlink()
    cache.store("two", _tables(2))
    _only_file(cache).write_bytes(content)
    assert cache.load("two") == {}
    assert "something else" in caplog.text


def test_an_older_schema_is_refused(cache, caplog):
    cache.store("shelf", _tables())
    path = _only_file(cache)
    save_file(load_file(path), path, {"schema": "0", "shelf": "shelf", "tables": "[]"})
    assert cache.load("shelf") == {}
    assert "something else" in caplog.text


def test_anything_else_in_place_of_a_file_is_refused(cache, caplog):
    cache.store("shelf", _tables())
    path = _only_file(cache)
    path.unlink()
    path.mkdir()
    assert cache.load("shelf") == {}
    cache.store("shelf", _tables())
    assert cache.load("shelf") == {}


def test_the_least_recently_used_tables_go_first(tmp_path):
    size = 200_000
    cache = Cache(tmp_path, limit=int(3.5 * size))
    table = {"t": {"values": np.zeros(size, np.int8)}}
    for i, shelf in enumerate("abc"):
        cache.store(shelf, table)
        os.utime(cache._path(shelf), (1000 + i, 1000 + i))
    assert cache.load("a")  # now used last
    cache.store("d", table)
    assert [bool(cache.load(shelf)) for shelf in "abcd"] == [True, False, True, True]


def test_what_a_killed_writer_left_is_removed(cache):
    cache.store("shelf", _tables())
    for name, age in (("old", 10_000), ("new", 10)):
        left = cache.folder / "tables" / f"{name}.tmp"
        left.write_bytes(b"half a file")
        changed = left.stat().st_mtime - age
        os.utime(left, (changed, changed))
    cache.store("shelf", _tables())
    assert sorted(p.suffix for p in (cache.folder / "tables").iterdir()) == [".safetensors", ".tmp"]


def _store_many(arguments: tuple[Path, int]) -> None:
    folder, worker = arguments
    cache = Cache(folder)
    for _ in range(20):
        cache.store("shelf", _tables())
        assert _same(cache.load("shelf"), _tables()), worker


def test_processes_share_a_folder(cache):
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(_store_many, [(cache.folder, worker) for worker in range(4)]))
    assert _same(cache.load("shelf"), _tables())
    assert _only_file(cache)


def test_a_folder_that_cannot_be_made_is_no_failure(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache")
    cache.store("shelf", _tables())
    cache.store("shelf", _tables())
    assert cache.load("shelf") == {}
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    assert len(cache.contents([source])[0]) == 64
    assert len(caplog.records) == 1
    assert "built at every start" in caplog.text


def test_a_full_disk_is_no_failure(tmp_path):
    """The limit on a file's size stands for a full disk: a write fails half-way."""
    script = (
        "import resource, signal, sys, numpy as np; from pathlib import Path;"
        "from evomerge.merge.cache import Cache;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
        "cache = Cache(Path(sys.argv[1]));"
        "cache.store('shelf', {'t': {'values': np.zeros(100_000)}});"
        "print(cache.load('shelf'), list((cache.folder / 'tables').iterdir()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "{} []"
    assert "cannot be written" in result.stderr


def test_the_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == Cache().folder == tmp_path / "mine"
    monkeypatch.delenv("EVOMERGE_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "evomerge"


# --- contents ------------------------------------------------------------------------------------


def test_contents_are_told_apart_by_what_is_in_a_file(cache, tmp_path):
    one, two, copy = (tmp_path / name for name in ("one", "two", "copy"))
    one.write_bytes(b"a" * 1000)
    two.write_bytes(b"b" * 1000)
    shutil.copy(one, copy)
    (tmp_path / "link").symlink_to(two)
    found = cache.contents([one, two, copy, tmp_path / "link"])
    assert found[0] == found[2] != found[1] == found[3]
    assert Cache(cache.folder).contents([one, two]) == found[:2]


def test_contents_are_remembered_until_the_file_changes(cache, tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 1000)
    (first,) = cache.contents([file])
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"b" * 1000)
    os.utime(file, ns=times)  # not read again: it looks the same
    assert Cache(cache.folder).contents([file]) == [first]
    os.utime(file, ns=(times[0], times[1] + 1))
    assert cache.contents([file]) != [first]


@pytest.mark.parametrize("damage", [b"", b"z" * 64, b"\xff" * 64, b"0" * 63])
def test_a_damaged_memory_of_contents_is_not_believed(cache, tmp_path, damage):
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 1000)
    (first,) = cache.contents([file])
    (remembered,) = (cache.folder / "files").iterdir()
    remembered.write_bytes(damage)
    assert Cache(cache.folder).contents([file]) == [first]
    assert remembered.read_text() == first


# --- prepared sources ------------------------------------------------------------------------------


def _questions(prepared: Prepared, delta: Delta, deltas: list[Delta]) -> list[float]:
    return [
        prepared.threshold(delta, delta.count // 3),
        prepared.l1(delta),
        prepared.l1_above(delta, prepared.threshold(delta, delta.count // 3), float("inf")),
        *prepared.gram(deltas).reshape(-1).tolist(),
        least := prepared.variance_threshold(deltas, 0.3),
        *prepared.energies(deltas, least),
    ]


def _sources() -> tuple[Delta, list[Delta]]:
    family = FAMILIES["three float16"]()
    return (
        named(KINDS["bfloat16"](), "w", "w of the base"),
        [named(d, f"w {i}", "w") for i, d in enumerate(family)],
    )


def _emptied(delta: Delta) -> Delta:
    """A delta of the same name whose elements would give themselves away."""
    return named(Delta(torch.zeros(LARGE)), *(origin.tensor for origin in delta.key or ()))


def test_the_next_start_does_not_read_the_sources(cache):
    delta, deltas = _sources()
    prepared = Prepared(cache)
    answers = _questions(prepared, delta, deltas)
    prepared.save()
    again = Prepared(Cache(cache.folder))
    assert _questions(again, _emptied(delta), [_emptied(d) for d in deltas]) == answers
    before = {p: p.stat().st_mtime_ns for p in (cache.folder / "tables").iterdir()}
    again.save()  # nothing new
    assert before == {p: p.stat().st_mtime_ns for p in (cache.folder / "tables").iterdir()}


def test_tables_of_one_pair_of_files_share_a_file(cache):
    prepared = Prepared(cache)
    for i in range(10):
        prepared.threshold(named(Delta(torch.rand(100) + i), f"w {i}"), 5)
    prepared.save()
    shelf = json.dumps(["magnitude", [["content"]]])
    assert len(cache.load(shelf)) == 10
    assert _only_file(cache)


def test_damaged_tables_are_built_anew(cache, caplog):
    delta, deltas = _sources()
    prepared = Prepared(cache)
    answers = _questions(prepared, delta, deltas)
    prepared.save()
    for path in (cache.folder / "tables").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        again = Prepared(cache)
        assert _questions(again, delta, deltas) == answers
    assert len(caplog.records) == 3  # a line a file
    again.save()
    assert _questions(Prepared(cache), _emptied(delta), [_emptied(d) for d in deltas]) == answers


def test_an_unusable_cache_changes_no_answer(tmp_path):
    (tmp_path / "file").write_text("in the way")
    delta, deltas = _sources()
    prepared = Prepared(Cache(tmp_path / "file"))
    assert _questions(prepared, delta, deltas) == _questions(Prepared(), delta, deltas)
    prepared.save()


def test_what_only_this_process_knows_is_not_written(cache):
    """Rows matched by token are named by the sources that matched them."""
    delta = KINDS["bfloat16"]()
    delta.key = (Origin("this process's", "w"),)
    prepared = Prepared(cache)
    prepared.threshold(delta, 5)
    prepared.save()
    assert not cache.folder.exists()
