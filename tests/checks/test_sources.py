"""What is told of the sources: files, hashes, tokens, chat templates, licences."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from evomerge.checks.text import findings_text
from evomerge.preflight import Prepared
from tests.checks.zoo import MODELS, copied
from tests.cli.test_inputs import adapter, shuffle_tokens

Check = Callable[..., Prepared]
Advised = Callable[..., str]

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def experts(quickstart: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"models.experts": quickstart["models"]["experts"] | changed}


def give_template(folder: Path, text: str) -> None:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | {"chat_template": text}))


def test_files_hashes_and_architecture(prepared: Check, quickstart: dict[str, Any]) -> None:
    findings = prepared().findings
    assert findings is not None
    assert [source.name for source in findings.sources] == ["base", "lunari", "tovek", "abacus"]
    base = findings.sources[0]
    assert base.model == quickstart["models"]["base"]
    assert base.revision is None
    weights = next(file for file in base.files if file.name == "model.safetensors")
    content = (MODELS / "base" / "model.safetensors").read_bytes()
    assert weights.sha256 == hashlib.sha256(content).hexdigest()
    assert weights.bytes == len(content)
    tensors = load_file(MODELS / "base" / "model.safetensors")
    stored = sum(tensor.numel() for name, tensor in tensors.items() if "lm_head" not in name)
    assert base.parameters == stored
    assert (base.architecture, base.dtype, base.tied) == ("LlamaForCausalLM", "float16", True)
    assert (base.tokens, base.rows, base.padding_rows) == (372, 372, 0)
    assert [source.vocabulary for source in findings.sources] == ["first", "same", "same", "same"]
    assert len({source.hash for source in findings.sources}) == 4


def test_a_revision_of_the_hub(prepared: Check, quickstart: dict[str, Any], tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--org--tovek" / "snapshots" / commit
    cached.parent.mkdir(parents=True)
    copied(cached, "tovek")
    findings = prepared(experts(quickstart, tovek=str(cached))).findings
    assert findings is not None
    assert findings.sources[2].revision == commit


def test_padding_rows_other_tokens_and_an_adapter(
    prepared: Check, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    shuffle_tokens(copied(tmp_path / "turned", "tovek"))
    adapter(MODELS / "base", tmp_path / "lora", 0)
    padded = copied(tmp_path / "padded", "abacus")
    tensors = load_file(padded / "model.safetensors")
    import torch

    name = "model.embed_tokens.weight"
    tensors[name] = torch.cat([tensors[name], tensors[name][:12]])
    save_file(tensors, padded / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(
        json.dumps(config | {"vocab_size": config["vocab_size"] + 12})
    )
    changed = experts(
        quickstart,
        lunari={"model": str(MODELS / "base"), "lora": "lora"},
        tovek="turned",
        abacus="padded",
    )
    findings = prepared(changed | {"models.tokenizer": "base"}).findings
    assert findings is not None
    _, lora, turned, rows = findings.sources
    assert lora.lora == str(tmp_path / "lora")
    assert "lora/adapter_model.safetensors" in {file.name for file in lora.files}
    assert turned.vocabulary == "other"
    assert (rows.vocabulary, rows.rows, rows.padding_rows) == ("same", 384, 12)


def test_more_tokens_than_rows(
    advised: Advised, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    folder = copied(tmp_path / "worded", "tovek")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 372, "content": "<new>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    told = advised(experts(quickstart, tovek="worded") | {"models.tokenizer": "base"})
    assert "'worded'" not in told
    assert "'tovek' has 373 tokens and 372 rows" in told
    assert "resize_token_embeddings" in told


def test_chat_templates(
    prepared: Check, advised: Advised, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    assert "template" not in advised()
    for name, text in (("lunari", TEMPLATE), ("tovek", TEMPLATE + "!")):
        give_template(copied(tmp_path / name, name), text)
    changed = experts(quickstart, lunari="lunari", tovek="tovek")
    told = advised(changed)
    assert "'base', whose tokenizer the export carries, has no chat template" in told
    assert "the chat templates differ" in told
    assert "no chat template is applied in 'lunari_words', " in told
    assert "though there is one in 'lunari', 'tovek'" in told
    found = prepared(changed | {"models.tokenizer": "tovek"})
    assert found.findings is not None
    templates = found.findings.templates
    assert (templates.exported, templates.asked) == (("tovek",), "tovek")
    assert templates.hashes["base"] is None
    assert templates.hashes["lunari"] != templates.hashes["tovek"]
    told = " | ".join(map(str, found.advice))
    assert "the export carries that of 'tovek', and 'lunari' learnt another" in told
    assert "has no chat template" not in told


def test_a_stack_carries_the_template_of_whose_layer_comes_first(
    advised: Advised, quickstart: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("base", "lunari"):
        give_template(copied(tmp_path / name, name), TEMPLATE + name)
    changes = {
        "models.base": "base",
        "models.experts": {"lunari": "lunari"},
        "space": {"kind": "path", "depth": [3, 5]},
        "fitness.tasks": {"sums": {"items": 8, "selection": 8, "apply_chat_template": True}},
        "fitness.objectives": None,
    }
    told = advised(changes)
    assert "the search asks with the chat template of 'base'" in told
    assert "the export carries that of 'base' or 'lunari'" in told
    assert "the search asks" not in advised(changes | {"models.tokenizer": "base"})


def test_licences(prepared: Check, quickstart: dict[str, Any], tmp_path: Path) -> None:
    assert "licence" not in " ".join(map(str, prepared().advice))
    for name, licence in (("lunari", "apache-2.0"), ("tovek", "cc-by-nd-4.0")):
        folder = copied(tmp_path / name, name)
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A model\n")
    (copied(tmp_path / "base", "base") / "README.md").unlink()
    changes = experts(quickstart, lunari="lunari", tovek="tovek") | {"models.base": "base"}
    found = prepared(changes)
    told = " | ".join(map(str, found.advice))
    assert "licences: cc-by-nd-4.0 (tovek)" in told
    assert "no licence is known of 'base'" in told
    assert found.findings is not None
    content = found.findings.as_json()["licences"]
    assert content["of"]["lunari"] == {"name": "apache-2.0", "origin": "README.md"}
    assert content["of"]["base"] is None
    assert content["merge"]["licence"] is None


def test_terms_that_nobody_here_knows(prepared: Check, quickstart: Any, tmp_path: Path) -> None:
    names = ("base", "lunari")
    for name, licence in zip(names, ("apache-2.0", "proprietary"), strict=True):
        card = copied(tmp_path / name, name) / "README.md"
        card.write_text(f"---\nlicense: {licence}\n---\n# A model\n")
    found = prepared(experts(quickstart, lunari="lunari") | {"models.base": "base"})
    assert found.findings is not None
    text = " ".join(findings_text(found.findings).split())
    assert "a merge may carry not settled: the terms of lunari are not known here" in text
