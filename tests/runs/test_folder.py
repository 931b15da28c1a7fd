"""The run folder: never half there, one driver, sources that must stay what they were."""

import os
import shutil

import pytest
import yaml

from evomerge.merge.locations import Location
from evomerge.run_file import parse_run_file
from evomerge.runs.folder import RunFolder, check_sources_unchanged, freeze
from search_spaces.errors import InputError


@pytest.fixture
def config(quickstart, tmp_path):
    """A frozen run file on a copy of two sources."""
    folders = {}
    for name, path in {
        "base": quickstart["models"]["base"],
        **quickstart["models"]["experts"],
    }.items():
        folders[name] = Location(tmp_path / name)
        shutil.copytree(path, folders[name].model)
    quickstart = {**quickstart, "models": {"base": "x", "experts": quickstart["models"]["experts"]}}
    return freeze(parse_run_file(quickstart, "run.yaml"), folders, tmp_path / "run.yaml")


def begin(database):
    database.set_meta("variables", ["weight.a"])


def test_a_run_that_cannot_begin_leaves_nothing(config, tmp_path):
    def fails(database):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        RunFolder.create(tmp_path / "runs" / "one", config, fails)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_opens_as_it_was_created(config, tmp_path):
    RunFolder.create(tmp_path / "deep" / "run", config, begin).close()
    again = RunFolder.open(tmp_path / "deep" / "run")
    assert again.config == config
    assert again.config.frozen.packages["torch"]
    assert again.database.meta("variables") == ["weight.a"]
    again.close()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["run"], "nothing is left beside it"


def test_an_empty_folder_will_do_and_a_full_one_will_not(config, tmp_path):
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", config, begin).close()
    with pytest.raises(InputError, match="holds a run; continue it with"):
        RunFolder.create(tmp_path / "empty", config, begin)


def test_one_driver(config, tmp_path):
    first = RunFolder.create(tmp_path / "run", config, begin)
    second = RunFolder.open(tmp_path / "run")
    assert not second.driven()
    first.lock()
    assert second.driven()
    with pytest.raises(InputError, match="another evomerge is driving"):
        second.lock()
    first.close()
    assert not second.driven()
    second.lock()
    second.close()


def test_run_yaml_of_another_version(config, tmp_path):
    RunFolder.create(tmp_path / "run", config, begin).close()
    path = tmp_path / "run" / "run.yaml"
    content = yaml.safe_load(path.read_text())
    content["frozen"]["version"] = 99
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="version 99"):
        RunFolder.open(tmp_path / "run")


def test_sources_may_be_touched_but_not_changed(config, tmp_path):
    weights = tmp_path / "base" / "model.safetensors"
    os.utime(weights, (0, 0))
    check_sources_unchanged(config)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(InputError, match=r"source 'base' \(model.safetensors\)"):
        check_sources_unchanged(config)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(InputError, match="source 'base'"):
        check_sources_unchanged(config)
