"""The export is held against the search's candidate: equal where it is, and told apart where it is not."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evomerge.hand_over.files import read_back
from evomerge.hand_over.memory import too_little_memory
from evomerge.hand_over.verify import (
    LOGITS,
    Comparison,
    Subject,
    _difference,
    _divergence,
    _most,
    _too_far,
    verify,
)
from evomerge.merge.locations import Location
from evomerge.merge.sources import open_sources
from evomerge.merge.writer import write_model
from evomerge.run_file import parse_run_file
from search_spaces.stacking import Hop
from tests.merge.plans import recipe_of
from tests.merge.scaled_stacks import recipe_of as stack_of
from tests.merge.test_lora import adapt
from tests.merge.test_tokenizers import save

PROMPTS = ["w1", "w2", "w5", "w7"]
WEIGHTS = {"a": {"weight": 0.6}, "b": {"weight": 0.3}}


def config_of(quickstart, dtype="float32", kind="transformers", space=None):
    content = {**quickstart, "engine": {"dtype": dtype, "kind": kind, "device": "cpu"}}
    return parse_run_file(content | ({"space": space} if space else {}), "run.yaml")


def subject_of(recipe, sources, places, config):
    where = {n: p if isinstance(p, Location) else Location(p) for n, p in places.items()}
    return Subject(recipe, sources, config, where, PROMPTS)


def exported(recipe, sources, out, **options):
    write_model(recipe, sources, out, **options)
    return out


def assert_equal(found):
    assert found.problems == ()
    assert found.comparison is not None, found.note
    assert found.comparison.logits <= LOGITS[found.comparison.dtype] * found.comparison.largest
    assert found.comparison.divergence <= 1e-6
    assert found.comparison.answers == found.comparison.prompts >= 1
    assert found.comparison.tokens >= 10
    assert found.weights == found.files.tensors


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "qwen2", "gemma", "gpt_neox"])
def test_architectures(tmp_path, family, quickstart, kind):
    made = family(kind)
    sources, recipe = open_sources(made.folders), recipe_of("ties", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out")
    assert_equal(verify(out, subject_of(recipe, sources, made.folders, config_of(quickstart))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
def test_types_of_storage_and_of_computing(tmp_path, family, quickstart, storage, dtype):
    made = family("llama", shard="20KB")
    sources = open_sources(made.folders)
    recipe = recipe_of("dare_ties", WEIGHTS, dtype=storage, seed=3)
    out = exported(recipe, sources, tmp_path / "out", max_shard_bytes=30_000)
    found = verify(out, subject_of(recipe, sources, made.folders, config_of(quickstart, dtype)))
    assert_equal(found)
    assert len(found.files.files) > 1
    assert found.comparison.dtype == dtype


def test_an_adapter_among_the_sources(tmp_path, family, quickstart):
    pytest.importorskip("peft")
    made = family("llama")
    adapt(made.folders["base"], tmp_path / "lora", target_modules=["q_proj", "lm_head"])
    places = {n: Location(f) for n, f in made.folders.items()}
    places["b"] = Location(made.folders["base"], tmp_path / "lora")
    sources, recipe = open_sources(places), recipe_of("task_arithmetic", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out")
    assert_equal(verify(out, subject_of(recipe, sources, places, config_of(quickstart))))


@pytest.mark.parametrize("tied", [False, True])
def test_a_union_of_tokenizers(tmp_path, quickstart, tied):
    words = [f"w{i}" for i in range(12)]
    folders = {
        "base": save(tmp_path / "base", [*words, "<unk>"], ["<s>"], tied=tied),
        "a": save(tmp_path / "a", ["<unk>", *words[::-1], "w20"], seed=1, tied=tied),
        "b": save(tmp_path / "b", [*words[:8], "w30", "<unk>"], seed=2, padding=3, tied=tied),
    }
    sources = open_sources(folders, "union", "base")
    recipe = replace(recipe_of("task_arithmetic", WEIGHTS), tokenizer="union")
    out = exported(recipe, sources, tmp_path / "out")
    found = verify(out, subject_of(recipe, sources, folders, config_of(quickstart)))
    assert_equal(found)
    assert found.files.tokens == found.files.rows == 16
    table = json.loads((out / "tokenizer.json").read_text())
    one, other = "w3", "w4"
    vocabulary = table["model"]["vocab"]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (out / "tokenizer.json").write_text(json.dumps(table))
    prompts = [*PROMPTS, one]
    swapped = replace(subject_of(recipe, sources, folders, config_of(quickstart)), prompts=prompts)
    assert "other tokens" in verify(out, swapped).problems[0]


def test_a_stack_with_folded_scales(tmp_path, family, quickstart):
    made = family("llama")
    sources = open_sources(made.folders)
    hops = [Hop("a", 0), Hop("b", 1, 1.3), Hop("a", 2), Hop("a", 1, -0.8), Hop("b", 2)]
    recipe = stack_of(hops, sources, "float32")
    out = exported(recipe, sources, tmp_path / "out")
    config = config_of(quickstart, space={"kind": "path", "depth": [3, 6]})
    assert_equal(verify(out, subject_of(recipe, sources, made.folders, config)))


def test_a_run_of_vllm_is_verified_by_transformers(tmp_path, family, quickstart):
    made = family("llama")
    sources, recipe = open_sources(made.folders), recipe_of("linear", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out")
    config = config_of(quickstart, kind="vllm")
    assert_equal(verify(out, subject_of(recipe, sources, made.folders, config)))


def test_a_mixture_that_transformers_stores_otherwise_is_merged_twice(tmp_path, family, quickstart):
    made = family("mixtral")
    sources, recipe = open_sources(made.folders), recipe_of("linear", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out")
    subject = subject_of(recipe, sources, made.folders, config_of(quickstart, kind="vllm"))
    found = verify(out, subject)
    assert found.problems == ()
    assert found.comparison is None
    assert "second merge" in found.note
    assert found.weights == found.files.tensors
    nudge(out, "model.layers.1.block_sparse_moe.gate.weight", 1e-3)
    assert "other numbers" in verify(out, subject).problems[0]


def test_too_little_memory_is_said_and_weights_are_compared(
    tmp_path, family, quickstart, monkeypatch
):
    made = family("llama")
    sources, recipe = open_sources(made.folders), recipe_of("linear", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out")
    monkeypatch.setattr("evomerge.merge.host_memory.free_host_memory", lambda: 1000)
    found = verify(out, subject_of(recipe, sources, made.folders, config_of(quickstart)))
    assert (found.problems, found.comparison) == ((), None)
    assert "GB to load" in found.note


def out_of_gpu(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def out_of_host(*_, **__):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize("runs_out", [out_of_gpu, out_of_host])
@pytest.mark.parametrize(
    "where",
    [
        "fitness.engines.transformers.TransformersEngine.load",
        "fitness.engines.transformers.TransformersEngine.logits",
        "transformers.AutoModelForCausalLM.from_pretrained",
        "transformers.LlamaForCausalLM.forward",
    ],
)
def test_memory_that_runs_out_says_nothing_against_the_export(case, monkeypatch, where, runs_out):
    out, subject = case
    monkeypatch.setattr(where, runs_out)
    found = verify(out, subject)
    assert (found.problems, found.comparison) == ((), None)
    assert found.note.startswith("memory ran out: logits were not compared, weights with a second")
    assert found.weights == found.files.tensors
    nudge(out, "model.norm.weight", 0.5)
    assert "model.norm.weight: the file holds other" in verify(out, subject).problems[0]


def test_what_the_second_model_does_not_fit(case, monkeypatch):
    """The candidate's weights were compared already, the folder as it is loaded was not."""
    out, subject = case
    compared = []
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", out_of_gpu)
    monkeypatch.setattr(
        "evomerge.hand_over.verify._against_second_merge",
        lambda folder, given: compared.append((folder, given)) or (7, []),
    )
    assert verify(out, subject).weights == 7
    assert compared == [(out, subject)]


