"""Everything of vLLM that is not scoring: with `sampling` the only module that imports it.

Written against 0.32; `tests/vllm/test_contract.py` names what broke when vLLM has moved. vLLM's
environment (`engine.prepare_environment`) has to be set before this module is imported.

The way of a candidate, in each worker: `MergingEngine.receive_weights` lets the provider check it,
gives the model as many layers as it has (`LayerSlots`), opens the model for loading
(`initialize_layerwise_reload`), feeds `model.load_weights` with lazy tensors, and closes it
(`finalize_layerwise_reload`). Module by module vLLM then materialises the weights in checkpoint form,
calls its loaders, packs or quantises, and copies the result into the storage that was there, which
CUDA graphs point at.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import torch
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform

from fitness.engine import ListedWeights
from fitness.engines.vllm.failures import BrokenEngineError, Failure, as_data
from fitness.engines.vllm.layer_slots import LayerSlots
from fitness.engines.vllm.lazy import Merging

if TYPE_CHECKING:
    from vllm import LLM

BACKEND = "evomerge"
PROVIDERS = "evomerge.weight_providers"
NO_VERSION = "none"
"""Stamped on what a model answers whose last load failed."""


@dataclass
class OpenInfo(WeightTransferInitInfo):
    """Which provider to open in the workers, with what, and how many threads merge."""

    provider: str
    arguments: dict[str, Any]
    threads: int


@dataclass
class CandidateInfo(WeightTransferUpdateInfo):
    """The candidate: what the provider's `prepare` is passed."""

    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """How a load went in one worker.

    Attributes:
        elements: merged there: of its shard, and of nothing else.
        prepare_seconds, load_seconds: of the provider's `prepare`, and of loading, merging included.
        layers: of the candidate.
        identities: layers of the engine that run beside them, all zeros; else only `layers` run.
        failure: what went wrong, or None.
    """

    elements: int = 0
    prepare_seconds: float = 0.0
    load_seconds: float = 0.0
    layers: int = 0
    identities: int = 0
    failure: Failure | None = None


def register() -> None:
    """Make the engine known to vLLM in this process. May be called any number of times."""
    _let_attributes_be_searched()
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, MergingEngine.__name__)


class MergingEngine(WeightTransferEngine[OpenInfo, CandidateInfo]):
    """A weight-transfer engine whose update is a candidate's description. Lives in a worker.

    Raises nothing that a candidate caused: `report` says how the last call went.
    """

    init_info_cls = OpenInfo
    update_info_cls = CandidateInfo
    supports_draft_weight_update = False

    report = Report()
    _provider: ListedWeights | None = None
    _slots: LayerSlots | None = None
    _threads = 1

    def init_transfer_engine(self, init_info: OpenInfo) -> None:
        """Open the provider, on this worker's device."""
        self._threads = init_info.threads
        try:
            (entry,) = entry_points(group=PROVIDERS, name=init_info.provider)
            self._provider = entry.load()({**init_info.arguments, "device": str(self.device)})
            self._slots = LayerSlots(
                self.model,
                self.model_config.hf_text_config,
                self.model_config.get_total_num_hidden_layers(),
                fixed=not self.model_config.enforce_eager,
            )
        except Exception as error:
            self.report = Report(failure=as_data(error))
        else:
            self.report = Report()

    def start_weight_update(self) -> None:
        """Nothing yet: a candidate that is wrong must touch no weight."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Make the resident model the candidate."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: CandidateInfo) -> None:
        """Prepare, and if that succeeds load. `report` says how it went."""
        provider, slots = self._provider, self._slots
        assert provider is not None, "the driver stops where the provider did not open"
        assert slots is not None, "it comes with the provider"
        begun = ready = time.perf_counter()
        merging = Merging(provider)
        try:
            with _threads(self._threads):
                provider.prepare(update_info.payload)
                stack = provider.stack()
                ready = time.perf_counter()
                slots.open(stack)
                self._load(merging, slots.zeros(provider.names()))
                slots.close()
                provider.keep()
        except Exception as error:
            self.report = Report(merging.elements, failure=as_data(error))
        else:
            spent = ready - begun, time.perf_counter() - ready
            self.report = Report(merging.elements, *spent, stack.depth, slots.identities)

    def finish_weight_update(self) -> None:
        """Nothing is left to do."""

    def shutdown(self) -> None:
        """Let go of the sources."""
        self._provider = self._slots = None

    def _load(self, merging: Merging, zeros: Mapping[str, str]) -> None:
        """Load the prepared candidate whole, or leave a model that the next load makes whole.

        Args:
            merging, zeros: see `Merging.tensors`.
        """
        stored = _stored(self.model)
        _unpack_experts(self.model)
        initialize_layerwise_reload(self.model)
        try:
            tensors = merging.tensors(zeros)
            loaded = self.model.load_weights(tensors)  # pyright: ignore[reportCallIssue]
        except BaseException as error:
            merging.abandon(error)
            try:
                finalize_layerwise_reload(self.model, self.model_config)
            finally:
                _put_back(stored)
            raise
        parts = _parts(self.model)
        finalize_layerwise_reload(self.model, self.model_config)
        _put_back_bias(self.model, merging)
        if merging.error is not None:
            raise merging.error
        if self.model_config.quantization is None:
            _check_whole(self.model, loaded, parts)
        _pack_tied_heads(self.model)


class WorkerExtension:
    """Added to vLLM's worker class, so that the driver can ask it."""

    weight_transfer_engine: MergingEngine

    def evomerge_report(self) -> dict[str, Any]:
        """The `Report` of the last call, as plain data."""
        report = self.weight_transfer_engine.report
        return {field.name: getattr(report, field.name) for field in fields(report)}


