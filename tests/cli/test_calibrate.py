"""`evomerge calibrate` on the quickstart's models: banks hold what the models answer."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evomerge.calibration import calibrate, calibration_models
from evomerge.cli import app
from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import prepare
from evomerge.run_file import folder_of, load_run_file
from evomerge.search.baselines import average
from evomerge.search.view import SilentView
from fitness.bank_files import match_bank, read_bank, write_bank
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from search_spaces.errors import InputError

TASKS = {
    "lunari_words": {"items": 8, "selection": 8, "test": 16},
    "sums": {"items": 6, "selection": 6, "test": 12},
}
CHANGES = {"fitness.tasks": TASKS, "fitness.objectives": None}
REFERENCES = ("base", "lunari", "tovek", "abacus", "uniform")


@pytest.fixture
def run_file(write_run):
    return write_run(CHANGES)


def prepared_of(run_file: Path):
    config = load_run_file(run_file)
    return prepare(config, folder_of(config, run_file), thorough=False)


def test_a_bank_holds_what_the_models_answer(run_file):
    result = calibrate(run_file, 8, [], SilentView())
    assert (result.evaluated, result.answers) == (8, 8 * 14)
    assert result.folder == run_file.parent / "banks"
    prepared = prepared_of(run_file)
    models = calibration_models(prepared, 8)
    assert tuple(models)[:5] == REFERENCES
    evaluator = EvaluatorFactory(prepared.config, prepared.folder, prepared.folders)()
    search = prepared.judge.items["search"]
    for name in ("abacus", list(models)[-1]):
        recipe = average([name], None) if name == "abacus" else models[name]
        responses = evaluator.evaluate(recipe, "search").responses
        for task in TASKS:
            items = [item for item in search if item.task == task]
            bank = match_bank(read_bank(result.folder / f"{task}.npz"), items, "exact_match")
            assert bank.models == tuple(models)
            row = bank.responses[bank.models.index(name)]
            assert row.tolist() == [r.score for r in responses if r.task == task]
    evaluator.close()
    assert any("8 models are few" in notice for notice in result.notices)


def test_more_models_extend_a_bank_and_nothing_is_paid_for_twice(run_file):
    first = calibrate(run_file, 6, [], SilentView())
    more = calibrate(run_file, 8, [], SilentView())
    assert (first.evaluated, more.evaluated) == (6, 2)
    for task in TASKS:
        assert more.banks[task].models[:6] == first.banks[task].models
        assert np.array_equal(more.banks[task].responses[:6], first.banks[task].responses)
    before = (more.folder / "sums.npz").read_bytes()
    assert calibrate(run_file, 8, [], SilentView()).answers == 0
    assert (more.folder / "sums.npz").read_bytes() == before
    fewer = calibrate(run_file, 6, [], SilentView())
    assert set(fewer.banks["sums"].models) == set(more.banks["sums"].models)


def test_interrupted_killed_and_continued_equals_undisturbed(run_file, tmp_path):
    undisturbed = tmp_path / "undisturbed"
    changed = load_and_write(run_file, "whole.yaml", bank=str(undisturbed))
    assert calibrate(changed, 14, [], SilentView()).evaluated == 14

    stopped = stop_at(run_file, 2, signal.SIGINT)
    assert stopped.returncode == 3
    assert "interrupted; the same command continues" in stopped.stderr.read()
    paid = len(read_bank(run_file.parent / "banks" / "sums.npz").models)
    stop_at(run_file, paid + 2, signal.SIGKILL)
    assert paid < len(read_bank(run_file.parent / "banks" / "sums.npz").models)
    both = [len(read_bank(run_file.parent / "banks" / f"{t}.npz").models) for t in TASKS]
    assert max(both) < 14

    assert calibrate(run_file, 14, [], SilentView()).evaluated == 14 - min(both)
    for task in TASKS:
        found = run_file.parent / "banks" / f"{task}.npz"
        assert found.read_bytes() == (undisturbed / f"{task}.npz").read_bytes()


def stop_at(run_file: Path, models: int, how: signal.Signals) -> "subprocess.Popen[str]":
    """Start a calibration, and stop it once the last task's bank has that many models."""
    command = [sys.executable, "-m", "evomerge.cli", "calibrate", str(run_file), "--models", "14"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    bank = run_file.parent / "banks" / "sums.npz"
    deadline = time.monotonic() + 300
    while not (bank.exists() and len(read_bank(bank).models) >= models) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)
    process.wait()
    return process


