"""The run folder: never half there, one driver, sources that must stay what they were."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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


READ = """
import os, sys
from pathlib import Path
from evomerge.runs.folder import RunFolder
from search_spaces.errors import InputError
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
run = RunFolder.open(Path(sys.argv[1]))
print(run.database.meta("variables"))
try:
    run.lock()
except InputError as error:
    print(error)
run.close()
"""


@pytest.mark.parametrize("died", [False, True])
def test_a_run_in_a_folder_of_somebody_elses_is_read(died, config):
    """Also one that died with a log, which nobody may fold in."""
    with tempfile.TemporaryDirectory() as top:  # pytest's own folders are the user's alone
        place = Path(top) / "run"
        made = RunFolder.create(place, config, begin)
        made.database.set_meta("variables", ["weight.b"])
        if died:
            shutil.copytree(place, place.with_name("dead"))
            place = place.with_name("dead")
        made.close()
        assert bool((place / "run.db-wal").exists()) is died
        Path(top).chmod(0o755)
        place.chmod(0o555)
        before = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
        done = subprocess.run(
            [sys.executable, "-c", READ, place], capture_output=True, text=True, check=False
        )
        place.chmod(0o755)
        assert done.stdout.splitlines()[0] == "['weight.b']", done.stderr
        assert "that cannot be written (Permission denied)" in done.stdout
        assert {file.name: file.stat().st_mtime_ns for file in place.iterdir()} == before


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
