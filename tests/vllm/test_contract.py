"""What `internals` takes for granted about vLLM. A failure here names what moved."""

import ast
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

import fitness.engines.vllm
from tests.conftest import ROOT

MAY_IMPORT_VLLM = {"internals.py", "sampling.py"}


def test_two_modules_import_vllm():
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("search_spaces", "fitness", "evomerge")
        for path in (ROOT / room).rglob("*.py")
        if "vllm" in _imported(path)
    }
    folder = Path(fitness.engines.vllm.__file__).parent.relative_to(ROOT)
    allowed = {(folder / name).as_posix() for name in MAY_IMPORT_VLLM}
    assert found <= allowed, "vLLM's insides are kept in these two, so that one place moves with it"


def _imported(path: Path) -> set[str]:
    """Top-level packages that a module imports, also in functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def _takes(function: Callable[..., object], *names: str) -> bool:
    return set(names) <= set(inspect.signature(function).parameters)


def test_weight_transfer_engines():
    from vllm.distributed.weight_transfer import base, factory

    engine = base.WeightTransferEngine
    assert _takes(engine.__init__, "config", "vllm_config", "device", "model"), (
        "engines are made with other arguments: `device` and `model` are used"
    )
    assert engine.__abstractmethods__ == {
        "init_transfer_engine",
        "start_weight_update",
        "receive_weights",
        "finish_weight_update",
        "shutdown",
    }, "an engine has other methods to write: MergingEngine"
    source = inspect.getsource(engine.__init__)
    assert all(f"self.{name} =" in source for name in ("device", "model", "model_config")), (
        "engines keep their device, model or model_config elsewhere"
    )
    assert _takes(engine.update_weights, "update_info"), "update_weights takes something else"
    assert _takes(engine.parse_update_info, "update_dict"), "parse_update_info has changed"
    registry = factory.WeightTransferEngineFactory
    assert _takes(registry.register_engine, "name", "module_path_or_cls", "class_name"), (
        "engines are registered in another way: internals.register"
    )
    assert isinstance(registry._registry, dict), "whether an engine is registered is not to be seen"


def test_worker_drives_the_engine():
    from vllm.v1.worker.gpu_worker import Worker

    for name in ("init_weight_transfer_engine", "start_weight_update", "update_weights"):
        assert callable(getattr(Worker, name, None)), f"the worker has no {name}"
    assert callable(getattr(Worker, "finish_weight_update", None)), "no finish_weight_update"
    assert "self.weight_transfer_engine" in inspect.getsource(Worker.load_model), (
        "the worker keeps its engine elsewhere: WorkerExtension asks it for its report"
    )
    from fitness.engines.vllm.internals import WorkerExtension

    ours = {name for name in dir(WorkerExtension) if not name.startswith("__")}
    assert not ours & set(dir(Worker)), "vLLM has a worker method of our name"


def test_layerwise_reload():
    from vllm.model_executor.model_loader import reload
    from vllm.model_executor.model_loader.reload import layerwise, meta, types

    assert list(inspect.signature(reload.initialize_layerwise_reload).parameters) == ["model"], (
        "initialize_layerwise_reload takes something else"
    )
    assert _takes(layerwise.finalize_layerwise_processing, "model", "model_config"), (
        "finalize_layerwise_reload takes something else"
    )
    assert {"load_numel", "load_numel_total"} <= set(vars(types.LayerReloadingInfo)), (
        "how much of a layer was loaded is not to be seen: internals._parts"
    )
    assert "copy_.default" in inspect.getsource(meta.CopyCounter), (
        "what a loader loads is not counted by its copies: LazyTensor answers these on `meta`"
    )
    assert "param.data.copy_" in inspect.getsource(layerwise._copy_and_restore_kernel_tensors), (
        "reloaded weights are not copied into the storage that was there: CUDA graphs, tied weights"
    )


def test_layers_that_run():
    from vllm.config import ModelConfig
    from vllm.model_executor.models.llama import LlamaModel

    assert "islice(self.layers, self.start_layer, self.end_layer)" in inspect.getsource(
        LlamaModel.forward
    ), "models go through their layers in another way: layer_slots"
    assert callable(ModelConfig.get_total_num_hidden_layers), "how many slots there are"
    assert {"enforce_eager", "hf_text_config"} <= set(ModelConfig.__annotations__), (
        "whether the model is compiled, and what its layers are, is not to be seen"
    )


def test_offline_interface():
    from vllm import LLM

    assert _takes(LLM.init_weight_transfer_engine, "request"), "LLM.init_weight_transfer_engine"
    assert _takes(LLM.start_weight_update, "self"), "LLM.start_weight_update"
    assert _takes(LLM.update_weights, "request"), "LLM.update_weights"
    assert _takes(LLM.finish_weight_update, "weight_version"), (
        "finish_weight_update stamps no version: outputs could not be told apart"
    )
    assert _takes(LLM.collective_rpc, "method"), "LLM.collective_rpc"
    assert inspect.signature(LLM.reset_prefix_cache).return_annotation is bool, (
        "reset_prefix_cache does not say whether it succeeded"
    )
    assert callable(LLM.reset_mm_cache), "LLM.reset_mm_cache"
    from vllm.v1.engine.llm_engine import LLMEngine

    assert callable(LLMEngine.reset_encoder_cache), "LLMEngine.reset_encoder_cache"
    from vllm.v1.engine.core_client import EngineCoreClient

    assert callable(EngineCoreClient.shutdown), "EngineCoreClient.shutdown ends the engine"


def test_outputs_bear_the_weights_version():
    from vllm import CompletionOutput

    assert "weight_versions" in {field.name for field in fields(CompletionOutput)}, (
        "outputs do not say which weights made them"
    )


def test_engine_arguments():
    from fitness.engines.vllm.engine import default_arguments
    from fitness.engines.vllm.internals import argument_names
    from fitness.engines.vllm.requirements import OURS

    known = argument_names()
    for platform in ("cpu", "cuda"):
        unknown = set(default_arguments(platform, 1)) - known
        assert not unknown, f"engine arguments that evomerge sets are gone: {unknown}"
    assert not set(OURS) - known, "engine arguments that evomerge keeps to itself are gone"
    assert "gpu_memory_utilization" in known, "engine.memory_argument"


def test_default_memory_share():
    from vllm.config import CacheConfig

    from fitness.engines.vllm.memory import VLLMS_OWN

    assert CacheConfig.__dataclass_fields__["gpu_memory_utilization"].default is not None
    assert CacheConfig().gpu_memory_utilization == pytest.approx(VLLMS_OWN), (
        "vLLM takes another share of a GPU by default: memory.VLLMS_OWN"
    )


def test_raw_log_probabilities_are_the_default():
    from vllm.config import ModelConfig

    assert ModelConfig.__dataclass_fields__["logprobs_mode"].default == "raw_logprobs", (
        "vLLM's log probabilities are after temperature and filters by default"
    )


def test_environment():
    from vllm import envs

    for name in (
        *("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "VLLM_LOGGING_LEVEL"),
        *("VLLM_LOGGING_STREAM", "VLLM_CPU_OMP_THREADS_BIND"),
        *("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_PLUGINS", "VLLM_CPU_KVCACHE_SPACE"),
    ):
        assert name in envs.environment_variables, f"vLLM reads no {name} any more"


def test_traps_on_the_cpu():
    """Each of these has made candidates wrong in silence: see internals."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
        UnquantizedFusedMoEMethod,
    )
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )
    from vllm.triton_utils import dispatcher

    assert issubclass(ParallelLMHead, VocabParallelEmbedding), "_pack_tied_heads"
    assert callable(ParallelLMHead.tie_weights), "heads are tied in another way: _pack_tied_heads"
    assert callable(ParallelLMHead._register_bias), "_put_back_bias"
    assert "moe_kernel is not None" in inspect.getsource(UnquantizedFusedMoEMethod._setup_kernel), (
        "experts are packed in another way: _unpack_experts"
    )
    assert "vars(value)" in inspect.getsource(dispatcher._rebind_kernels), (
        "the search for kernels has changed: _let_attributes_be_searched may go"
    )


def test_a_plugin_for_another_version_does_nothing(monkeypatch: pytest.MonkeyPatch):
    """Whoever serves models with another vLLM beside evomerge must not see it fail."""
    from fitness.engines.vllm import internals, plugin

    called: list[int] = []
    monkeypatch.setattr(internals, "register", lambda: called.append(1))
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.40.1")
    plugin.register()
    assert not called
    monkeypatch.setattr(plugin, "installed_version", lambda: "0.32.0")
    plugin.register()
    plugin.register()
    assert len(called) == 2


def test_the_plugin_is_installed_and_idempotent():
    from importlib.metadata import entry_points

    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from fitness.engines.vllm.internals import BACKEND, MergingEngine

    (entry,) = entry_points(group="vllm.general_plugins", name="evomerge")
    register = entry.load()
    register()
    register()
    assert WeightTransferEngineFactory._registry[BACKEND]() is MergingEngine