def load_and_write(run_file: Path, name: str, **fitness) -> Path:
    """A copy of a run file with other keys in `fitness`."""
    import yaml

    content = yaml.safe_load(run_file.read_text())
    content["fitness"] |= fitness
    path = run_file.with_name(name)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_responses_of_other_models_widen_the_bank(run_file):
    items = [i.index for i in prepared_of(run_file).judge.items["search"] if i.task == "sums"]
    given = run_file.with_name("others.csv")
    header = ",".join(map(str, ["model", *items[:3], 10**6]))
    given.write_text(f"{header}\nother,1,0,,1\nlunari,1,1,1,1\n")
    result = calibrate(run_file, 6, [f"sums={given}"], SilentView())
    bank = result.banks["sums"]
    assert bank.models[-1] == "other"
    assert np.array_equal(bank.responses[-1], [1, 0] + [np.nan] * 4, equal_nan=True)
    assert bank.models.count("lunari") == 1
    assert any("responses of lunari are left out" in notice for notice in result.notices)
    assert len(result.banks["lunari_words"].models) == 6
    # Given again, corrected: the file counts. Not given: what the bank holds stays.
    given.write_text(f"model,{items[0]},{items[1]}\nother,0,1\n")
    again = calibrate(run_file, 6, [f"sums={given}"], SilentView()).banks["sums"]
    assert again.responses[-1, :2].tolist() == [0, 1]
    kept = calibrate(run_file, 6, [], SilentView()).banks["sums"]
    assert np.array_equal(kept.responses, again.responses, equal_nan=True)


def test_a_task_whose_items_all_score_alike_is_written_with_a_notice(
    write_run, tmp_path, quickstart
):
    folder = tmp_path / "tasks"
    folder.mkdir()
    source = Path(quickstart["fitness"]["include"]) / "sums.jsonl"
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    impossible = [json.dumps(line | {"answer": "no"}) for line in lines]
    (folder / "hopeless.jsonl").write_text("\n".join(impossible))
    text = (source.parent / "sums.yaml").read_text()
    (folder / "hopeless.yaml").write_text(text.replace("sums", "hopeless"))
    task = {"hopeless": {"items": 6, "selection": 6, "test": 12}}
    run = write_run(CHANGES | {"fitness.tasks": task, "fitness.include": str(folder)})
    result = calibrate(run, 6, [], SilentView())
    assert read_bank(result.folder / "hopeless.npz").responses.sum() == 0
    assert not result.diagnoses["hopeless"].informative
    assert any(
        "hopeless: all 6 models score alike on every item" in notice for notice in result.notices
    )


def test_the_command_prints_json_or_a_table(run_file):
    done = CliRunner().invoke(app, ["calibrate", str(run_file), "--models", "6", "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["evaluated"] == 6
    assert set(told["tasks"]) == set(TASKS)
    assert (told["tasks"]["sums"]["models"], told["tasks"]["sums"]["items"]) == (6, 6)
    table = CliRunner().invoke(app, ["calibrate", str(run_file), "--models", "6"])
    assert table.exit_code == 0, table.stderr
    assert "lunari_words" in table.stdout
    assert "0 models evaluated" in table.stdout


def test_too_few_models(run_file):
    for models in (-1, 5):
        message = f"--models {models}: the sources and their uniform merge are 5 already"
        with pytest.raises(InputError, match=message):
            calibrate(run_file, models, [], SilentView())
    assert not (run_file.parent / "banks").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sums", "--responses sums: it is TASK=FILE"),
        ("=x.csv", "--responses =x.csv: it is TASK=FILE"),
        ("summs=x.csv", r"the run file has no task 'summs'; did you mean 'sums'\?"),
        ("sums=nowhere.csv", "'nowhere.csv': it cannot be read"),
    ],
)
def test_responses_that_cannot_be_read(argument, message, run_file):
    with pytest.raises((InputError, FitnessError), match=message):
        calibrate(run_file, 6, [argument], SilentView())


