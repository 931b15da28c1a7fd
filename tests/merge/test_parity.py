"""Parity with mergekit 0.1.5: the same YAML file, float32, tensor by tensor.

The oracle is mergekit itself, in a Python of its own: the one that the environment variable
EVOMERGE_ORACLE names, or `.venv-oracle/bin/python` in the repository. (mergekit 0.1.5 cannot read
a GPT-NeoX that a current transformers saved: it asks for buffers that are no longer stored.)
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from search_spaces.dialect import load_recipe
from tests.merge.models import Family

ROOT = Path(__file__).parents[2]
ORACLE = Path(os.environ.get("EVOMERGE_ORACLE", ROOT / ".venv-oracle" / "bin" / "python"))

pytestmark = pytest.mark.skipif(
    not ORACLE.is_file(),
    reason="mergekit is not there: 'make oracle', or set EVOMERGE_ORACLE to a Python that has it",
)

MODELS = """
models:
  - model: {base}
  - model: {a}
    parameters: {{weight: 0.7, density: 0.3}}
  - model: {b}
    parameters: {{weight: -0.4, density: 0.8}}
"""

FILTERED = """
models:
  - model: {a}
    parameters:
      weight:
        - {{filter: self_attn, value: [0.2, 1.0]}}
        - {{filter: up_proj, value: 0.9}}
        - {{value: [0.1, 0.5, 0.3]}}
      density:
        - {{filter: mlp, value: [0.9, 0.2]}}
        - {{value: 0.6}}
  - model: {b}
    parameters: {{weight: [1, 0.4, -0.2, 0.3], density: 0.5}}
"""

SLICES = """
slices:
  - sources:
      - {{model: {base}, layer_range: [0, 2]}}
      - {{model: {a}, layer_range: [0, 2], parameters: {{weight: [0.3, 0.9], density: 0.5}}}}
  - sources:
      - {{model: {base}, layer_range: [1, 3]}}
      - {{model: {b}, layer_range: [1, 3], parameters: {{weight: 0.6, density: [0.2, 0.9]}}}}
    parameters: {{lambda: 0.5}}
