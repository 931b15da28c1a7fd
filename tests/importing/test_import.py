"""Other tools' configurations become run files that load, and say what became of every key."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from evomerge import cli
from evomerge.importing.draft import Draft
from evomerge.importing.files import import_config, write_run_file
from evomerge.importing.sources import layers_of, source_of
from evomerge.run_file import load_run_file, parse_run_file
from search_spaces.errors import InputError
from tests.conftest import QUICKSTART, ROOT, show

FILES = ROOT / "tests" / "importing" / "files"
ALL = sorted(FILES.iterdir())


def imported(name):
    text, notes = import_config(FILES / name)
    return yaml.safe_load(text), text, notes


def keys_of(given):
    inner = given.get("genome") or {}
    return [*(k for k in given if k != "genome"), *(f"genome.{k}" for k in inner)]


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.stem)
def test_every_example_loads_and_speaks_of_every_key(file):
    text, notes = import_config(file)
    parse_run_file(yaml.safe_load(text), file.name)
    comments = "".join(line[1:] for line in text.splitlines() if line.startswith("#"))
    for key in keys_of(yaml.safe_load(file.read_text())):
        assert re.search(rf"  {re.escape(key)}\b", comments), key
    left = [note for note in notes if note.startswith("left out: ")]
    for note in notes:  # what is said on stderr stands in the file too
        assert note.split(": ", 1)[1].replace(" ", "") in comments.replace(" ", "")
    assert ("Left out" in text) == bool(left)


def test_mergekit_evolve_with_every_documented_key():
    made, _, notes = imported("evolve_dare_ties.yml")
    assert made["models"] == {
        "base": "mistralai/Mistral-7B-v0.1",
        "experts": {
            "Hermes-2-Pro-Mistral-7B": "NousResearch/Hermes-2-Pro-Mistral-7B",
            "Dans-AdventurousWinds-Mk2-7b": {
                "model": "PocketDoc/Dans-AdventurousWinds-Mk2-7b", "revision": "main",
            },
            "zephyr-7b-beta": {"model": "HuggingFaceH4/zephyr-7b-beta", "lora": "org/zephyr-lora"},
        },
        "tokenizer": "union",
    }  # fmt: skip
    assert made["space"] == {
        "rule": "dare_ties",
        "granularity": {"layers": 4, "components": ["attn", "mlp"]},  # 32 layers, 8 to a group
        "normalize": False,
        "weight": [-1.2, 1.2],
        "density": [0.2, 1],
    }
    tasks = made["fitness"]["tasks"]
    assert tasks["gsm8k_train"] == {
        "items": 100, "metric": "exact_match", "filter": "strict-match", "num_fewshot": 4,
        "apply_chat_template": True, "fewshot_as_multiturn": True,
    }  # fmt: skip
    assert tasks["spartqa_train"]["metric"] == "acc"
    assert made["fitness"]["objectives"][1] == {
        "task": "my_perplexity", "weight": 0.5, "direction": "minimize",
    }  # fmt: skip
    assert made["search"] == {"algorithm": "cmaes", "budget": {"evaluations": 100}}
    said = "\n".join(notes)
    assert "left out: genome.filters: rotary" in said
    assert "left out: pass_per_layer: unknown to mergekit-evolve" in said
    assert "assumed: 32 layers" in said


def test_its_defaults_are_written_out():
    """A chat template is on, linear normalises, weights are positive, where its file is silent."""
    made, text, _ = imported("evolve_linear.yml")
    assert made["space"]["granularity"] == {"layers": {"knots": 8}}
    assert (made["space"]["normalize"], made["space"]["weight"]) == (True, [0, 1.2])
    (task,) = made["fitness"]["tasks"].values()
    assert task["apply_chat_template"]
    assert task["fewshot_as_multiturn"]
    assert (task["metric"], task["filter"]) == ("acc", "none")
    assert "apply_chat_template: true of each task (its default)" in text


def test_its_slerp_of_two_models():
    made, _, notes = imported("evolve_slerp.yml")
    assert made["models"] == {"base": "org/first", "experts": {"second": "org/second"}}
    assert made["space"] == {"rule": "slerp", "t": [0, 1]}
    assert made["fitness"]["objectives"] == [{"name": "score", "tasks": {"one": 2.0, "two": 1.0}}]
    assert "apply_chat_template" not in made["fitness"]["tasks"]["one"]
    assert any(note.startswith("left out: random_init") for note in notes)


def written(tmp_path, content, name="given.yml"):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def evolve(**genome):
    plain = {"models": ["a/a", "b/b"], "merge_method": "ties", "base_model": "a/base"}
    return {"genome": plain | genome, "tasks": ["one"]}


def test_its_slerp_of_three_models_is_another_rule_and_said_so(tmp_path):
    content = evolve(models=["a/a", "b/b", "c/c"], merge_method="slerp", base_model=None)
    text, notes = import_config(written(tmp_path, content))
    assert yaml.safe_load(text)["space"]["rule"] == "multislerp"
    assert any("no rule here" in note for note in notes)


def test_a_base_among_the_models_is_no_expert(tmp_path):
    text, notes = import_config(written(tmp_path, evolve(models=["a/base", "b/b"])))
    assert yaml.safe_load(text)["models"]["experts"] == {"b": "b/b"}
    assert any("the base is no expert" in note for note in notes)


def test_layers_are_counted_where_the_model_is_there(tmp_path):
    models = [str(QUICKSTART / "models" / name) for name in ("lunari", "tovek")]
    content = evolve(
        models=models, base_model=str(QUICKSTART / "models" / "base"), layer_granularity=2
    )
    text, notes = import_config(written(tmp_path, content))
    assert yaml.safe_load(text)["space"]["granularity"] == {"layers": 2}
    assert not any("layers, as" in note for note in notes)


def test_layers_of_a_model_that_also_sees(tmp_path):
    (tmp_path / "sees").mkdir()
    config = {"model_type": "gemma3", "text_config": {"num_hidden_layers": 34}}
    (tmp_path / "sees" / "config.json").write_text(json.dumps(config))
    draft = Draft("a tool", "a file")
    assert layers_of(draft, str(tmp_path / "sees")) == 34
    assert not draft.assumed


def test_an_adapter_keeps_its_revision(tmp_path):
    long = {"model": {"path": "a/x", "revision": "r1"}, "lora": {"path": "l/l", "revision": "r2"}}
    assert source_of(long, "a file") == source_of("a/x@r1+l/l@r2", "a file")
    assert source_of(long, "a file")["lora"] == "l/l@r2"
    here = {"model": "a/x", "lora": {"path": str(tmp_path), "revision": "r2"}}
    assert source_of(here, "a file")["lora"] == str(tmp_path), "a folder has no revisions"


def test_a_home_of_nobody_is_a_name_like_any_other(tmp_path):
    text, _ = import_config(written(tmp_path, evolve(models=["~nobody9/x", "b/b"])))
    assert yaml.safe_load(text)["models"]["experts"]["x"] == "~nobody9/x"


def test_names_that_are_taken_here_are_changed(tmp_path):
    text, _ = import_config(written(tmp_path, evolve(models=["a/merge", "b/winner"])))
    assert set(yaml.safe_load(text)["models"]["experts"]) == {"merge_model", "winner_model"}
    with pytest.raises(InputError, match="'merge' is a reserved name"):
        parse_run_file(yaml.safe_load(text) | {"models": {"experts": {"merge": "a/b"}}}, "run.yaml")


def test_mergenetic_s_templates_are_where_its_models_are(tmp_path, monkeypatch):
    (tmp_path / "lm_tasks").mkdir()
    monkeypatch.chdir(tmp_path)
    made, _, _ = imported("mergenetic_one.yaml")
    assert made["fitness"]["include"] == str(tmp_path / "lm_tasks")


def test_the_tokenizer_of_a_model(tmp_path):
    def tokenizer(source):
        made = import_config(written(tmp_path, evolve(tokenizer_source=source)))
        return yaml.safe_load(made[0])["models"].get("tokenizer"), made[1]

    assert tokenizer("model:b/b")[0] == "b"
    assert tokenizer("base")[0] == "base"
    assert tokenizer("a/base")[0] == "base"
    none, notes = tokenizer("model:c/c")
    assert none is None
    assert any("genome.tokenizer_source" in note for note in notes)


def test_a_task_that_stands_twice(tmp_path):
    content = evolve() | {"tasks": [{"name": "one"}, {"name": "one", "metric": "f1,none"}]}
    _, notes = import_config(written(tmp_path, content))
    assert any("stands twice" in note for note in notes)


def test_mergenetic_with_one_model_is_slerp_by_a_genetic_algorithm():
    made, _, notes = imported("mergenetic_one.yaml")
    assert made["models"] == {
        "base": "OpenLLM-Ro/RoMistral-7b-Instruct", "experts": {"ro": "meta-math/MetaMath-Mistral-7B"},
    }  # fmt: skip
    assert made["space"]["rule"] == "slerp"
    assert made["space"]["granularity"] == {"layers": {"knots": 5}, "components": ["attn", "mlp"]}
    assert made["search"] == {
        "seed": 420, "algorithm": "ga", "population": 10, "budget": {"evaluations": 70},
    }  # fmt: skip
    assert made["fitness"]["tasks"] == {"gsm8k-ro": {"items": 10, "metric": "exact_match"}}
    assert made["fitness"]["include"] == "lm_tasks"
    assert made["engine"]["dtype"] == made["export"]["dtype"] == "float16"
    said = "\n".join(notes)
    for key in ("load_in_4bit", "device", "mode: estimator gmp_irt needs item banks", "tasks.test"):
        assert f"left out: {key}" in said


def test_mergenetic_with_several_languages_is_dare_ties_and_an_objective_each():
    made, _, notes = imported("mergenetic_languages.yaml")
    assert set(made["models"]["experts"]) == {"it", "nl"}  # `en` is the base
    assert made["space"] == {"rule": "dare_ties", "weight": [0, 1], "density": [0.05, 1]}
    assert list(made["fitness"]["tasks"]) == ["arc_it", "arc_nl", "arc_en"]
    assert made["fitness"]["estimator"] == "mean"
    assert made["search"]["algorithm"] == "nsga2"
    assert "population" not in made["search"]
    assert any("pop_size: 1 cannot hold" in note for note in notes)


def test_mergenetic_with_lists():
    made, _, _ = imported("mergenetic_objectives.yaml")
    assert made["models"]["experts"] == {"one": "org/one", "one_2": "other/one"}
    assert made["search"]["budget"] == {"evaluations": 100}


def test_mergenetic_on_csv_files_says_which_tasks_to_declare():
    made, _, notes = imported("mergenetic_csv.yaml")
    assert list(made["fitness"]["tasks"]) == ["gsm8k_ro"]
    assert any("declare gsm8k_ro" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "mapping"),
        ("{}", "no keys"),
        ({"merge_method": "ties", "models": []}, "evomerge merge"),
        ({"models": {}, "fitness": {}}, "it is a run file already; use 'evomerge search"),
        ({"tasks": [], "limit": 3}, "the nearest is mergekit-evolve"),
        ({"langs": [], "bench": "x", "mode": "mean"}, "the nearest is Mergenetic"),
        ({"genome": {}}, "no 'genome'"),
        ({"genome": {"models": ["a"]}, "tasks": ["one"]}, "no 'merge_method'"),
        (evolve(merge_method="tyes"), "did you mean 'ties'?"),
        (evolve(base_model=None), "no 'base_model'"),
        (evolve(layer_granularity="eight"), "a number of layers"),
        (evolve(models=[{"path": 3}, "b/b"]), "a Hub id or a folder"),
        ({"pop_size": 3, "n_iter": 2, "models": ["a"]}, "no 'base_model'"),
        ({"pop_size": 3, "n_iter": 2, "models": ["a"], "base_model": "b"}, "no 'datasets'"),
        (
            {"pop_size": 9, "n_iter": 2, "models": ["a"], "base_model": "b", "tasks": ["t"],
             "mode": "gmpir"}, "did you mean 'gmpirt'?",
        ),
        (
            {"pop_size": 9, "n_iter": "2", "models": ["a"], "base_model": "b", "tasks": ["t"]},
            "a whole number",
        ),
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_refused_in_one_line(
    content, said, tmp_path, capsys, monkeypatch
):
    file = written(tmp_path, content)
    monkeypatch.setattr("sys.argv", ["evomerge", "import", str(file)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert stop.value.code == 2, captured.err
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_the_command_writes_to_stdout_or_to_a_new_file(evomerge, tmp_path):
    done = evomerge("import", FILES / "evolve_dare_ties.yml")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["space"]["rule"] == "dare_ties"
    assert "left out: pass_per_layer" in done.stderr
    out = tmp_path / "new" / "run.yaml"
    again = evomerge("import", FILES / "evolve_dare_ties.yml", "--out", out)
    assert (again.returncode, again.stdout) == (0, "")
    assert out.read_text() == done.stdout
    assert load_run_file(out).search.algorithm == "cmaes"
    twice = evomerge("import", FILES / "evolve_dare_ties.yml", "--out", out)
    assert twice.returncode == 2
    assert "it exists" in twice.stderr


@pytest.mark.parametrize("step", ["os.replace", "os.chmod"])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, step):
    out = tmp_path / "new" / "run.yaml"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(step, full)
        with pytest.raises(InputError, match="No space left"):
            write_run_file("models: {}\n", out)
    assert list(out.parent.iterdir()) == []
    with pytest.raises(UnicodeEncodeError):
        write_run_file("\ud800", out)
    assert list(out.parent.iterdir()) == []
    write_run_file("# größer\n", out)
    assert [(p.name, p.read_text(encoding="utf-8")) for p in out.parent.iterdir()] == [
        ("run.yaml", "# größer\n")
    ]
    assert out.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_nothing(tmp_path):
    """For real: a process that may write 4 KiB to a file."""
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from evomerge.importing.files import write_run_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_run_file('# x\\n' * 5000, Path(sys.argv[1]))\n"
    )
    out = tmp_path / "new" / "run.yaml"
    done = subprocess.run(
        [sys.executable, "-c", program, out], capture_output=True, text=True, check=False
    )
    assert "it cannot be written" in done.stderr
    assert "InputError" in done.stderr
    assert list(out.parent.iterdir()) == []


def test_an_imported_run_file_runs(evomerge, tmp_path):
    """With the quickstart's models and tasks in the places of the config's."""
    models = {name: str(QUICKSTART / "models" / name) for name in ("base", "lunari", "abacus")}
    given = evolve(
        models=[models["lunari"], models["abacus"]], base_model=models["base"], merge_method="dare_ties",
        layer_granularity=2, filters=["self_attn"],
    ) | {
        "tasks": [{"name": "lunari_words", "weight": 2}, {"name": "sums", "metric": "exact_match,none"}],
        "limit": 8, "apply_chat_template": False,
    }  # fmt: skip
    given["tasks"][0]["metric"] = "exact_match,none"
    out = tmp_path / "run.yaml"
    done = evomerge("import", written(tmp_path, given), "--out", out)
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(out.read_text())
    content["fitness"]["include"] = str(
        QUICKSTART / "tasks"
    )  # the command line's --task-search-path
    for task in content["fitness"]["tasks"].values():
        task |= {"selection": 8, "test": 16}
    content["search"] |= {"random_baseline": False, "finalists": 2}
    content["cluster"] = {"executor": "serial"}
    out.write_text(yaml.safe_dump(content))
    done = evomerge("search", out, "--dir", tmp_path / "run", "--evaluations", 12)
    assert done.returncode == 0, done.stderr
    found = show(tmp_path / "run")
    assert found["budget"]["done"] == 12
    assert {"weight.lunari.layers_0_1.attn", "density.abacus.layers_2_3.other"} <= set(
        found["candidates"][0]["genome"]
    )