def test_the_commands_wrong_input_is_one_line_and_exit_code_2(run_file, evomerge):
    done = evomerge("calibrate", run_file, "--responses", "sums=a.csv")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: responses: 'a.csv': it cannot be read")
    assert done.stderr.count("\n") == 1


def test_responses_that_fit_no_item(run_file):
    given = run_file.with_name("others.csv")
    given.write_text("model,1000000\nother,1\n")
    with pytest.raises(FitnessError, match="responses to items 1000000: none of them is among"):
        calibrate(run_file, 6, [f"sums={given}"], SilentView())
    assert not (run_file.parent / "banks").exists()


def test_a_folder_that_cannot_be_written_costs_no_evaluation(run_file):
    (run_file.parent / "banks").write_text("a file")
    with pytest.raises(InputError, match=r"banks': it cannot be written .*; correct fitness.bank"):
        calibrate(run_file, 6, [], SilentView())


@pytest.mark.parametrize("change", ["other items", "changed text", "other sources"])
def test_a_bank_that_does_not_match_is_refused_and_left_alone(change, run_file):
    prepared = prepared_of(run_file)
    items = [i for i in prepared.judge.items["search"] if i.task == "sums"]
    indices = tuple(i.index + (change == "other items") * 10**6 for i in items)
    digests = tuple("" if change != "changed text" else "another" for _ in items)
    path = run_file.parent / "banks" / "sums.npz"
    write_bank(path, ItemBank(np.ones((1, 6)), ("lunari",), indices, digests, "sums"), "of others")
    before = path.read_bytes()
    message = {
        "other items": "no responses to 6 of the run's 6 items; move it away, or name another",
        "changed text": "their text or scoring is not what the models answered",
        "other sources": "made from other sources than the run file's, .*; move it away",
    }[change]
    with pytest.raises(FitnessError, match=rf"sums.npz: .*{message}"):
        calibrate(run_file, 6, [], SilentView())
    assert path.read_bytes() == before


def test_a_space_with_few_points_gives_fewer_models(write_run):
    space = {"rule": ["ties", "dare_ties"], "weight": 0.5, "density": 0.5, "lambda": 1.0}
    run = write_run(CHANGES | {"space": space})
    found = calibration_models(prepared_of(run), 20)
    assert 5 < len(found) <= 7


def test_models_are_the_same_for_the_same_seed_and_differ_for_another(write_run):
    one = calibration_models(prepared_of(write_run(CHANGES)), 12)
    assert one == dict(list(calibration_models(prepared_of(write_run(CHANGES)), 16).items())[:12])
    other = calibration_models(prepared_of(write_run(CHANGES | {"search.seed": 2})), 12)
    assert set(one) & set(other) == set(REFERENCES)


def test_no_model_can_be_scored(run_file, monkeypatch):
    """A function that fails on every candidate must not leave an empty bank."""
    (run_file.parent / "mine.py").write_text("def broken(responses):\n    raise KeyError('x')\n")
    failing = load_and_write(
        run_file, "failing.yaml", objectives=["sums", {"function": "mine.py:broken"}]
    )
    with pytest.raises((InputError, FitnessError), match="KeyError"):
        calibrate(failing, 6, [], SilentView())
    assert not (run_file.parent / "banks").exists()
