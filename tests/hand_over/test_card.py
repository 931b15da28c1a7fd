"""The model card: what the Hub reads of it, and what it says to people."""

import re
from contextlib import closing
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from evomerge.export import _plan
from evomerge.licence_table import HUB, TERMS
from evomerge.licences import Licence, judge_licences
from evomerge.report.card import model_card, own_scores
from evomerge.report.card_front import front_matter_text, hub_names, model_index
from evomerge.report.card_parts import LONG, folded, licence_lines
from evomerge.report.warm import _sentence
from evomerge.runs.folder import RunFolder


@pytest.fixture(scope="module")
def subject(night):
    with closing(RunFolder.open(night.folder)) as run:
        return _plan(run, None, (), False, None).card


def data_of(text):
    return ModelCard(text).data


def test_the_hub_s_own_library_reads_the_front_matter(subject):
    data = data_of(model_card(subject))
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert data.license == "llama3.1"
    assert data.tags == ["merge", "evomerge"]
    assert data.base_model is None, "folders are no models of the Hub"
    winner = subject.summary["baselines"]["winner"]
    found = {r.dataset_type: r.metric_value for r in data.eval_results}
    assert found == {name: pytest.approx(e["value"], abs=1e-6) for name, e in winner.items()}
    assert str(data)


def test_models_of_the_hub_are_named_as_parents_once(subject):
    called = {
        "base": f"org/base@{'a' * 40}",
        "lunari": f"org/base@{'b' * 40}",
        "tovek": "/models/base@home",
    }
    data = data_of(model_card(replace(subject, called=called)))
    assert data.base_model in ("org/base", ["org/base"])
    assert data.base_model_relation == "merge"


def test_what_is_a_name_on_the_hub():
    assert hub_names("org/name@abc") == ["org/name"]
    assert hub_names("org/name@abc + org/lora@def") == ["org/name", "org/lora"]
    assert hub_names("/models/base + org/lora@def") == ["org/lora"]
    for path in ("/models/base", "models/base", "/home/me@work/base", "base", ""):
        assert hub_names(path) == []


@pytest.mark.parametrize("name", [n for n, t in TERMS.items() if t.kind != "unmodified"])
def test_every_licence_of_the_table_is_said_so_that_the_hub_takes_it(name):
    verdict = judge_licences({"a": Licence(name, "README.md")})
    data = data_of(front_matter_text(verdict=verdict, parents=[], model_index=None) + "\n# x\n")
    assert (data.license == name) == (name in HUB)
    if name not in HUB:
        assert data.license == "other"
        assert re.fullmatch(r"[a-z0-9.-]+", data.license_name)


def test_licences_in_words():
    unknown = licence_lines(judge_licences({"a": None}))
    assert "No licence is no permission" in unknown[0]
    conflict = licence_lines(
        judge_licences({"a": Licence("gpl-3.0", ""), "b": Licence("gemma", "")})
    )
    assert "conflict" in conflict[0]
    both = licence_lines(judge_licences({"a": Licence("llama3.1", ""), "b": Licence("gemma", "")}))
    assert "Several sets of terms" in both[0]
    assert sum(line.startswith("- ") for line in both) == 2
    unread = licence_lines(
        judge_licences({"a": Licence("mit", ""), "b": Licence("proprietary", "")})
    )
    assert "the terms of b are not among those known" in unread[0]
    assert not any("strictest" in line for line in unread)
    for lines in (unknown, conflict, both, unread):
        assert lines[-1].endswith("no legal advice.")


def test_front_matter_of_what_is_not_known(subject):
    data = data_of(model_card(replace(subject, verdict=judge_licences({"a": None}))))
    assert data.license == "unknown"


def test_the_sections_and_what_was_not_tested(subject, night):
    text = model_card(subject)
    for title in ("Load it", "Scores", "What was tested, and what was not", "Parents", "Licences",
                  "Recipe", "Verification", "Make it again"):  # fmt: skip
        assert f"\n## {title}\n" in text
    assert "| lunari_words | 8 | 8 | 16 | plain prompt |" in text
    assert re.search(r"Of its 32 answers \d+ were cut at the token limit", text)
    for missing in ("other languages", "safety", "long contexts", "tool use", "several turns"):
        assert missing in text
    assert "| **tovek** |" in text
    assert "llama3.1" in text
    assert str(night.root) not in text, "no paths of this machine"
    recipe = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    assert yaml.safe_load(recipe)["merge_method"] == subject.recipe.method


@pytest.mark.parametrize("path", ["~/secret/x", "../secret/x", "./secret/x", "/home/me/secret/x"])
def test_a_path_of_this_machine_is_its_last_part(subject, path):
    sources = subject.config.models
    tovek = sources.experts["tovek"].model_copy(update={"model": path})
    models = sources.model_copy(update={"experts": {**sources.experts, "tovek": tovek}})
    text = model_card(replace(subject, config=subject.config.model_copy(update={"models": models})))
    assert "secret" not in text
    assert "| **tovek** | `x` |" in text


def test_the_run_that_was_begun_with_is_called_by_its_folder():
    told = {"run": "/home/me/secret/night", "candidates": 16, "winner": None}
    for winner in (None, 3):
        sentence = _sentence(told | {"winner": winner}, chance=True)
        assert "16 candidates of night" in sentence
        assert "secret" not in sentence


def test_a_candidate_that_is_not_the_winner(subject):
    other = next(c for c in subject.summary["candidates"] if not c["selection"])
    text = model_card(replace(subject, candidate=other, measured=False, picked="by hand"))
    assert "It is not the run's winner**: by hand" in text
    assert "led by these very items" in text
    assert data_of(text).eval_results is None, "optimistic scores are no results"
    again = next(c for c in subject.summary["candidates"] if c["selection"])
    assert "picked with these very items in view" in own_scores(again)
    value = again["selection"]["sums"]
    assert f"{value['value']:.3f} ± {value['se']:.3f}" in own_scores(again)


def test_results_of_objectives_without_tasks_are_left_out():
    scores = {"maths": {"value": 0.5, "se": 0.1}, "layers": {"value": 24.0, "se": 0.0}}
    found = model_index("x", scores, {"maths": ["gsm8k", "svamp"]})
    (result,) = found["results"]
    assert result["dataset"]["type"] == "gsm8k+svamp"
    assert model_index("x", scores, {}) == {}


def test_long_tables_are_folded():
    lines = ["| a |"] * LONG
    assert folded("t", lines, long=False) == lines
    assert folded("t", lines, long=True)[1] == "<summary>t</summary>"