def test_other_errors_are_no_lack_of_memory(case, monkeypatch):
    out, subject = case

    def broken(*_, **__):
        raise RuntimeError("size mismatch for model.norm.weight")

    with monkeypatch.context() as patched:
        patched.setattr("transformers.AutoModelForCausalLM.from_pretrained", broken)
        assert "stock transformers cannot load it" in verify(out, subject).problems[0]
    monkeypatch.setattr("fitness.engines.transformers.TransformersEngine.load", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        verify(out, subject)


GB = 10**9


@pytest.mark.parametrize(
    ("device", "host", "gpu", "said"),
    [
        ("cpu", 9 * GB, 0, ""),
        ("cpu", 1000, 9 * GB, "0.0 GB free"),
        ("cpu", 0, 0, ""),  # the system does not say
        ("cuda", 9 * GB, 9 * GB, ""),
        ("cuda", 9 * GB, 1000, "0.0 GB free on cuda"),
        ("cuda", 1000, 9 * GB, "0.0 GB free"),
        ("cuda:1", 0, 1000, "0.0 GB free on cuda:1"),
    ],
)
def test_free_memory_of_the_machine_and_of_the_gpu(case, monkeypatch, device, host, gpu, said):
    _, subject = case
    monkeypatch.setattr("evomerge.merge.host_memory.free_host_memory", lambda: host)
    monkeypatch.setattr("fitness.engines.resident.pick_device", torch.device)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (gpu, 99 * GB))
    engine = subject.config.engine.model_copy(update={"device": device})
    found = too_little_memory(subject.recipe, subject.sources, engine)
    assert found.endswith(said)
    assert bool(found) == bool(said)


# --- what is not the candidate -----------------------------------------------------------------


