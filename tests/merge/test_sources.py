"""Opening sources, and refusing hostile or unfitting ones with a sentence that helps."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merge.sources import Sources, open_sources
from search_spaces.errors import InputError
from tests.merge.models import KINDS, Family

UP = "model.layers.1.mlp.up_proj.weight"


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite a folder's weights."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def refused(pattern: str):
    """An InputError whose one line matches."""
    return pytest.raises(InputError, match=re.compile(pattern))


def checked(family: Family) -> Sources:
    sources = open_sources(family.folders)
    sources.check_compatible()
    return sources


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_opens_what_transformers_saves(family: Callable[..., Family], kind: str, shard: str):
    made = family(kind, shard=shard)
    sources = checked(made)
    sources.check_finite()
    assert sources.names == ("base", "a", "b")
    assert sources.layers == 3
    stored: dict[str, torch.Tensor] = {}
    for path in made.folders["a"].glob("*.safetensors"):
        stored |= load_file(path)
    assert set(sources.names_of("a")) == set(stored)
    assert sources.parameters() == sum(t.numel() for t in stored.values())
    for name, tensor in stored.items():
        assert torch.equal(sources.tensor("a", name), tensor)
        assert sources.shapes[name] == tuple(tensor.shape)
    files = len(list(made.folders["a"].glob("*.safetensors")))
    assert files == 1 if shard == "5GB" else files > 2


def test_tensors_stay_mapped_and_are_opened_once(family: Callable[..., Family]):
    sources = open_sources(family("llama").folders)
    first = sources.tensor("base", UP)
    assert sources.tensor("base", UP).data_ptr() == first.data_ptr()
    mapped = Path("/proc/self/maps").read_text()
    assert str(family("llama").folders["base"] / "model.safetensors") in mapped


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_storage_dtype(family: Callable[..., Family], dtype: torch.dtype):
    sources = checked(family("llama", dtype))
    assert sources.dtype("a") == dtype
    assert sources.tensor("a", UP).dtype == dtype


# --- folders --------------------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path):
    with refused(r"source x .*no such folder; correct the path"):
        open_sources({"x": tmp_path / "nowhere"})


def test_no_config(llama_copy: Family):
    (llama_copy.folders["a"] / "config.json").unlink()
    with refused(r"source a .*no config\.json"):
        open_sources(llama_copy.folders)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_broken_config(llama_copy: Family, text: str):
    (llama_copy.folders["a"] / "config.json").write_text(text)
    with refused(r"file config\.json: it is not (a )?JSON"):
        open_sources(llama_copy.folders)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_unopened(llama_copy: Family, name: str):
    folder = llama_copy.folders["a"]
    (folder / "model.safetensors").rename(folder / name)
    with refused(r"pickle files only.*safe_serialization=True"):
        open_sources(llama_copy.folders)


def test_no_weights(llama_copy: Family):
    (llama_copy.folders["a"] / "model.safetensors").unlink()
    with refused(r"no weights.*complete the download"):
        open_sources(llama_copy.folders)


def test_adapter(llama_copy: Family):
    (llama_copy.folders["a"] / "adapter_config.json").write_text("{}")
    with refused(
        r"LoRA adapter is not a whole model; name its model as well: \{model: MODEL, lora: "
    ):
        open_sources(llama_copy.folders)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 100])
def test_truncated_header(llama_copy: Family, size: int):
    path = llama_copy.folders["a"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with refused(rf"file model\.safetensors: its header needs \d+ bytes, the file has {size};"):
        open_sources(llama_copy.folders)


def test_absurd_header_length(llama_copy: Family):
    path = llama_copy.folders["a"] / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    with refused(r"its header needs 4611686018427387912 bytes"):
        open_sources(llama_copy.folders)


def test_truncated_data(llama_copy: Family):
    path = llama_copy.folders["a"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with refused(
        r"file model\.safetensors: tensor [\w.]+ ends at byte (\d+), the file at byte \d+"
    ):
        open_sources(llama_copy.folders)


def test_header_that_is_not_json(llama_copy: Family):
    path = llama_copy.folders["a"] / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"]" * 20 + content[28:])
    with refused(r"file model\.safetensors: .*header.*damaged"):
        open_sources(llama_copy.folders)


def test_index_of_missing_shard(tmp_path: Path, family: Callable[..., Family]):
    folder = Path(shutil.copytree(family("llama", shard="20KB").folders["a"], tmp_path / "a"))
    next(folder.glob("model-00002*")).unlink()
    with refused(r"index\.json names model-00002-of-\d+\.safetensors"):
        open_sources({"a": folder})


def test_index_of_missing_tensor_and_of_files_elsewhere(
    tmp_path: Path, family: Callable[..., Family]
):
    folder = Path(shutil.copytree(family("llama", shard="20KB").folders["a"], tmp_path / "a"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shard = index["weight_map"][UP]
    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"model.extra": shard}}))
    with refused(rf"says model\.extra is in {shard}: it is not there"):
        open_sources({"a": folder})
    path.write_text(json.dumps({"weight_map": {UP: "../base/model.safetensors"}}))
    with refused(r"names '\.\./base/model\.safetensors': a shard is a file of the same folder"):
        open_sources({"a": folder})
    path.write_text("{}")
    with refused(r"it has no weight_map"):
        open_sources({"a": folder})


# --- contents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(llama_copy: Family, value: float):
    edit(llama_copy.folders["b"], lambda tensors: tensors[UP].view(-1)[-1:].fill_(value))
    sources = checked(llama_copy)
    with refused(rf"source b .*tensor {UP} in model\.safetensors: it holds NaN or infinity"):
        sources.check_finite()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised(llama_copy: Family, dtype: torch.dtype):
    edit(llama_copy.folders["a"], lambda t: t.update({UP: t[UP].to(dtype)}))
    with refused(rf"{UP} of type (F8_E4M3|I8): quantised weights.*bfloat16.*dequantise it"):
        open_sources(llama_copy.folders)


@pytest.mark.parametrize(
    ("method", "way"),
    [
        ("gptq", "or dequantise it with the tool that made it"),
        ("fp8", r"quantization_config=transformers\.FineGrainedFP8Config\(dequantize=True\)"),
        ("bitsandbytes", r"from_pretrained\(folder\)\.dequantize\(\)\.save_pretrained"),
    ],
)
def test_quantisation_config(llama_copy: Family, method: str, way: str):
    configure(llama_copy.folders["a"], quantization_config={"quant_method": method})
    with refused(rf"quantization_config \(quant_method {method}\) in config\.json: .*{way}"):
        open_sources(llama_copy.folders)


def test_packed_weights_without_a_word_in_the_configuration(llama_copy: Family):
    packed = {UP.replace("weight", "qweight"): torch.zeros(4, 4, dtype=torch.int32)}
    edit(llama_copy.folders["a"], lambda t: t.update(packed))
    with refused(r"up_proj\.qweight of type I32: quantised weights"):
        open_sources(llama_copy.folders)


# --- fit ------------------------------------------------------------------------------------------


def test_other_architecture(family: Callable[..., Family]):
    folders = {"base": family("llama").folders["base"], "b": family("qwen2").folders["b"]}
    with refused(r"sources base and b: model_type llama and qwen2"):
        checked(Family(folders))


def test_other_heads_of_equal_shape(llama_copy: Family):
    """Eight heads of four or four of eight: the shapes agree, the meaning does not."""
    for key, value in (("num_attention_heads", 8), ("num_key_value_heads", 4), ("head_dim", 4)):
        configure(llama_copy.folders["b"], **{key: value})
    with refused(r"num_attention_heads 4 and 8"):
        checked(llama_copy)


def test_other_depth(family: Callable[..., Family]):
    folders = {
        "base": family("llama").folders["base"],
        "b": family("llama", num_hidden_layers=2).folders["b"],
    }
    with refused(r"3 and 2 layers"):
        checked(Family(folders))


def test_other_shape_names_the_tensor_and_both_models(llama_copy: Family):
    edit(llama_copy.folders["b"], lambda t: t.update({UP: t[UP][:-1].clone()}))
    with refused(rf"sources base and b: tensor {UP} of shapes \[48, 32\] and \[47, 32\]"):
        checked(llama_copy)


def test_other_vocabulary(family: Callable[..., Family]):
    folders = {
        "base": family("llama").folders["base"],
        "b": family("llama", vocab_size=50).folders["b"],
    }
    with refused(
        r"has 48 and 50 rows: the vocabularies differ; choose whose tokens the result has: .*models.tokenizer"
    ):
        checked(Family(folders))


def test_a_tensor_that_one_source_lacks(llama_copy: Family):
    edit(llama_copy.folders["b"], lambda tensors: tensors.pop(UP) is None)
    sources = checked(llama_copy)
    assert [w for w in sources.warnings() if UP in w] == [
        f"source 'b' lacks {UP}: there the others are merged without it"
    ]
    assert sources.holds("a", UP)
    assert not sources.holds("b", UP)
    assert UP in sources.names_of("base")
    assert UP not in sources.names_of("b")


def test_a_tensor_of_a_layer_that_only_the_first_source_lacks(llama_copy: Family):
    edit(llama_copy.folders["base"], lambda tensors: tensors.pop(UP) is None)
    with refused(rf"sources base and a: tensor {UP}: a has it, base does not, and the result gets"):
        checked(llama_copy)
    lone = llama_copy.folders | {"a": llama_copy.folders["base"]}
    sources = checked(Family(lone))
    assert any(f"'b' has {UP}, which 'base' does not: left out" in w for w in sources.warnings())
    assert UP not in sources.names_of("b")


def test_a_head_for_scores_is_left_out(llama_copy: Family):
    for name in ("a", "b"):
        edit(llama_copy.folders[name], lambda t: t.update({"score.weight": torch.ones(1, 32)}))
    sources = checked(llama_copy)
    assert "score.weight" not in sources.names_of("a")
    assert sum("score.weight" in warning for warning in sources.warnings()) == 2


def test_the_same_tensors_called_otherwise(llama_copy: Family):
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit(llama_copy.folders["b"], rename)
    with refused(
        r"base has it, b does not, and has layers\.0\.[\w.]+ instead; .*same transformers"
    ):
        checked(llama_copy)


def test_redundant_head_of_tied_model_is_ignored(tmp_path: Path, family: Callable[..., Family]):
    folders = dict(family("llama_tied").folders)
    folders["b"] = Path(shutil.copytree(folders["b"], tmp_path / "b"))
    embedding = "model.embed_tokens.weight"
    edit(folders["b"], lambda t: t.update({"lm_head.weight": t[embedding].clone()}))
    sources = checked(Family(folders))
    assert sources.tied
    assert sources.embedding == embedding
    assert sources.names_of("b") == sources.names_of("base")


def test_computed_buffers_of_old_checkpoints_are_ignored(llama_copy: Family):
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(llama_copy.folders["b"], lambda t: t.update({buffer: torch.ones(4)}))
    assert buffer not in checked(llama_copy).names_of("b")


# --- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        ({}, {"hidden_act": "gelu"}, "activation silu and gelu"),
        ({}, {"hidden_activation": "relu"}, "activation silu and relu"),
        (
            {"partial_rotary_factor": 1.0},
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor 1\.0 and 0\.5",
        ),
        (
            {"rotary_pct": 0.25},
            {"partial_rotary_factor": 0.5},
            r"partial_rotary_factor 0\.25 and 0\.5",
        ),
    ],
)
def test_functions_between_the_tensors_differ(
    llama_copy: Family, mine: dict, theirs: dict, message: str
):
    configure(llama_copy.folders["base"], **mine)
    configure(llama_copy.folders["b"], **theirs)
    with refused(rf"sources base and b: {message}: sources have one architecture"):
        open_sources({n: llama_copy.folders[n] for n in ("base", "b")}).check_compatible()


OLD = {"rope_parameters": None, "rope_theta": 10000, "rope_scaling": None, "hidden_act": "swish"}
"""As transformers 4 spells what transformers 5 writes for these models."""


def test_one_configuration_in_two_spellings(llama_copy: Family):
    assert checked(llama_copy).warnings() == []
    configure(llama_copy.folders["a"], **OLD)
    configure(llama_copy.folders["b"], **OLD | {"rope_theta": None})
    assert checked(llama_copy).warnings() == []
    scaled = {"factor": 8.0, "low_freq_factor": 1.0}
    new = {"rope_theta": 5e5, "rope_type": "llama3", "original_max_position_embeddings": 64}
    configure(llama_copy.folders["base"], rope_parameters=new | scaled)
    configure(llama_copy.folders["a"], rope_theta=5e5, rope_scaling={"type": "llama3", **scaled})
    nested = {"full_attention": new | scaled, "sliding_attention": {"rope_theta": 1e4}}
    configure(llama_copy.folders["b"], rope_theta=None, rope_parameters=nested)
    assert checked(llama_copy).warnings() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (OLD | {"rope_theta": 1e6}, "rope_theta 1000000.0, 'base' 10000.0"),
        (
            {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
            "rope_theta 1000000.0, 'base' 10000.0",
        ),
        (
            OLD | {"rope_scaling": {"type": "linear", "factor": 4.0}},
            "rope_scaling {'rope_type': 'linear', 'factor': 4.0}, 'base' {'rope_type': 'default'}",
        ),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps 1e-05, 'base' 1e-06"),
    ],
)
def test_rotary_embeddings_that_differ_are_merged_with_a_warning(
    llama_copy: Family, changes: dict, expected: str
):
    """Qwen2.5 and Qwen2.5-Math differ so, and are merged; the result takes one of the two."""
    configure(llama_copy.folders["b"], **changes)
    found = checked(llama_copy).warnings()
    assert found == [f"source 'b' has {expected}: merged layers use that of 'base'"]
