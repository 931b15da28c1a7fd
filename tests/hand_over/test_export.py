"""`evomerge export` as a user gives it: any member of the front, whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.export import NOT_VERIFIED, _shareable, export_candidate
from evomerge.hand_over import verify as verification
from evomerge.hand_over.errors import HandOverError
from evomerge.report.summary import summarise
from evomerge.runs.folder import RunFolder


@pytest.fixture
def summary(night):
    with closing(RunFolder.open(night.folder)) as run:
        return summarise(run)


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_the_winner(night, tmp_path, evomerge):
    done = evomerge("export", night.folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "equal the search's candidate bit for bit" in done.stderr
    assert "Loading weights" not in done.stderr
    for word in ("from_pretrained", "vllm serve", "convert_hf_to_gguf.py"):
        assert word in done.stderr
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    there = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"README.md", "distances.svg", "recipe.yaml", "LICENSES", "LICENSE"} <= there
    assert (tmp_path / "out" / "LICENSES" / "tovek" / "NOTICE").read_text() == "notice of tovek\n"
    assert (tmp_path / "out" / "LICENSE").read_text().startswith("LLAMA 3.1")
    assert leftovers(tmp_path) == []


def test_any_candidate_by_its_number_and_by_preference(night, tmp_path, summary, evomerge):
    other = next(c for c in summary["candidates"] if c["id"] != summary["chosen"])
    done = export_candidate(night.folder, tmp_path / "one", str(other["id"]))
    assert done.candidate["recipe_hash"] == other["recipe_hash"]
    assert done.verified.comparison.logits == 0
    card = (tmp_path / "one" / "README.md").read_text()
    assert "It is not the run's winner" in card
    assert "model-index" not in card
    told = evomerge(
        "export", night.folder, tmp_path / "two", "--prefer", "sums=1", "--no-verify", "--json"
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    best = max(c["selection"]["sums"]["value"] for c in summary["candidates"] if c["selection"])
    assert found["candidate"]["selection"]["sums"]["value"] == best
    assert found["verified"] is None
    assert found["licences"]["licence"] == "llama3.1"
    assert "Not verified" in (tmp_path / "two" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prefer", "sum=1"], "did you mean 'sums'"),
        (["--prefer", "sums=-1"], "above 0"),
        (["--pick", "best:sum"], "did you mean 'best:sums'"),
        (["--pick", "7", "--prefer", "sums=1"], "give one"),
        (["--pick", "99999"], "no scored candidate"),
        (["--public"], "add --push"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(night, tmp_path, refused, options, said):
    assert said in refused("export", night.folder, tmp_path / "out", *options)
    assert list(tmp_path.iterdir()) == []


def test_out_that_is_there(night, tmp_path, refused):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert "new or empty" in refused("export", night.folder, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_export_that_is_not_the_candidate_is_set_aside(night, tmp_path, monkeypatch, capsys):
    """As if the disk gave other bytes back than it was given."""
    honest = verification.read_back

    def faulty(folder, **options):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["model.norm.weight"][3] += 0.5
        save_file(tensors, path, metadata={"format": "pt"})
        return honest(folder, **options)

    monkeypatch.setattr(verification, "read_back", faulty)
    out = tmp_path / "out"
    with pytest.raises(HandOverError, match=r"model\.norm\.weight: the file holds other numbers"):
        export_candidate(night.folder, out, None)
    assert not out.exists()
    assert "model.norm.weight" in (tmp_path / "out.failed" / NOT_VERIFIED).read_text()
    from evomerge import cli

    monkeypatch.setattr("sys.argv", ["evomerge", "export", str(night.folder), str(out)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (stop.value.code, len(lines)) == (1, 1)
    assert "out.failed1" in lines[0]
    assert leftovers(tmp_path) == []


def test_tasks_that_are_gone_do_not_keep_a_model_from_its_user(night, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(night.folder, folder)
    text = (folder / "run.yaml").read_text()
    include = next(line for line in text.splitlines() if "include:" in line)
    (folder / "run.yaml").write_text(text.replace(include, f"  include: {tmp_path}/gone"))
    done = export_candidate(folder, tmp_path / "out", None)
    assert done.verified.problems == ()
    assert done.verified.comparison is not None
    assert "plain sentences" in done.verified.note
    assert "plain sentences" in (tmp_path / "out" / "README.md").read_text()


KILLED = """
import sys, time
from pathlib import Path
from evomerge import export
from evomerge.hand_over import {module}
real = {module}.{function}
def slow(*a, **k):
    Path(sys.argv[3]).touch()
    time.sleep(60)
    return real(*a, **k)
{module}.{function} = slow
export.export_candidate(Path(sys.argv[1]), Path(sys.argv[2]), None)
"""


@pytest.mark.parametrize(("module", "function"), [("verify", "verify"), ("distances", "measure")])
def test_killed_on_its_way_it_leaves_nothing_that_looks_complete(night, tmp_path, module, function):
    out, sign = tmp_path / "out", tmp_path / "there"
    code = KILLED.format(module=module, function=function)
    process = subprocess.Popen([sys.executable, "-c", code, night.folder, out, sign])
    try:
        limit = time.monotonic() + 240
        while not sign.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.05)
        assert sign.exists()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    assert len(leftovers(tmp_path)) == 1
    export_candidate(night.folder, out, None, verified=False)
    assert (out / "README.md").exists()
    assert leftovers(tmp_path) == [], "the next export cleans up"


def test_a_full_disk_is_one_line(night, tmp_path):
    """Files of more than 1 MB cannot be written: as EFBIG, what a full disk is to the writer."""
    command = (
        f"ulimit -f 1000; {sys.executable} -m evomerge.cli export {night.folder} {tmp_path}/out"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_recipes_that_travel_name_no_path_of_this_machine():
    called = {
        "base": "org/base@abc",
        "one": "/here/model",
        "two": "/there/model",
        "adapted": "org/base@abc + /here/lora",
    }
    assert _shareable(called) == {
        "base": "org/base@abc", "one": "one", "two": "two", "adapted": "adapted",
    }  # fmt: skip
