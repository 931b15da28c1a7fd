"""The dashboard goes on looking after a look that failed, and says so when there is nothing more."""

import shutil
import sqlite3
import threading
import time

import pytest

from evomerge.live.dashboard import _follow  # pyright: ignore[reportPrivateUsage]
from evomerge.live.mirror import Mirror
from evomerge.live.record import reading
from tests.live.test_dashboard import storage, trials, wait_until


@pytest.fixture
def followed(run):
    """A mirror of the run that is kept up to date, and the thread that does it."""
    store, over = storage(), threading.Event()
    mirror = Mirror(run, store)
    thread = threading.Thread(target=_follow, args=(mirror, run, over, 0.05), daemon=True)
    thread.start()
    yield store, thread
    over.set()
    thread.join(10)


ANOTHER = (
    "INSERT INTO candidates (phase, id, generation, genome, recipe_hash, cached, asked, told)"
    " SELECT phase, 1000, generation, genome, recipe_hash, 1, asked, 1000 FROM candidates"
    " WHERE phase = 'search' AND id = 3"
)


@pytest.mark.parametrize("broken", ["text", "folder"])
def test_a_look_that_failed_is_not_the_last(run, followed, change, broken):
    store, thread = followed
    database, kept = run / "run.db", run / "kept.db"
    assert len(trials(store)) == 12
    shutil.copy(database, kept)
    if broken == "text":  # a DatabaseError, as of a file that is being replaced
        database.write_text("a thesis, much longer than the header of a database" * 20)
    else:  # an OSError: a log that cannot be read
        (run / "run.db-wal").mkdir()
    time.sleep(0.5)
    assert thread.is_alive()
    if broken == "text":
        kept.replace(database)
    else:
        (run / "run.db-wal").rmdir()
    change(ANOTHER)
    wait_until(lambda: len(trials(store)) == 13)
    assert thread.is_alive()


def test_where_the_run_is_gone_it_ends_and_says_so(run, followed, capfd):
    store, thread = followed
    shutil.rmtree(run)
    thread.join(10)
    assert not thread.is_alive()
    assert f"{run} is gone" in capfd.readouterr().err
    assert len(trials(store)) == 12, "what is shown stays"


def test_a_log_that_is_folded_in_while_it_is_copied(run, monkeypatch):
    """`show` closes the run between two steps of a reader."""
    writer = sqlite3.connect(run / "run.db", isolation_level=None)
    writer.execute("INSERT INTO events (at, kind, detail) VALUES ('', 'late', '{}')")
    assert (run / "run.db-wal").stat().st_size
    copy, steps = shutil.copy, []

    def folding(source, target):
        steps.append(str(source))
        if str(source).endswith("run.db"):
            found = copy(source, target)
            writer.close()  # the last one: the log is folded in and removed
            assert not (run / "run.db-wal").exists()
            return found
        return copy(source, target)

    monkeypatch.setattr(shutil, "copy", folding)
    with reading(run) as found:
        assert found.select("SELECT count(*) FROM events WHERE kind = 'late'") == [(1,)]
    assert len(steps) == 2
