"""What users get wrong in searches over stacks: found by `check`, exit 2, one line."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from tests.conftest import QUICKSTART

PATH = {"kind": "path", "depth": [3, 6]}
STAGED = PATH | {"merged": {"rule": "task_arithmetic", "weight": [0, 1]}}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"kind": "pth"}, ["'pth'", "did you mean 'path'"]),
        ({"kind": "path", "dept": 4}, ["error: ", "space: 'dept'", "did you mean 'depth'"]),
        ({"kind": "path", "repeats": 2}, ["'repeats'", "kind indicator"]),
        ({"kind": "path", "weight": [0, 1]}, ["'weight'", "unknown key"]),
        ({"kind": "template", "first": 2}, ["'first'", "path, hybrid"]),
        ({"kind": "hybrid", "rule": "tie"}, ["'tie'", "did you mean 'ties'"]),
        ({"kind": "hybrid", "merged": {"rule": "ties"}}, ["'merged'", "path"]),
        ({"rule": "linear", "depth": [3, 6]}, ["'depth'", "path"]),
        (PATH | {"depth": [6, 3]}, ["depth = [6, 3]", "least"]),
        (PATH | {"depth": 0}, ["depth = [0, 0]", "1 to 512 layers"]),
        (PATH | {"depth": [3]}, ["space.depth", "[least, most]"]),
        (PATH | {"depth": "deep"}, ["space.depth", "[least, most]"]),
        (PATH | {"first": 2, "last": 1}, ["first = 2", "last = 1", "depth = [3, 6]"]),
        (PATH | {"first": -1}, ["space.first"]),
        (PATH | {"first": 5, "depth": [7, 8]}, ["first = 5", "4 layers"]),
        (PATH | {"input_scale": 0}, ["scale", "0.01"]),
        (PATH | {"input_scale": [0.001, 1]}, ["0.001", "0.01"]),
        (PATH | {"input_scale": [1, 8]}, ["8", "4"]),
        (PATH | {"input_scale": [1.2, 0.8]}, ["input_scale", "low"]),
        (PATH | {"input_scale": [1]}, ["space.input_scale", "[low, high]"]),
        ({"kind": "indicator", "repeats": 0}, ["space.repeats"]),
        ({"kind": "indicator", "depth": [40, 50]}, ["40", "repeats"]),
        ({"kind": "template", "templates": ["upscaling"]}, ["'upscaling'", "up_scaling"]),
        ({"kind": "template", "templates": []}, ["space.templates"]),
        ({"kind": "hybrid", "weights": "each"}, ["space.weights"]),
        (
            {"kind": "hybrid", "weights": "per_slot", "granularity": {"layers": 2}},
            ["granularity", "slot"],
        ),
        (STAGED | {"merged": {"rule": "linear", "weight": 0.5}}, ["space.merged", "nothing is"]),
        (STAGED | {"merged": {"shares": 0.5}}, ["space.merged", "did you mean 'share'"]),
        (STAGED | {"merged": {"share": 1}}, ["space.merged.share", "less than 1"]),
        (STAGED | {"merged": {"granularity": {"layrs": 2}}}, ["space.merged.granularity.layrs"]),
        (STAGED | {"merged": {"share": 0.01}}, ["merged.share 0.01 of 20", "both stages"]),
    ],
)
def test_space(space, words, write_run, refused):
    error = refused("check", write_run({"space": space}))
    assert all(word in error for word in words), error


@pytest.mark.parametrize("name", ["merged", "best_start"])
def test_names_that_reports_use(name, write_run, refused):
    assert f"'{name}' is a reserved name" in refused(
        "check", write_run({"models.experts": {name: "x"}})
    )


@pytest.fixture
def expert(tmp_path):
    """A copy of an expert whose configuration may be changed, and the run file's change."""
    folder = tmp_path / "lunari"
    shutil.copytree(QUICKSTART / "models" / "lunari", folder)

    def change(**keys):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | keys))
        return {"models.experts": {"lunari": str(folder)}, "space": PATH}

    return change


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
            ["rope_parameters.rope_theta 10000.0 and 500000.0", "sources base and lunari"],
        ),
        (
            {
                "rope_parameters": {
                    "rope_theta": 10000.0,
                    "rope_type": "linear",
                    "factor": 2.0,
                }
            },
            ["rope_parameters.factor None and 2.0"],
        ),
        ({"rms_norm_eps": 1e-5}, ["rms_norm_eps 1e-06 and 1e-05"]),
        ({"num_attention_heads": 10, "head_dim": 16}, ["num_attention_heads", "5", "10"]),
    ],
)
def test_sources_whose_layers_do_not_run_under_one_configuration(
    keys, words, expert, write_run, refused
):
    error = refused("check", write_run(expert(**keys)))
    assert all(word in error for word in words), error


def test_what_layers_do_not_read_may_differ(expert, write_run, evomerge):
    run_file = write_run(
        expert(max_position_embeddings=128, attention_dropout=0.1, initializer_range=0.5)
    )
    done = evomerge("check", run_file, "--no-dry-run", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["facts"]
    assert facts["space"] == "path, 3 to 6 layers, 13 variables"
    assert facts["starting points"].split()[1:3] == ["base,", "lunari,"]


def test_merging_only_warns_of_what_stacks_refuse(expert, write_run, evomerge):
    changes = expert(rms_norm_eps=1e-5) | {"space": {"rule": "linear", "weight": [0, 1]}}
    done = evomerge("check", write_run(changes), "--no-dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert "rms_norm_eps" in json.loads(done.stdout)["facts"]["note"]


def test_an_architecture_that_is_not_known(tmp_path, write_run, refused):
    """The table of families has no OPT: its layers read learned positions."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=372, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=16,
    )  # fmt: skip
    for name in ("a", "b"):
        OPTForCausalLM(config).save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(QUICKSTART / "models" / "base" / file, tmp_path / name)
    experts = {name: str(tmp_path / name) for name in ("a", "b")}
    error = refused("check", write_run({"models": {"experts": experts}, "space": PATH}))
    assert "opt" in error
    assert "llama" in error


def test_the_room_is_that_of_the_deepest(write_run, evomerge):
    """What a candidate of 200 layers takes is counted, not what the sources' four take."""
    run_file = write_run({"space": {"kind": "path", "depth": [4, 200]}})
    done = evomerge("check", run_file, "--no-dry-run", "--json")
    assert done.returncode == 0, done.stderr
    tensors = load_file(QUICKSTART / "models" / "base" / "model.safetensors")
    layers = sum(t.numel() for name, t in tensors.items() if ".layers." in name)
    others = sum(t.numel() for t in tensors.values()) - layers
    needed = 4 * (others + 50 * layers) / 1e9  # float32, 200 layers are 50 times four
    assert f"{needed:.2f} GB at most" in json.loads(done.stdout)["facts"]["disk"]
