"""The dry run, with the real engine: what it tells, what it leaves behind, and how it fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge import cli
from evomerge.checks.dry_failures import refusal, remedied
from evomerge.checks.dry_run import advise_on_dry_run, run_dry
from evomerge.config import RunFile
from evomerge.evaluation import Evaluation, Outcome
from evomerge.preflight import Prepared, prepare
from evomerge.run_file import folder_of, load_run_file
from search_spaces.errors import InputError
from tests.checks.test_sources import experts
from tests.checks.zoo import Tensors, copied
from tests.test_banks_in_runs import with_banks

__all__ = ["with_banks"]  # a fixture

Check = Callable[..., Prepared]


def checked(run_file: Path, monkeypatch: Any, *options: str) -> int:
    """`evomerge check` in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["evomerge", "check", str(run_file), *options])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_json_has_it_all(write_run: Any, monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    assert checked(write_run(), monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "run.yaml"}  # nothing is recorded
    assert found["ok"] is True
    assert found["facts"]["objective words"] == "maximize, weight 1"
    assert {s["name"] for s in found["sources"]} == {"base", "lunari", "tovek", "abacus"}
    assert found["kinship"]["cosines_of"] == "deltas"
    assert set(found["licences"]) == {"of", "merge"}
    assert found["prompts"][0]["task"] == "lunari_words"
    first, second = found["dry_run"]["candidates"]
    assert (first["name"], second["name"]) == ("uniform", "random")
    assert (first["items"], second["items"]) == (16, 32)
    assert 0 <= first["scores"]["sums"] <= 1
    assert len(found["barriers"]["pairs"]) == 3
    assert found["estimate"]["hours"][0] > 0
    assert found["estimate"]["evaluators"] == 1
    assert found["warnings"] == []


def test_without_it(write_run: Any, monkeypatch: Any, capsys: Any) -> None:
    assert checked(write_run(), monkeypatch, "--no-dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimate"] is found["dry_run"] is found["barriers"] is None
    assert found["kinship"]["distances"]["lunari"] > 0


def test_text_is_grouped_and_warnings_come_last(
    write_run: Any, monkeypatch: Any, capsys: Any, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    copied(tmp_path / "again", "base")
    run_file = write_run(experts(quickstart, again="again"))
    assert checked(run_file, monkeypatch) == 0
    text = capsys.readouterr().out
    titles = [row for row in text.splitlines() if row and not row.startswith(" ")]
    order = ["sources", "kinship", "licences", "prompt", "the run", "this machine", "dry run",
             "loss barriers", "estimate", "warning", "everything checked"]  # fmt: skip
    places = [next(i for i, row in enumerate(titles) if row.startswith(word)) for word in order]
    assert places == sorted(places)
    assert "! expert 'again' is the base, weight for weight" in text
    assert "-> correct the path in models.experts.again" in text
    assert max(map(len, text.splitlines())) <= 120


def test_answers_that_are_cut_off(prepared: Check) -> None:
    task = {"lunari_words": {"items": 8, "selection": 8, "generation": {"max_gen_toks": 1}}}
    found = prepared({"fitness.tasks": task, "fitness.objectives": None})
    told = " | ".join(map(str, advise_on_dry_run(run_dry(found, lambda text: None))))
    assert "of the answers of uniform to lunari_words were cut off" in told
    assert "raise fitness.tasks.lunari_words.generation.max_gen_toks" in told


def test_item_banks_racing_and_neighbours(with_banks: Any, prepared: Check) -> None:
    """Objectives that are not a mean over the sample are estimated on it all the same."""
    racing = {"fitness.racing": {"rungs": [3, 8]}, "fitness.estimator": "p_irt"}
    run_file = with_banks(changes=racing)
    config = load_run_file(run_file)
    found = run_dry(prepare(config, folder_of(config, run_file)), lambda text: None)
    assert [candidate.failure for candidate in found.candidates] == ["", ""]
    objectives = [{"consistency": {"step": 0.1}}, {"flips": "lunari"}]
    found = run_dry(prepared({"fitness.objectives": objectives}), lambda text: None)
    assert [candidate.failure for candidate in found.candidates] == ["", ""]


def overflow(tensors: Tensors) -> None:
    """Finite numbers that float16 arithmetic cannot take."""
    for name, tensor in tensors.items():
        if "down_proj" in name or "up_proj" in name or "gate_proj" in name:
            tensors[name] = torch.full_like(tensor, 6e4)


def test_logits_that_are_not_finite(
    write_run: Any, monkeypatch: Any, capsys: Any, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    copied(tmp_path / "loud", "tovek", overflow)
    copied(tmp_path / "base", "base", overflow)
    changes = {"engine": {"dtype": "float16"}, "models.base": "base"}
    run_file = write_run(experts(quickstart, tovek="loud") | changes)
    assert checked(run_file, monkeypatch) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: dry run: ")
    assert "float16" in error
    assert "use engine.dtype: bfloat16 or float32" in error


def test_an_engine_that_is_not_up_in_time(write_run: Any, monkeypatch: Any, capsys: Any) -> None:
    """On Ray: no input's error, so 1, and a remedy; what was found before is printed."""
    cluster = {"executor": "ray", "evaluators": 1, "build_seconds": 0.01}
    assert checked(write_run({"cluster": cluster}), monkeypatch) == 1
    captured = capsys.readouterr()
    assert "dry run: " in captured.err
    assert "--no-dry-run" in captured.err
    assert "Traceback" not in captured.err
    assert "kinship" in captured.out


@pytest.fixture
def config(write_run: Any) -> RunFile:
    return load_run_file(write_run())


def test_memory_that_does_not_suffice(config: RunFile) -> None:
    with pytest.raises(InputError, match="ran out of memory") as caught, remedied(config):
        torch.empty(2**60, dtype=torch.uint8)
    assert "bfloat16" in caught.value.remedy
    error = refusal(config, "uniform", Evaluation(Outcome.OUT_OF_MEMORY, "CUDA out of memory"))
    assert isinstance(error, InputError)
    assert "engine.batch_tokens" in error.remedy


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.SCORED])
def test_every_end_has_its_remedy(config: RunFile, outcome: Outcome) -> None:
    error = refusal(config, "uniform", Evaluation(outcome, "some reason"))
    assert "uniform" in str(error)
    assert len(str(error)) > 60


def test_search_says_the_warnings_before_it_begins(
    write_run: Any, evomerge: Any, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    copied(tmp_path / "again", "base")
    small = {"search.budget.evaluations": 8, "search.random_baseline": False}
    run_file = write_run(experts(quickstart, again="again") | small)
    done = evomerge("search", run_file, "--dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "warning: expert 'again' is the base" in done.stderr
    assert done.stderr.index("warning: ") < done.stderr.index("starting the evaluators")
    assert "prompt of" not in done.stderr


def test_json_keeps_every_note(write_run: Any, monkeypatch: Any, capsys: Any) -> None:
    speed = {"cost": "tokens_per_second"}
    changes = {"search.population": 30, "fitness.objectives": ["sums", speed]}
    assert checked(write_run(changes), monkeypatch, "--no-dry-run") == 0
    notes = [
        text.split(maxsplit=1)[1] for text in capsys.readouterr().out.splitlines()
        if text.strip().startswith("note ")
    ]  # fmt: skip
    assert len(notes) > 1
    assert checked(write_run(changes), monkeypatch, "--no-dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)["facts"]["note"]
    for note in notes:
        assert note[:30] in found