"""


def delta(method: str, models: str, parameters: str = "") -> str:
    shared = f"parameters: {{{{{parameters}}}}}\n" if parameters else ""
    return f"merge_method: {method}\nbase_model: {{base}}\ndtype: float32\n{shared}{models}"


def slerp(t: str) -> str:
    return (
        "merge_method: slerp\nbase_model: {base}\ndtype: float32\n"
        f"models: [{{{{model: {{base}}}}}}, {{{{model: {{b}}}}}}]\nparameters:\n  t: {t}\n"
    )


def linear(parameters: str) -> str:
    return (
        f"merge_method: linear\ndtype: float32\nparameters: {{{{{parameters}}}}}\n"
        "models:\n"
        "  - {{model: {a}, parameters: {{weight: [0.3, 0.9]}}}}\n"
        "  - {{model: {b}, parameters: {{weight: 0.6}}}}\n"
        "  - {{model: {base}, parameters: {{weight: -0.2}}}}\n"
    )


DENSE = MODELS.replace("density: 0.3", "density: 1").replace("density: 0.8", "density: 1")
CASES: Mapping[str, tuple[str, str]] = {
    "linear": ("llama", linear("normalize: true")),
    "linear_plain": ("qwen2", linear("normalize: false")),
    "linear_tied": ("llama_tied", linear("normalize: true")),
    "task_arithmetic": ("llama", delta("task_arithmetic", MODELS, "lambda: 1.3")),
    "task_arithmetic_mean": ("qwen2", delta("task_arithmetic", FILTERED, "normalize: true")),
    "task_arithmetic_slices": ("llama_tied", delta("task_arithmetic", SLICES)),
    "task_arithmetic_bf16": ("llama_bf16", delta("task_arithmetic", MODELS)),
    "task_arithmetic_gemma": ("gemma", delta("task_arithmetic", MODELS)),
    "ties": ("llama", delta("ties", MODELS)),
    "ties_filters": ("qwen2", delta("ties", FILTERED, "lambda: [0.5, 1.5]")),
    "ties_sum": ("llama", delta("ties", FILTERED, "normalize: false")),
    "ties_l1": ("gemma", delta("ties", MODELS, "rescale: true, rescale_norm: l1")),
    "ties_slices": ("llama", delta("ties", SLICES)),
    "slerp": ("llama", slerp("0.3")),
    "slerp_filters": (
        "qwen2",
        slerp(
            "[{{filter: self_attn, value: [0, 1]}}, {{filter: mlp, value: 0.9}}, {{value: 0.5}}]"
        ),
    ),
    "slerp_gradient": ("gemma", slerp("[1, 0, 0.6]")),
    "dare_linear_dense": ("llama", delta("dare_linear", DENSE)),
    "dare_ties_dense": ("qwen2", delta("dare_ties", DENSE, "normalize: true")),
}
RANDOM: Mapping[str, tuple[str, str]] = {
    "random_linear": ("llama_wide", delta("dare_linear", MODELS)),
    "random_plain": ("llama_wide", delta("dare_linear", MODELS, "rescale: false")),
    "random_ties": ("llama_wide", delta("dare_ties", MODELS)),
}


def without_unknown_to_mergekit(text: str) -> str:
    """mergekit 0.1.5 always keeps the L1 norm and has no name for it."""
    return text.replace(", rescale_norm: l1", "")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, family: Callable[..., Family]):
    """`merged(case)`: (folder of sources, what we make of the case, what mergekit made of it)."""
    folder = tmp_path_factory.mktemp("parity")
    families = {
        "llama_bf16": family("llama", torch.bfloat16),
        "llama_wide": family("llama", hidden_size=64, intermediate_size=256),
    }
    sources: dict[str, Family] = {}
    for name, (kind, text) in (CASES | RANDOM).items():
        sources[name] = families.get(kind) or family(kind)
        paths = {key: str(path) for key, path in sources[name].folders.items()}
        (folder / f"{name}.yaml").write_text(without_unknown_to_mergekit(text.format(**paths)))
    command = [str(ORACLE), str(Path(__file__).parent / "oracle.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    def get(name: str) -> tuple[Family, MergedWeights, dict[str, torch.Tensor]]:
        paths = {str(path): path for path in sources[name].folders.values()}
        weights = MergedWeights(open_sources(paths))
        weights.prepare(load_recipe(folder / f"{name}.yaml"))
        return sources[name], weights, load_file(folder / name / "model.safetensors")

    return get


@pytest.mark.parametrize("case", CASES)
def test_equals_mergekit(merged, case: str):
    _, weights, theirs = merged(case)
    names = set(weights.names())
    assert names <= set(theirs) <= names | {"lm_head.weight"}
    for name, expected in theirs.items():
        ours = weights.tensor(name)
        assert ours.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(
            ours, expected, rtol=2e-6, atol=2e-7, msg=partial("{}: {}".format, name)
        )


@pytest.mark.parametrize("case", RANDOM)
def test_equals_mergekit_in_distribution(merged, case: str):
    """Other random numbers, the same law: means and spreads of many elements agree."""
    family, weights, theirs = merged(case)
    base = load_file(family.folders["base"] / "model.safetensors")
    names = [name for name in weights.names() if base[name].numel() >= 4096]
    assert len(names) > 10
    ours_moved, theirs_moved = [], []
    for name in names:
        ours, expected = weights.tensor(name) - base[name], theirs[name] - base[name]
        count = ours.numel()
        kept = [(part != 0).double().mean().item() for part in (ours, expected)]
        assert abs(kept[0] - kept[1]) < 5 * (2 * 0.25 / count) ** 0.5, name
        ours_moved.append(ours.abs().double().mean().item())
        theirs_moved.append(expected.abs().double().mean().item())
        for moment in (1, 2):
            a, b = ours.double() ** moment, expected.double() ** moment
            error = ((a.var() + b.var()) / count).sqrt().item()
            assert abs((a.mean() - b.mean()).item()) < 5 * error, (name, moment)
    assert sum(ours_moved) == pytest.approx(sum(theirs_moved), rel=0.01)
