"""What tests of checks share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.preflight import Prepared, prepare
from evomerge.run_file import folder_of, load_run_file


@pytest.fixture
def prepared(write_run: Callable[..., Path]) -> Callable[..., Prepared]:
    """Check a small run file, changed by dotted key, without a dry run."""

    def made(changes: Mapping[str, Any] | None = None) -> Prepared:
        run_file = write_run(changes)
        config = load_run_file(run_file)
        return prepare(config, folder_of(config, run_file))

    return made


@pytest.fixture
def advised(prepared: Callable[..., Prepared]) -> Callable[..., str]:
    """What is said of a run file that passes."""

    def told(changes: Mapping[str, Any] | None = None) -> str:
        advice = prepared(changes).advice
        assert all(one.remedy for one in advice)
        return " | ".join(map(str, advice))

    return told
