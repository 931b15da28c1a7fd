"""Runs to look at: a small finished one, made once, and copies of it to break."""

import copy
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml

from evomerge.search.view import SilentView
from evomerge.session import start


@pytest.fixture(scope="session")
def finished(tmp_path_factory, quickstart):
    """A real run of 12 candidates, with a random baseline."""
    folder = tmp_path_factory.mktemp("looked-at")
    content = copy.deepcopy(quickstart)
    for task in content["fitness"]["tasks"].values():
        task.update(items=3, selection=3, test=4)
    content["search"] |= {"population": 6, "budget": {"evaluations": 12}, "finalists": 2}
    content["cluster"] = {"executor": "serial"}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    start(folder / "run.yaml", folder / "run", None, SilentView())
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def change(run):
    """Statements on the copy's run.db."""

    def do(*statements: str) -> None:
        connection = sqlite3.connect(run / "run.db")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return do
