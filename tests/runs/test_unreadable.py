"""A run.db that cannot be read now is not called damaged."""

import sqlite3

import pytest

from evomerge.runs.database import Database
from search_spaces.errors import InputError


def test_a_machine_s_trouble_is_no_damage(tmp_path, monkeypatch):
    """On a full disk SQLite cannot make its files beside run.db; the advice was to start a new run."""
    Database(tmp_path / "run.db", create=True).close()

    def full(self, key, default=None):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Database, "meta", full)
    with pytest.raises(InputError, match=r"nothing says that it is damaged.*free some space"):
        Database(tmp_path / "run.db")


def test_damage_is(tmp_path):
    (tmp_path / "run.db").write_bytes(b"not a database, whatever it is called" * 100)
    with pytest.raises(InputError, match="not a run's database"):
        Database(tmp_path / "run.db")
