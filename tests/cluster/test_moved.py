"""A run goes on where its files are now: on another machine, under other paths, from the folder alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evomerge.run_file import load_run_file
from evomerge.run_sources import locate_sources
from evomerge.runs.folder import freeze
from evomerge.runs.moved import found_again
from search_spaces.errors import InputError
from tests.cli.test_kill import FACTS
from tests.cluster.shipping import lay_out
from tests.conftest import show

FIRST, ALL = 4, 12


def begin(top, evomerge, name, evaluations):
    """Search with a machine's files; the run's folder is beside them."""
    run_file = top / "night" / "run.yaml"
    content = yaml.safe_load(run_file.read_text())
    content["search"] = {
        "algorithm": "nsga2", "population": 4, "finalists": 2, "random_baseline": False,
        "budget": {"evaluations": ALL},
    }  # fmt: skip
    if "schedule" in type(load_run_file(run_file).search).model_fields:
        content["search"]["schedule"] = "generational"
    content["cluster"] = {"executor": "serial"}
    run_file.write_text(yaml.safe_dump(content))
    done = evomerge("search", run_file, "--dir", top.parent / name, "--evaluations", evaluations)
    assert done.returncode == 0, done.stderr
    return top.parent / name


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory):
    """An undisturbed run; and one begun there, carried with all files to a machine with other paths.

    The first machine's files are gone, and the second has models and tasks in different places.
    """

    def evomerge(*arguments):
        command = [sys.executable, "-m", "evomerge.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first = tmp_path_factory.mktemp("first") / "driver"
    second = tmp_path_factory.mktemp("second")
    lay_out(first)
    whole = begin(first, evomerge, "whole", ALL)
    part = begin(first, evomerge, "part", FIRST)
    shutil.copytree(part, second / "run")
    shutil.copytree(first / "models", second / "disk=2" / "models")
    shutil.copytree(first / "shelf", second / "shelf")
    shutil.copytree(first / "night", second / "night")
    first.rename(first.with_name("gone"))
    return first, second, show(whole)


@pytest.fixture(scope="module")
def moved(two_machines):
    """What `resume` with the new places printed, of a copy of the carried run; and the copy."""
    first, second, _ = two_machines
    folder = second / "moved"
    shutil.copytree(second / "run", folder)
    command = ["resume", folder, *options(first, second), "--evaluations", ALL, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "evomerge.cli", *map(str, command)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def options(first, second):
    return [
        "--moved", f"{first}={second}",
        "--moved", f"{first}/models={second}/disk=2/models",
    ]  # fmt: skip


def test_without_a_word_the_error_says_what_is_missing_and_how_to_say_where_it_is(
    two_machines, evomerge
):
    first, second, _ = two_machines
    before = (second / "run" / "run.yaml").read_bytes()
    done = evomerge("resume", second / "run", "--evaluations", ALL)
    assert done.returncode == 2
    assert f"{first}/models/base: source 'base': it is not where it was" in done.stderr
    assert f"--moved {first}/models/base=NEW" in done.stderr
    done = evomerge("resume", second / "run", "--moved", f"{first}/models={second}/disk=2/models")
    assert done.returncode == 2
    assert "include = ../shelf/tasks: it is not where it was" in done.stderr
    done = evomerge("resume", second / "run", "--moved", f"/models={second}/disk=2/models")
    assert done.returncode == 2
    assert "no path of the run begins with it" in done.stderr
    assert f"{first}/night" in done.stderr
    assert (second / "run" / "run.yaml").read_bytes() == before


def test_another_model_in_the_new_place_is_refused(two_machines, evomerge):
    """Else the run's second half would be of other sources than its first."""
    first, second, _ = two_machines
    weights = second / "disk=2" / "models" / "lunari" / "model.safetensors"
    content, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = evomerge("resume", second / "run", *options(first, second))
    assert done.returncode == 2
    assert "source 'lunari' (model.safetensors): its files differ" in done.stderr
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_moved_run_ends_as_an_undisturbed_one(two_machines, moved):
    _, _, whole = two_machines
    _, moved = moved
    for key in ("status", "budget", "objectives", "baselines", "hypervolume", "chosen"):
        assert moved[key] == whole[key], key
    for a, b in zip(moved["candidates"], whole["candidates"], strict=True):
        assert {k: a[k] for k in FACTS} == {k: b[k] for k in FACTS}


