"""Inputs people really have, the whole way: an adapter as expert, an expert with other token ids."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import prepare
from evomerge.run_file import folder_of, load_run_file
from evomerge.search.baselines import average
from search_spaces.errors import InputError
from tests.conftest import show

SMALL = {
    "search.budget": {"evaluations": 6},
    "search.population": 6,
    "search.finalists": 2,
    "search.random_baseline": False,
    "fitness.objectives": None,
}


def shuffle_tokens(folder: Path) -> None:
    """Give a model's words other ids, its embedding's and head's rows with them."""
    content = json.loads((folder / "tokenizer.json").read_text())
    fixed = {entry["content"] for entry in content["added_tokens"]}
    vocabulary = content["model"]["vocab"]
    words = [token for token in vocabulary if token not in fixed]
    turned = {
        token: vocabulary[other] for token, other in zip(words, words[1:] + words[:1], strict=True)
    }
    content["model"]["vocab"] = vocabulary | turned
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            rows = tensors[name].clone()
            for token, place in turned.items():
                rows[place] = tensors[name][vocabulary[token]]
            tensors[name] = rows
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def adapter(base: Path, out: Path, seed: int) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj"])
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for _, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.02)
    adapted.save_pretrained(out)


def judged(run: Path) -> list[Any]:
    """What candidates of a run file are worth: every seed of its space, and one source alone."""
    config = load_run_file(run)
    prepared = prepare(config, folder_of(config, run))
    recipes = [prepared.space.decode(genome) for genome in prepared.space.seeds().values()]
    recipes.append(average(["tovek"], None))
    evaluator = EvaluatorFactory(prepared.config, prepared.folder, prepared.folders)()
    found = [evaluator.evaluate(recipe, "search") for recipe in recipes]
    assert all(evaluation.scored for evaluation in found), [e.reason for e in found]
    return [(evaluation.objectives, evaluation.responses) for evaluation in found]


def test_an_expert_with_other_token_ids_is_worth_the_same(
    tmp_path: Path, quickstart: dict[str, Any], write_run
):
    experts = quickstart["models"]["experts"]
    shutil.copytree(experts["tovek"], tmp_path / "turned")
    shuffle_tokens(tmp_path / "turned")
    turned = {"models.experts": experts | {"tovek": "turned"}}
    with pytest.raises(InputError, match="choose whose tokens the result has"):
        judged(write_run(SMALL | turned))
    found = judged(write_run(SMALL | turned | {"models.tokenizer": "base"}))
    assert found == judged(write_run(SMALL))


def test_one_model_under_two_names(tmp_path: Path, quickstart: dict[str, Any], write_run):
    """It used to be found out when the winner's recipe was written, after the night."""
    experts = quickstart["models"]["experts"]
    run = write_run({"models.experts": experts | {"again": experts["tovek"]}})
    config = load_run_file(run)
    with pytest.raises(InputError, match=r"experts 'tovek' and 'again'.*one model"):
        prepare(config, folder_of(config, run))


def test_an_adapter_as_expert_and_a_union_of_tokens(
    tmp_path: Path, quickstart: dict[str, Any], write_run, evomerge
):
    models = quickstart["models"]
    for seed, name in enumerate(("lora", "other")):
        adapter(Path(models["base"]), tmp_path / name, seed)
    extended = Path(shutil.copytree(models["experts"]["tovek"], tmp_path / "extended"))
    tokenizer = AutoTokenizer.from_pretrained(extended)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    model = AutoModelForCausalLM.from_pretrained(extended)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(extended)
    tokenizer.save_pretrained(extended)
    experts = {
        "lunari": {"model": models["base"], "lora": "lora"},
        "alone": "other",
        "tovek": "extended",
    }
    run = write_run(SMALL | {"models.experts": experts, "models.tokenizer": "union"})
    done = evomerge("search", run, "--dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    summary = show(tmp_path / "run")
    assert all(candidate["outcome"] == "scored" for candidate in summary["candidates"])
    assert {"base", "lunari", "alone", "tovek"} <= set(summary["baselines"])

    done = evomerge("export", tmp_path / "run", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    written = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "<think>" in written.get_vocab()
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert made.config.vocab_size == len(written) == len(tokenizer)
    done = evomerge("merge", tmp_path / "out" / "recipe.yaml", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    # A changed adapter is a changed source.
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 99}))
    done = evomerge("resume", tmp_path / "run", "--evaluations", 7)
    assert done.returncode == 2
    assert "lora/adapter_config.json" in done.stderr
