"""LoRA adapters as sources, against peft: merged, and as the running adapter computes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from evomerge.merge.locations import Location, Reference, lasting_name, locate, reference_of
from evomerge.merge.sources import Sources, open_sources
from evomerge.merge.writer import write_model
from evomerge.recipe_files import merge_recipe
from search_spaces.errors import InputError
from tests.merge.models import Family
from tests.merge.plans import recipe_of
from tests.merge.test_sources import refused

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of what these tests are about
TOKENS = torch.arange(12).view(2, 6)


def adapt(model_folder: Path, out: Path, *, seed: int = 0, **options: Any) -> Any:
    """Save an adapter as if it had been trained; returns the running model with it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    chosen = {"target_modules": ["q_proj", "down_proj"], "r": 3, "lora_alpha": 5} | options
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **chosen))
    with torch.no_grad():
        for _, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    adapted.save_pretrained(out)
    return adapted.eval()


def opened(model: Path, adapter: Path) -> Sources:
    return open_sources({"x": Location(model, adapter)})


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that stores its weights as [inputs, outputs], square ones too."""
    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=48, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "r": 5},
    "patterns": {
        "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2, "down_proj": 4},
        "alpha_pattern": {"layers.0.mlp.down_proj": 9},
    },
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "a module saved whole": {"modules_to_save": ["lm_head", "input_layernorm"]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_equals_pefts_merge(tmp_path: Path, family: Callable[..., Family], options: dict[str, Any]):
    base = family("llama").folders["base"]
    merged = adapt(base, tmp_path / "lora", **options).merge_and_unload().state_dict()
    sources = opened(base, tmp_path / "lora")
    sources.check_finite()
    assert set(sources.names_of("x")) == set(merged)
    stored = load_file(base / "model.safetensors")
    changed = 0
    for name, expected in merged.items():
        ours = sources.tensor("x", name)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
        changed += not torch.equal(ours, stored[name])
    assert changed >= 4


def test_weights_stored_as_inputs_by_outputs(tmp_path: Path, gpt2: Path):
    adapted = adapt(
        gpt2, tmp_path / "lora", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True
    )
    merged = adapted.merge_and_unload().state_dict()
    sources = opened(gpt2, tmp_path / "lora")
    for name in sources.names_of("x"):
        torch.testing.assert_close(sources.tensor("x", name), merged[name], rtol=1e-6, atol=1e-6)
        assert sources.tensor("x", name).is_contiguous()


def test_the_rest_stays_mapped_and_storage_is_the_models(
    tmp_path: Path, family: Callable[..., Family]
):
    base = family("llama", torch.bfloat16).folders["base"]
    adapt(base, tmp_path / "lora")
    sources = opened(base, tmp_path / "lora")
    assert sources.dtype("x") == torch.bfloat16
    up, down = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
    assert sources.tensor("x", up).dtype == torch.bfloat16
    assert sources.tensor("x", up).data_ptr() == sources.tensor("x", up).data_ptr()
    assert sources.tensor("x", down).dtype == torch.float32
    assert sources.files("x")[-1].name == "adapter_model.safetensors"
    assert sources.origin("x", up) == ((base / "model.safetensors",), up)
    assert [path.name for path in sources.origin("x", down)[0]] == [
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    ]
    held = [sources.tensor("x", name) for name in sources.names_of("x")]
    assert sources.held_bytes() == sum(t.numel() * t.itemsize for t in held)


TIED: dict[str, dict[str, Any]] = {
    "neither": {},
    "embedding": {"target_modules": ["embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding saved whole": {"modules_to_save": ["embed_tokens"]},
    "both saved whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "one adapter for both": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "both whole and tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("case", TIED)
def test_tied_models_compute_what_the_running_adapter_does(
    tmp_path: Path, family: Callable[..., Family], case: str
):
    """peft's merge_and_unload would change embedding and head where only one was trained."""
    base = family("llama_tied").folders["base"]
    adapted = adapt(base, tmp_path / "lora", **TIED[case])
    sources = opened(base, tmp_path / "lora")
    recipe = recipe_of("linear", {"x": {"weight": 1.0}}, dtype="float32")
    write_model(recipe, sources, tmp_path / "out")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(
            written(TOKENS).logits, adapted(TOKENS).logits, rtol=1e-4, atol=1e-4
        )
    stays = case in ("neither", "one adapter for both", "both whole and tied")
    assert sources.tied == written.config.tie_word_embeddings == stays


def test_adapters_merge_as_the_models_they_make(tmp_path: Path, family: Callable[..., Family]):
    """A recipe over two adapters in mergekit's short and long form, from relative paths."""
    base = Path(shutil.copytree(family("llama").folders["base"], tmp_path / "base"))
    for seed, name in enumerate("ab"):
        adapted = adapt(base, tmp_path / f"lora_{name}", seed=seed)
        adapted.merge_and_unload().save_pretrained(tmp_path / name)
        shutil.copyfile(base / "tokenizer.json", tmp_path / name / "tokenizer.json")
    text = (
        "merge_method: ties\nbase_model: base\ndtype: float32\nmodels:\n"
        "  - {{model: {}, parameters: {{weight: 0.7, density: 0.4}}}}\n"
        "  - {{model: {}, parameters: {{weight: 0.5, density: 0.9}}}}\n"
    )
    long = "{model: {path: base}, lora: {path: lora_b}}"
    for out, models in {"adapters": ("./base+./lora_a", long), "models": ("a", "b")}.items():
        (tmp_path / f"{out}.yaml").write_text(text.format(*models))
        merge_recipe(tmp_path / f"{out}.yaml", tmp_path / out, None, "cpu")
    ours = load_file(tmp_path / "adapters" / "model.safetensors")
    for name, expected in load_file(tmp_path / "models" / "model.safetensors").items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-6)
    # What it wrote down makes the same model again.
    merge_recipe(tmp_path / "adapters" / "recipe.yaml", tmp_path / "again", None, "cpu")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], ours[name]) for name in ours)