def test_the_new_places_are_remembered(two_machines, moved, evomerge):
    """Given again, as by a job that is restarted, the options change nothing."""
    first, second, _ = two_machines
    folder, _ = moved
    kept = (folder / "run.yaml").read_text()
    assert str(first) not in kept
    for extra in ([], options(first, second)):
        done = evomerge("resume", folder, *extra)
        assert done.returncode == 0, done.stderr
    assert (folder / "run.yaml").read_text() == kept


def test_an_export_elsewhere_needs_the_models_alone(two_machines, moved, evomerge, tmp_path):
    """The winner is written on a machine without tasks; the run's own file stays as it is."""
    _, second, _ = two_machines
    folder, summary = moved
    models = second / "disk=2" / "models"
    here = tmp_path / "models"
    (second / "shelf").rename(second / "shelf away")
    models.rename(here)
    try:
        done = evomerge("export", folder, tmp_path / "lost")
        assert done.returncode == 2
        assert f"--moved {models}/base=NEW" in done.stderr
        kept = (folder / "run.yaml").read_bytes()
        out = tmp_path / "winner"
        done = evomerge("export", folder, out, "--json", "--moved", f"{models}={here}")
        assert done.returncode == 0, done.stderr
    finally:
        here.rename(models)
        (second / "shelf away").rename(second / "shelf")
    assert json.loads(done.stdout)["candidate"]["id"] == summary["chosen"]
    assert (out / "model.safetensors").is_file()
    assert (folder / "run.yaml").read_bytes() == kept


@pytest.fixture
def frozen(tmp_path):
    """A frozen run file and where its machine's files are."""
    run_file = lay_out(tmp_path / "old")
    config = load_run_file(run_file)
    return freeze(config, locate_sources(config, run_file.parent), run_file), tmp_path


def test_new_alone_is_the_run_files_folder(frozen):
    """What it names by relative paths above it and still lies there is not taken to have moved."""
    config, top = frozen
    shutil.copytree(top / "old" / "night", top / "job")
    again = found_again(config, [str(top / "job")])
    assert again.frozen.origin == str(top / "job" / "run.yaml")
    assert again.fitness.include == str(top / "old" / "shelf" / "tasks")
    assert again.fitness.objectives[2].function == f"{top}/old/shelf/longest.py:longest"
    assert again.frozen.sources == config.frozen.sources


def test_relative_paths_stay_as_written_where_all_moved_together(frozen):
    config, top = frozen
    (top / "old").rename(top / "new")
    again = found_again(config, [f"{top}/old={top}/new"])
    assert again.fitness.include == "../shelf/tasks"
    assert again.fitness.objectives == config.fitness.objectives
    assert again.fitness.tasks["lunari_words"].include == f"{top}/new/shelf/tasks"
    assert again.frozen.sources["lunari"].folder == f"{top}/new/models/lunari"


def test_below_where_it_was_it_is_moved_once(frozen):
    """`--moved` stays in the command that continues a run, and is said again."""
    config, top = frozen
    (top / "old").rename(top / "new")
    (top / "old").mkdir()
    (top / "new").rename(top / "old" / "archive")
    option = f"{top}/old={top}/old/archive"
    once = found_again(config, [option])
    assert once.frozen.sources["lunari"].folder == f"{top}/old/archive/models/lunari"
    assert found_again(once, [option]) == once


def test_only_whole_names_are_prefixes(frozen):
    """`/data/model` is not the beginning of `/data/models`."""
    config, top = frozen
    with pytest.raises(InputError, match="no path of the run begins with it"):
        found_again(config, [f"{top}/ol={top}/new"])
    for text in ("", "=", f"{top}/old=", f"={top}/old"):
        with pytest.raises(InputError):
            found_again(config, [text])


def test_a_model_of_the_hub_is_found_by_its_commit(frozen, monkeypatch):
    """The new machine's cache is elsewhere, and nobody has to say where."""
    config, top = frozen
    from huggingface_hub import constants

    commit, hub = "d" * 40, top / "hub"
    repository = hub / "models--org--lunari"
    snapshot = repository / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(top / "old" / "models" / "lunari", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    lunari = config.frozen.sources["lunari"].model_copy(
        update={"folder": f"/home/first/hub/snapshots/{commit}", "revision": commit}
    )
    update = {"sources": config.frozen.sources | {"lunari": lunari}}
    experts = config.models.experts
    experts = experts | {"lunari": experts["lunari"].model_copy(update={"model": "org/lunari"})}
    moved = config.model_copy(
        update={
            "frozen": config.frozen.model_copy(update=update),
            "models": config.models.model_copy(update={"experts": experts}),
        }
    )
    again = found_again(moved)
    assert Path(again.frozen.sources["lunari"].folder) == snapshot
