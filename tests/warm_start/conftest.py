"""What the tests of a warm start share: one folder, whose runs share their answers."""

import copy

import pytest
import yaml

from tests.warm_start.runs import TASK, run


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """Holds the runs: the workspace whose answers they share."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="package")
def write(folder, quickstart):
    """Write a run file into the folder; changes by dotted key, None removes one."""

    def write(name, changes=None):
        content = copy.deepcopy(quickstart)
        content["fitness"]["tasks"] = {"lunari_words": dict(TASK), "sums": dict(TASK)}
        del content["fitness"]["objectives"]
        content["search"] |= {
            "population": 12, "budget": {"evaluations": 24}, "finalists": 3, "random_baseline": False,
        }  # fmt: skip
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
        target = folder / name
        target.write_text(yaml.safe_dump(content, sort_keys=False))
        return target

    return write


@pytest.fixture(scope="package")
def other(write, folder):
    """The run to begin from: half the granularity, coarser than what begins from it."""
    return run(write("other.yaml"), folder / "other")