def _stored(model: torch.nn.Module) -> list[tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]]:
    """Every module's own parameters and buffers, by reference."""
    return [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]


def _put_back(stored: Sequence[tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]]) -> None:
    """Undo what an exception inside vLLM's loading leaves: storage that CUDA graphs do not know."""
    for module, parameters, buffers in stored:
        module._parameters.clear()
        module._parameters.update(parameters)
        module._buffers.clear()
        module._buffers.update(buffers)


def _put_back_bias(model: torch.nn.Module, merging: Merging) -> None:
    """Give the head its bias again, which code of transformers adds on loading and reloading drops."""
    head: Any = getattr(model, "lm_head", model)
    for name, tensor in () if hasattr(head, "bias") else merging.tensors():
        if name.endswith("lm_head.bias"):
            with head.weight.device:
                head._register_bias()
            head.bias.weight_loader(head.bias, tensor)


def _parts(model: torch.nn.Module) -> list[str]:
    """Linear layers of which only a part has been loaded: the keys of a fused query, key, value."""
    found: list[str] = []
    for name, module in model.named_modules():
        info = get_layerwise_info(module)
        begun = isinstance(module, LinearBase) and info.load_numel > 0
        if begun and info.load_numel < (info.load_numel_total or 0):
            found.append(name)
    return found


def _check_whole(model: torch.nn.Module, loaded: set[str] | None, parts: Sequence[str]) -> None:
    """Refuse a candidate that leaves parts of the model as they were, or as memory happened to be.

    Args:
        model: after loading.
        loaded: the names of its parameters that were loaded, if it says so.
        parts: see `_parts`.
    """
    everything = {name for name, _ in model.named_parameters()}
    left = [*sorted(everything - (everything if loaded is None else loaded)), *parts]
    if left:
        raise RuntimeError(
            f"the checkpoint's tensors leave {len(left)} weights of vLLM's model unfilled: "
            f"{', '.join(left[:5])}"
        )


def _unpack_experts(model: torch.nn.Module) -> None:
    """On the CPU vLLM packs experts the first time only, and then takes plain weights for packed."""
    if current_platform.is_cpu():
        for module in model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, UnquantizedFusedMoEMethod):
                method.moe_kernel = None


