"""The serving engine: one vLLM, into whose running model candidates are merged in place."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fitness.engine import RemoteProvider, ShapeError
from fitness.engines.encoding import Encoder
from fitness.engines.lengths import PromptLengths
from fitness.engines.resident import DTYPES, build_tokenizer, end_tokens
from fitness.engines.vllm import requirements
from fitness.engines.vllm.failures import BrokenEngineError, from_data
from fitness.engines.vllm.memory import utilisation
from fitness.errors import FitnessError, one_line
from fitness.items import Reply, Request

if TYPE_CHECKING:
    from fitness.engines.vllm.internals import LLM, Report

_CPU_CACHE_BYTES = 2**30
"""Of keys and values. vLLM's own default on a CPU is nearly all memory, for each engine."""


class VllmEngine:
    """Holds one model resident in vLLM; implements `fitness.engine.Engine`.

    With one rank vLLM runs in this process; with more, in processes of its own.

    Args:
        config_folder: folder with `config.json` and the tokenizer; weights there are not read.
        provider: where candidates' weights come from, opened in vLLM's workers.
        dtype: `float32`, `bfloat16` or `float16`, of the resident model.
        device: `auto`, `cpu` or `cuda`: it must be what the installed vLLM runs on.
        max_model_len: most tokens of prompt and answer together; None: what the model and the
            cache have room for.
        tensor_parallel: ranks, each with a GPU of its own, that share the model.
        several_depths: candidates do not use all layers of the folder's model, in their order. They
            run by themselves then, without CUDA graphs; where `arguments` ask for these, the other
            layers become zeros and run too.
        arguments: vLLM's engine arguments, before the defaults here.
        sampling: vLLM's sampling parameters for generation.
        trust_remote_code: run model code found in the folder.

    Attributes:
        llm: the `vllm.LLM`.
        reports: how the last load went, per rank; also how many layers ran for nothing.

    Raises:
        FitnessError: no vLLM, or one that cannot hold this model this way; or what the provider
            raises on opening.
    """

    def __init__(  # noqa: PLR0913 (the run file's section)
        self,
        config_folder: Path,
        provider: RemoteProvider,
        *,
        dtype: str = "float32",
        device: str = "auto",
        max_model_len: int | None = None,
        tensor_parallel: int = 1,
        several_depths: bool = False,
        arguments: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        requirements.check_version()
        prepare_environment(tensor_parallel, compiles=compiles(arguments or {}))
        # Not before: vLLM reads its environment when it is imported.
        from fitness.engines.vllm import internals

        folder = Path(config_folder)
        platform = internals.device_type()
        requirements.check_device(device, platform)
        requirements.check_arguments(arguments or {}, internals.argument_names())
        chosen = engine_arguments(
            folder,
            platform,
            dtype=dtype,
            max_model_len=max_model_len,
            tensor_parallel=tensor_parallel,
            trust_remote_code=trust_remote_code,
            several_depths=several_depths,
        )
        if platform == "cuda":
            chosen |= memory_argument(provider, dtype, tensor_parallel)
        chosen |= arguments or {}
        info = internals.OpenInfo(
            provider.name,
            dict(provider.arguments),
            max(1, torch.get_num_threads() // tensor_parallel),
        )
        self._version: str | None = None
        # vLLM's CPU worker puts a function without effect in its place; `close` puts it back.
        self._threads = torch.set_num_threads, torch.get_num_threads()
        self._provider = provider
        self._sampling = dict(sampling or {})
        self.reports: list[Report] = []
        self.llm = _started(chosen)
        try:
            self._raise_failure(internals.open_provider(self.llm, info))
        except Exception:
            self.close()
            raise
        self.tokenizer = build_tokenizer(folder, trust_remote_code)
        model_config = self.llm.model_config
        self._encoder = Encoder(self.tokenizer, end_tokens(folder, model_config.hf_config))
        self.max_model_len = int(model_config.max_model_len)
        self._lengths = PromptLengths(self._encoder, self.max_model_len, one_more=True)

    def load(self, payload: object) -> None:
        """Make the resident model the candidate `payload`: every rank merges its shard in place.

        A load that fails leaves the model unusable until the next one succeeds, which rewrites
        everything.

        Raises:
            FitnessError: the provider's tensors have other shapes than the model's. What the
                provider raises in a worker is raised here, with the same type and attributes.
            RuntimeError: vLLM could not load the candidate.
        """
        from fitness.engines.vllm import internals

        self._version = None
        data, version = self._provider.encode(payload)
        self.reports = internals.swap(self.llm, data, version)
        try:
            self._raise_failure(self.reports)
        except ShapeError as error:
            raise FitnessError(
                f"tensor '{error.name}' of shape {error.found}",
                f"the resident model needs {error.needed}",
                "engine",
                "give sources of the base model's architecture and vocabulary",
            ) from error
        internals.reset_caches(self.llm)
        self._version = version

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order. Deterministic for the same weights and requests.

        Raises:
            FitnessError: a request too long for the model, options that are not implemented, or
                logits that are not finite.
            RuntimeError: no candidate is loaded, or an output is another's.
            BrokenEngineError: vLLM failed in the middle; the engine cannot be used again.
        """
        from fitness.engines.vllm import scoring

        if self._version is None:
            raise RuntimeError("answer() before a load() that succeeded: no candidate is resident")
        try:
            return scoring.answer(self.llm, self._encoder, requests, self._version, self._sampling)
        except Exception as error:
            # What was asked stays in vLLM's scheduler, beside a batch that was never finished.
            if self.llm.llm_engine.has_unfinished_requests():
                raise BrokenEngineError(f"vLLM broke off its work: {one_line(error)}") from error
            raise

    def check_lengths(self, requests: Sequence[Request]) -> None:
        """Refuse requests that do not fit the model; needs no weights.

        Raises:
            FitnessError: prompt and answer together are longer than `max_model_len`.
        """
        self._lengths.check(requests)

    def token_lengths(self, requests: Sequence[Request]) -> list[int]:
        """Tokens each request needs: its prompt and what is scored or may be generated after it."""
        return self._lengths.token_lengths(requests)

    def close(self) -> None:
        """End vLLM, its processes included; the engine cannot be used again."""
        from fitness.engines.vllm import internals

        self._version = None
        internals.stop(self.llm)
        del self.llm
        torch.set_num_threads, threads = self._threads
        torch.set_num_threads(threads)

    def _raise_failure(self, reports: Sequence[Report]) -> None:
        for rank, report in enumerate(reports):
            if report.failure is not None:
                raise from_data(report.failure, f"vLLM's worker {rank}")


def _started(arguments: Mapping[str, Any]) -> LLM:
    from fitness.engines.vllm import internals

    with _undisturbed():
        try:
            return internals.start(arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise FitnessError(
                f"model folder {arguments['model']}",
                f"vLLM cannot start with it: {one_line(error)}",
                "engine",
                "change the engine's settings, or use `engine.kind: transformers`",
            ) from error


def compiles(arguments: Mapping[str, Any]) -> bool:
    """Whether the user's engine arguments ask vLLM to compile the model."""
    return arguments.get("enforce_eager") is False


def prepare_environment(tensor_parallel: int, *, compiles: bool = False) -> None:
    """Set what vLLM reads from the environment. Before vllm is imported.

    What the user has set stands, but for what the engine relies on.

    Args:
        tensor_parallel: ranks.
        compiles: see there; else nothing is compiled on a CPU, whoever wants it.
    """
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # what is printed may be JSON
        # Several engines on one machine would all bind their threads to the same core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    if not torch.cuda.is_available() and not compiles:
        # It compiles parts of the sampler: 20 s at the first answer, and no faster afterwards.
        defaults["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if tensor_parallel == 1 else "1"
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and "evomerge" not in plugins.split(","):
        os.environ["VLLM_PLUGINS"] = ",".join(filter(None, [plugins, "evomerge"]))


def check_configuration(config_folder: Path, arguments: Mapping[str, Any], **section: Any) -> None:
    """Let vLLM make its configuration of the engine's arguments, without an engine.

    Args:
        config_folder: folder with `config.json` and the tokenizer.
        arguments: the user's.
        section: the keywords of `engine_arguments`.

    Raises:
        FitnessError: vLLM refuses them.
    """
    from fitness.engines.vllm import internals

    chosen = engine_arguments(config_folder, internals.device_type(), **section)
    with _undisturbed():
        try:
            internals.check_arguments({**chosen, **arguments})
        except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
            raise FitnessError(
                f"arguments = {dict(arguments)}",
                f"vLLM refuses the engine's settings: {one_line(error)}",
                "engine",
                "change them, or use `engine.kind: transformers`",
            ) from error


def engine_arguments(
    folder: Path,
    platform: str,
    *,
    dtype: str,
    max_model_len: int | None,
    tensor_parallel: int,
    trust_remote_code: bool,
    several_depths: bool = False,
) -> dict[str, Any]:
    """vLLM's engine arguments for the keys of the run file's `engine`, and defaults for others."""
    return {
        "model": str(folder),
        "dtype": dtype,
        "max_model_len": -1 if max_model_len is None else max_model_len,
        "trust_remote_code": trust_remote_code,
        **default_arguments(platform, tensor_parallel, several_depths),
    }


def default_arguments(
    platform: str, tensor_parallel: int, several_depths: bool = False
) -> dict[str, Any]:
    """vLLM's engine arguments where the user says nothing else.

    Args:
        platform: `cpu` or `cuda`.
        tensor_parallel: ranks.
        several_depths: see `VllmEngine`.
    """
    arguments: dict[str, Any] = {
        "tensor_parallel_size": tensor_parallel,
        "distributed_executor_backend": "uni" if tensor_parallel == 1 else "mp",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "seed": 0,
    }
    if several_depths:
        arguments["enforce_eager"] = True  # compiled code runs all layers, whatever a candidate has
    if platform == "cpu":
        arguments["enforce_eager"] = True  # compiling takes minutes and gains little
        if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            arguments["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    return arguments


def memory_argument(provider: RemoteProvider, dtype: str, ranks: int) -> dict[str, float]:
    """The share of the GPU for vLLM, so that the provider's sources find room beside it."""
    free, total = torch.cuda.mem_get_info()
    model = provider.parameters * DTYPES[dtype].itemsize // ranks
    return {"gpu_memory_utilization": utilisation(total, free, provider.source_bytes, model)}


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back the states of random generators: an engine that starts in this process seeds all."""
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
        if devices:
            torch.cuda.set_rng_state_all(devices)