# --- which model an adapter applies to --------------------------------------------------------------


def test_an_adapter_alone_applies_to_what_it_was_trained_on_or_to_the_base(
    tmp_path: Path, family: Callable[..., Family]
):
    folders = family("llama").folders
    adapt(folders["a"], tmp_path / "of_a")
    adapt(folders["base"], tmp_path / "of_nobody")
    path = tmp_path / "of_nobody" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "o/x"}))
    called = {name: Reference(str(folder)) for name, folder in folders.items()}
    called |= {name: Reference(name) for name in ("of_a", "of_nobody")}
    found = locate(called, tmp_path, "base")
    assert found["a"] == Location(folders["a"])
    assert found["of_a"] == Location(folders["a"], tmp_path / "of_a")
    assert found["of_nobody"] == Location(folders["base"], tmp_path / "of_nobody")
    assert lasting_name(called["of_a"], found["of_a"]) == f"{folders['a']} + {tmp_path / 'of_a'}"
    with refused(
        r"model 'of_nobody': it is an adapter, and its model is no source; name the model"
    ):
        locate({"of_nobody": Reference("of_nobody")}, tmp_path, None)
    with refused(r"models: model 'of_a': it is an adapter itself"):
        locate({"x": Reference("of_a", "of_nobody")}, tmp_path, None)
    with refused(r"lora '.*': there is no adapter_config\.json"):
        locate({"x": Reference("of_a", str(folders["b"]))}, tmp_path, None)


def test_a_folder_called_with_a_plus_goes_before_a_model_and_its_adapter(tmp_path: Path):
    assert reference_of(f"{tmp_path}/m+{tmp_path}/l", tmp_path) == Reference(
        f"{tmp_path}/m", f"{tmp_path}/l"
    )
    (tmp_path / "m+l").mkdir()
    assert reference_of("m+l", tmp_path) == Reference("m+l")
    assert reference_of("o/m + o/l", tmp_path) == Reference("o/m", "o/l")
    assert reference_of("a+b+c", tmp_path) == Reference("a+b+c")


# --- what is refused --------------------------------------------------------------------------------


def configure(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, r"use_dora = True: this kind of LoRA is not supported; merge it into"),
        ({"bias": "lora_only"}, r"bias = 'lora_only': LoRA with trained biases"),
        ({"peft_type": "IA3"}, r"peft_type IA3: only LoRA adapters are merged; .*merge_and_unload"),
        (
            {"init_lora_weights": "pissa"},
            r"init_lora_weights = 'pissa': it changes the model's own",
        ),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices = \[1\]"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, r"target_parameters = "),
        ({"r": 7}, r"r = 7 in adapter_config\.json: the adapter's weights for .* have rank 3"),
        ({"r": None}, r"file adapter_config\.json: its ranks cannot be read"),
    ],
)
def test_other_adapters(
    tmp_path: Path, family: Callable[..., Family], values: dict[str, object], message: str
):
    base = family("llama").folders["base"]
    adapt(base, tmp_path / "lora")
    configure(tmp_path / "lora", **values)
    with refused(rf"source x .*, adapter .*: {message}"):
        opened(base, tmp_path / "lora")


def test_an_adapter_of_another_model(tmp_path: Path, family: Callable[..., Family]):
    adapt(family("llama").folders["base"], tmp_path / "lora")
    with refused(r"module model\.layers\.2\.[\w.]+: the model has no such weight"):
        opened(family("llama", num_hidden_layers=2).folders["base"], tmp_path / "lora")
    with refused(
        r"down_proj\.weight of shape \[32, 48\]: the model's is \[32, 40\]; name the model"
    ):
        opened(family("llama", intermediate_size=40).folders["base"], tmp_path / "lora")


def test_damaged_adapters(tmp_path: Path, family: Callable[..., Family]):
    base, lora = family("llama").folders["base"], tmp_path / "lora"
    adapt(base, lora)
    weights = lora / "adapter_model.safetensors"
    tensors = load_file(weights)
    some_b = next(name for name in tensors if name.endswith("q_proj.lora_B.weight"))
    save_file({name: t for name, t in tensors.items() if name != some_b}, weights)
    with refused(r"module model\.layers\.\d\.self_attn\.q_proj: LoRA has an A and a B"):
        opened(base, lora)
    save_file(tensors | {some_b: tensors[some_b][:, :1].clone()}, weights)
    with refused(
        r"A of shape \[3, 32\] and B of shape \[32, 1\].*\[r, inputs\] and \[outputs, r\]"
    ):
        opened(base, lora)
    weights.write_bytes(weights.read_bytes()[:50])
    with refused(r"file adapter_model\.safetensors: its header needs"):
        opened(base, lora)
    weights.rename(lora / "adapter_model.bin")
    with refused(r"adapter_model\.bin: pickles can run code and are never opened"):
        opened(base, lora)
    (lora / "adapter_model.bin").unlink()
    with refused(r"no adapter_model\.safetensors.*complete the download"):
        opened(base, lora)


def test_not_finite_names_the_adapter(tmp_path: Path, family: Callable[..., Family]):
    base, lora = family("llama").folders["base"], tmp_path / "lora"
    adapt(base, lora)
    tensors = load_file(lora / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.down_proj.lora_B.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.down_proj\.weight.*NaN.*intact"):
        opened(base, lora).check_finite()
