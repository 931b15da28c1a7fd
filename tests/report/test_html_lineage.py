"""The report's lineage: licences as `check`, the card and `--push` read them."""

import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from evomerge.hand_over.push import Push, check_push
from evomerge.licences import judge_licences, licences_of
from evomerge.report.html.lineage import lineage
from evomerge.report.html.story import read_story
from evomerge.run_sources import frozen_locations
from evomerge.runs.folder import RunFolder
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace
from tests.report.planted_folder import PlantedFolder


def licensed(folder, licence):
    folder.mkdir(parents=True)
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return str(folder)


@pytest.fixture(scope="module")
def story(tmp_path_factory, quickstart):
    place = tmp_path_factory.mktemp("lineage") / "run"
    planted = PlantedFolder(place, quickstart, candidates=12, random=False).finish().close()
    with closing(RunFolder.open(planted)) as run:
        return read_story(run, str(planted))


@pytest.fixture
def of_licences(story, tmp_path):
    """The story of a run over sources of such licences; of `lunari`, a model and an adapter."""

    def made(base, model, adapter):
        frozen = story.config.frozen
        names = {name: licensed(tmp_path / name, base) for name in frozen.sources}
        sources = {
            name: files.model_copy(update={"folder": names[name]})
            for name, files in frozen.sources.items()
        }
        lora = {
            "folder": licensed(tmp_path / "own", model),
            "lora": licensed(tmp_path / "lora", adapter),
        }
        sources["lunari"] = sources["lunari"].model_copy(update=lora)
        changed = frozen.model_copy(update={"sources": sources})
        return replace(story, config=story.config.model_copy(update={"frozen": changed}))

    return made


def test_an_adapter_s_licence_is_judged_and_shown(of_licences, monkeypatch):
    story = of_licences("gpl-3.0", "gpl-3.0", "cc-by-nc-4.0")
    html = lineage(story).html
    found = licences_of(frozen_locations(story.config))
    (conflict,) = judge_licences(found).conflicts
    assert "cc-by-nc-4.0 (lunari (lora))" in conflict
    assert conflict in html
    assert "gpl-3.0 (README.md) + cc-by-nc-4.0 (README.md)" in html
    assert "may carry: not known" in html
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    with pytest.raises(InputError, match="--despite-licences"):  # the push says so too
        check_push(Push("me/x"), judge_licences(found))


def test_an_adapter_without_a_licence_is_named(of_licences):
    html = lineage(of_licences("apache-2.0", "apache-2.0", None)).html
    assert "no licence was found for lunari (lora): ask" in html
    assert "apache-2.0 (README.md) + not found" in html


def test_an_adapter_that_goes_with_its_model(of_licences):
    html = lineage(of_licences("apache-2.0", "llama3.1", "apache-2.0")).html
    assert "may carry: llama3.1." in html
    assert "llama3.1 (README.md) + apache-2.0 (README.md)" in html
    assert "no licence was found" not in html


def test_terms_that_nobody_here_knows(of_licences):
    html = lineage(of_licences("apache-2.0", "proprietary", "apache-2.0")).html
    assert "may carry: not settled." in html
    assert "the terms of lunari are not known here: read them" in html


def test_an_adapter_of_no_source_that_went_in(of_licences):
    story = of_licences("apache-2.0", "apache-2.0", "cc-by-nc-4.0")
    space = ParameterSpace("task_arithmetic", "base", ["tovek", "abacus"], 4)
    alone = replace(story, recipe=space.decode(tuple(v.from_unit(0.4) for v in space.variables)))
    assert "may carry: apache-2.0." in lineage(alone).html
    assert "may carry: cc-by-nc-4.0." in lineage(story).html


def test_sources_that_are_gone(of_licences, tmp_path):
    story = of_licences("apache-2.0", "apache-2.0", "apache-2.0")
    shutil.rmtree(tmp_path / "tovek")
    shutil.rmtree(tmp_path / "lora")
    assert "no licence was found for lunari (lora), tovek: ask" in lineage(story).html