@pytest.fixture
def case(tmp_path, family, quickstart):
    """A good export, and what it is to be."""
    made = family("llama")
    sources, recipe = open_sources(made.folders), recipe_of("ties", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out")
    return out, subject_of(recipe, sources, made.folders, config_of(quickstart))


def nudge(folder, name, by, element=0):
    """Change one element of a tensor on disk."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name].reshape(-1)[element] += by
    save_file(tensors, path, metadata={"format": "pt"})


def test_one_element_of_one_tensor(case):
    out, subject = case
    nudge(out, "model.layers.2.mlp.up_proj.weight", 1e-6, element=77)
    assert verify(out, subject).problems == (
        "tensor model.layers.2.mlp.up_proj.weight: the file holds other numbers than the candidate",
    )


def test_another_candidate_s_weights(case, tmp_path):
    out, subject = case
    other = replace(subject, recipe=recipe_of("linear", {"a": {"weight": 1.0}}))
    assert len(verify(out, other).problems) > 5


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 0.1},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}},
        {"hidden_act": "relu"},
        {"num_hidden_layers": 2},
    ],
)
def test_the_right_weights_under_a_wrong_configuration(case, change):
    out, subject = case
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | change))
    problems = verify(out, subject).problems
    assert any("logits" in text or "cannot load" in text or "greedy" in text for text in problems)


def test_a_cut_file(case):
    out, subject = case
    path = out / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert "announced" in verify(out, subject).problems[0]


def test_a_file_of_nonsense(case):
    out, subject = case
    (out / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header at all")
    assert "header cannot be read" in verify(out, subject).problems[0]


def test_not_a_number(case):
    out, subject = case
    nudge(out, "model.norm.weight", float("nan"))
    assert verify(out, subject).problems == ("tensor model.norm.weight holds NaN or infinity",)


def test_a_missing_tensor(case):
    out, subject = case
    tensors = load_file(out / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    assert any("lacks it" in text for text in verify(out, subject).problems)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.json"])
def test_a_broken_json_file(case, file):
    out, subject = case
    (out / file).write_text("{")
    assert verify(out, subject).problems


def test_an_index_that_names_another_file(tmp_path, family):
    made = family("llama")
    sources, recipe = open_sources(made.folders), recipe_of("ties", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out", max_shard_bytes=30_000)
    last = sorted(out.glob("*.safetensors"))[-1]
    shutil.move(last, tmp_path / "gone")
    assert last.name in read_back(out, matched=False).problems[0]


def test_what_was_odd_in_a_source_is_a_warning(tmp_path, quickstart):
    folders = {
        n: save(tmp_path / n, [f"w{i}" for i in range(9)], ["<s>"], seed=s)
        for s, n in enumerate("ab")
    }
    for folder in folders.values():  # as some models are published: more tokens than rows
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<pad>"])
        tokenizer.save_pretrained(folder)
    sources, recipe = open_sources(folders), recipe_of("linear", WEIGHTS)
    out = exported(recipe, sources, tmp_path / "out")
    found = verify(out, subject_of(recipe, sources, folders, config_of(quickstart)))
    assert_equal(found)
    assert "ids up to 10" in found.files.warnings[0]


def test_hashes_and_sizes_are_those_on_disk(case):
    import hashlib

    out, _ = case
    (file,) = read_back(out, matched=False).files
    raw = (out / file.name).read_bytes()
    assert (file.bytes, file.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    with safe_open(out / file.name, framework="pt") as opened:
        assert read_back(out, matched=False).tensors == len(opened.keys())


def test_tolerances():
    near = Comparison(2, 8, 1e-5, 10.0, 1e-9, 2, "float32", "cpu")
    assert list(_too_far(near)) == []
    for wrong in (
        replace(near, logits=2e-3),
        replace(near, logits=float("nan")),
        replace(near, divergence=1e-5),
        replace(near, answers=1),
    ):
        assert list(_too_far(wrong))
    assert list(_too_far(replace(near, answers=1, dtype="bfloat16"))) == []
    assert torch.finfo(torch.bfloat16).eps > LOGITS["bfloat16"] / 4


def test_logits_that_are_no_numbers_are_not_equal():
    """`max(0.0, nan)` is 0: in bfloat16 a model of NaN was verified."""
    nan, inf = float("nan"), float("inf")
    fine, broken = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, nan]])
    for pair in ((fine, broken), (broken, fine), (broken, broken)):
        assert _most(0.0, _difference(*pair)) != 0
        assert _most(_divergence(*pair), 1.0) != 1
    masked = torch.tensor([[1.0, 2.0, -inf]])
    assert (_difference(masked, masked), _divergence(masked, masked)) == (0, 0)
    assert _difference(masked, torch.tensor([[1.0, 2.0, 0.0]])) == inf


def test_a_folder_that_answers_with_nan(case, monkeypatch):
    plain = verify.__globals__["_loaded"](case[0], case[1].config)
    nan = (lambda tokens: plain[0](tokens) * float("nan"), *plain[1:])
    monkeypatch.setattr("evomerge.hand_over.verify._loaded", lambda *_: nan)
    assert any("logits differ by nan" in text for text in verify(*case).problems)
