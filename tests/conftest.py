"""What every test may use: the quickstart's models and tasks, and run files made from them."""

import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "examples" / "quickstart"


# Two cores, several processes: one thread each. Now, as the next conftest may import torch, which asks.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """No look at the network, a cache of our own."""
    os.environ.setdefault("EVOMERGE_CACHE", tempfile.mkdtemp(prefix="evomerge-tests-"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    # A shell without job control starts what it puts in the background with Ctrl-C ignored, and so
    # are the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def quickstart() -> dict[str, Any]:
    """The quickstart's run file with absolute paths, as a mapping to change and write."""
    content = yaml.safe_load((QUICKSTART / "run.yaml").read_text())
    models = content["models"]
    models["base"] = str(QUICKSTART / models["base"])
    models["experts"] = {n: str(QUICKSTART / m) for n, m in models["experts"].items()}
    content["fitness"]["include"] = str(QUICKSTART / content["fitness"]["include"])
    return content


WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path, quickstart: dict[str, Any]) -> WriteRun:
    """Write a small run file: few items, few candidates, this process; `changes` by dotted key."""

    def write(changes: Mapping[str, Any] | None = None, name: str = "run.yaml") -> Path:
        content = copy.deepcopy(quickstart)
        for task in content["fitness"]["tasks"].values():
            task.update(items=8, selection=8, test=16)
        content["search"] |= {"population": 8, "budget": {"evaluations": 20}, "finalists": 4}
        content["cluster"] = {"executor": "serial"}
        for key, value in (changes or {}).items():
            section = content
            *path, last = key.split(".")
            for part in path:
                section = section.setdefault(part, {})
            if value is None:
                section.pop(last, None)
            else:
                section[last] = value
        target = tmp_path / name
        target.write_text(yaml.safe_dump(content, sort_keys=False))
        return target

    return write


@pytest.fixture
def evomerge() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the command line in a process of its own."""

    def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "evomerge.cli", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=600, check=False, **options
        )

    return run


def show(folder: Path) -> dict[str, Any]:
    """`evomerge show --json` of a run."""
    command = [sys.executable, "-m", "evomerge.cli", "show", str(folder), "--json"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