def _pack_tied_heads(model: torch.nn.Module) -> None:
    """On the CPU a head that shares the embedding's weight has packed a copy of the old one."""
    if not current_platform.is_cpu():
        return
    heads = [m for m in model.modules() if isinstance(m, ParallelLMHead)]
    others = {id(m._parameters.get("weight")) for m in model.modules() if m not in heads}
    for head in heads:
        if id(head.weight) in others:
            head.quant_method.process_weights_after_loading(head)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Merge and pack on all cores of the evaluator: vLLM answers with one thread per worker.

    vLLM's CPU worker puts a function without effect in the place of `torch.set_num_threads`.
    """
    before = torch.get_num_threads()
    torch._C.set_num_threads(count)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch._C.set_num_threads(before)  # pyright: ignore[reportAttributeAccessIssue]


def start(arguments: Mapping[str, Any]) -> LLM:
    """An engine that holds the architecture of `arguments["model"]`, without its weights."""
    from vllm import LLM

    register()
    return LLM(
        **arguments,
        load_format="dummy",
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        worker_extension_cls=f"{__name__}.{WorkerExtension.__name__}",
    )


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Make vLLM's configuration as `start` would; raises what vLLM raises."""
    from vllm.engine.arg_utils import EngineArgs

    register()
    EngineArgs(**arguments, load_format="dummy").create_engine_config()


def _let_attributes_be_searched() -> None:
    """Keep vLLM's start on a CPU from failing where llvmlite (Numba) was imported before.

    It looks through the attributes of everything in all modules, and llvmlite's library answers
    with a function of C, whatever it is asked for.
    """
    ffi: Any = sys.modules.get("llvmlite.binding.ffi")
    if ffi is not None:
        ffi.lib._fntab.setdefault("__dict__", {})


def open_provider(llm: LLM, info: OpenInfo) -> list[Report]:
    """Open the provider in every worker; one report each."""
    llm.init_weight_transfer_engine({"init_info": vars(info)})
    return _reports(llm)


def swap(llm: LLM, payload: Mapping[str, Any], version: str) -> list[Report]:
    """Make the resident model the candidate `payload`; one report per worker.

    Args:
        llm: started, its provider opened.
        payload: for the provider.
        version: stamped on what the candidate answers.
    """
    llm.start_weight_update()
    llm.update_weights({"update_info": {"payload": dict(payload)}})
    reports = _reports(llm)
    failed = any(report.failure for report in reports)
    llm.finish_weight_update(weight_version=NO_VERSION if failed else version)
    return reports


def reset_caches(llm: LLM) -> None:
    """Forget what was computed with other weights.

    Raises:
        BrokenEngineError: vLLM did not, because it still works on a request.
    """
    if not llm.reset_prefix_cache():
        raise BrokenEngineError("vLLM kept its prefix cache: a request is still running")
    llm.llm_engine.reset_encoder_cache()
    llm.reset_mm_cache()


def stop(llm: LLM) -> None:
    """End the engine's processes, or free what it holds in this one."""
    llm.llm_engine.engine_core.shutdown()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_type() -> str:
    """`cpu` or `cuda`: what this vLLM runs on; empty: nothing that is here."""
    return current_platform.device_type


def argument_names() -> set[str]:
    """The engine arguments that vLLM knows."""
    from vllm.engine.arg_utils import EngineArgs

    return {field.name for field in fields(EngineArgs) if not field.name.startswith("_")}


def serves(architecture: str) -> bool:
    """Whether vLLM has a model of this class, or can run that of transformers."""
    from vllm import ModelRegistry

    if architecture in ModelRegistry.get_supported_archs():
        return True
    import transformers

    model = getattr(transformers, architecture, None)
    return isinstance(model, type) and bool(
        issubclass(model, transformers.PreTrainedModel) and model.is_backend_compatible()
    )


def _reports(llm: LLM) -> list[Report]:
    return [Report(**found) for found in llm.collective_rpc("evomerge_report")]
