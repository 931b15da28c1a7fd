"""Every local file that a task reads is listed: what is forgotten is missing on the other machine."""

from pathlib import Path

import pytest
import yaml

from fitness.errors import FitnessError
from fitness.task_data import task_files


@pytest.fixture
def place(tmp_path):
    """A folder for YAML files, with data beside and above it."""
    folder = tmp_path.resolve() / "tasks"
    (folder / "data").mkdir(parents=True)
    for name in ("tasks/data/a.jsonl", "tasks/data/b.jsonl", "above.jsonl"):
        (folder.parent / name).write_text('{"q": 1}\n')
    return folder


def found(folder: Path, **content: object):
    """Paths relative to the folder above it, and those that are fixed."""
    (folder / "own.yaml").write_text(yaml.safe_dump({"task": "own", **content}))
    files = task_files("own", folder)
    top = folder.parent
    return tuple({str(p.relative_to(top)) for p in of} for of in (files.relative, files.fixed))


A, B, ABOVE, YAML = "tasks/data/a.jsonl", "tasks/data/b.jsonl", "above.jsonl", "tasks/own.yaml"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"data_files": "data/a.jsonl"}, {A}),
        ({"data_files": ["data/a.jsonl", "../above.jsonl"]}, {A, ABOVE}),
        ({"data_files": {"train": "data/a.jsonl", "test": ["data/b.jsonl"]}}, {A, B}),
        ({"data_files": "data/*.jsonl"}, {A, B}),
        ({"data_dir": "data"}, {A, B}),
        ({"data_dir": "data", "data_files": {"test": "b.jsonl"}}, {B}),
        ({"data_files": "https://host/far.jsonl"}, set()),
    ],
)
def test_data_of_a_local_loader(place, options, expected):
    relative, fixed = found(place, dataset_path="json", dataset_kwargs=options)
    assert relative == expected | {YAML}
    assert fixed == set()


def test_data_by_absolute_paths_is_told_apart(place):
    for options in (
        {"data_files": {"test": str(place / "data" / "a.jsonl")}},
        {"data_dir": str(place / "data"), "data_files": "a.jsonl"},
    ):
        assert found(place, dataset_path="json", dataset_kwargs=options) == ({YAML}, {A})


def test_a_data_set_in_a_folder(place):
    assert found(place, dataset_path="./data")[0] == {YAML, A, B}
    assert found(place, dataset_path="org/on-the-hub") == ({YAML}, set())


def test_yaml_files_that_it_includes_and_their_data(place):
    """`data_files` is relative to the YAML that says it, here one folder up."""
    (place.parent / "shared").mkdir()
    first = {"include": "../common.yaml", "output_type": "generate_until"}
    (place.parent / "shared" / "first.yaml").write_text(yaml.safe_dump(first))
    common = {"dataset_path": "json", "dataset_kwargs": {"data_files": "above.jsonl"}}
    (place.parent / "common.yaml").write_text(yaml.safe_dump(common))
    relative, _ = found(place, include="../shared/first.yaml")
    assert relative == {YAML, "shared/first.yaml", "common.yaml", ABOVE}


def test_data_that_is_not_there_is_an_error(place):
    with pytest.raises(FitnessError, match="there is no file"):
        found(place, dataset_path="json", dataset_kwargs={"data_files": "data/c.jsonl"})
