"""Parity with mergekit 0.1.5: the same YAML file, float32, tensor by tensor.

The oracle is mergekit itself, in a Python of its own: the one that the environment variable
EVOMERGE_ORACLE names, or `.venv-oracle/bin/python` in the repository. (mergekit 0.1.5 cannot read
a GPT-NeoX that a current transformers saved: it asks for buffers that are no longer stored.)

Followed to the rounding error: every method, with gradients, filters, slices, on dense, tied, odd,
one-element and mixture models. Where we do not follow, a test below says what each does and why.
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from search_spaces.dialect import load_recipe
from tests.merge.models import Family
from tests.merge.parity_recipes import METHODS, random_case

ROOT = Path(__file__).parents[2]
ORACLE = Path(os.environ.get("EVOMERGE_ORACLE", ROOT / ".venv-oracle" / "bin" / "python"))

pytestmark = pytest.mark.skipif(
    not ORACLE.is_file(),
    reason="mergekit is not there: 'make oracle', or set EVOMERGE_ORACLE to a Python that has it",
)

PER_METHOD = 8
"""Random recipes."""


@dataclass(frozen=True)
class Case:
    """A recipe, and the family of models whose names it has."""

    content: Mapping[str, Any]
    kind: str = "llama"
    dtype: torch.dtype = torch.float32
    noise: float = 0.01

    def family(self, family: Callable[..., Family]) -> Family:
        wide = {"hidden_size": 64, "intermediate_size": 256} if self.kind == "llama_wide" else {}
        kind = self.kind.removesuffix("_wide")
        return family(kind, self.dtype, noise=self.noise, experts=3, **wide)


def recipe(method: str, models: str, parameters: str = "", base: str | None = "base") -> Any:
    """A recipe whose models are written out."""
    lines = (
        f"merge_method: {method}",
        *([f"base_model: {base}"] if base else []),
        "dtype: float32",
        *([f"parameters: {{{parameters}}}"] if parameters else []),
        models,
    )
    return yaml.safe_load("\n".join(lines))


MODELS = """
models:
  - model: base
  - {model: a, parameters: {weight: 0.7, density: 0.3}}
  - {model: b, parameters: {weight: -0.4, density: 0.8}}
"""
POSITIVE = MODELS.replace("-0.4", "0.4")
ONE = "models: [{model: base}, {model: a}]"
TWO = "models: [{model: a}, {model: b}]"
LINEAR = """
models:
  - {model: a, parameters: {weight: [0.3, 0.9]}}
  - {model: b, parameters: {weight: 0.6}}
"""
FRANKENMERGE = """
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources:
      - model: b
        layer_range: [1, 3]
        parameters:
          scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: [0.0, 0.5]}, {value: 1.0}]
  - sources: [{model: a, layer_range: [2, 3]}]
"""
BREADCRUMBS = """
models:
  - {model: a, parameters: {weight: 0.7, density: 0.3, gamma: 0}}
  - {model: b, parameters: {weight: 0.4, density: 0.9, gamma: 0.3}}
"""
GIVEN: Mapping[str, Case] = {
    "linear_bf16": Case(recipe("linear", LINEAR, base=None), dtype=torch.bfloat16),
    "linear_one_gradient": Case(recipe("linear", LINEAR, "normalize: false", base=None), "gemma"),
    "task_arithmetic_fp16": Case(recipe("task_arithmetic", MODELS), dtype=torch.float16),
    "frankenmerge": Case(recipe("passthrough", FRANKENMERGE, base=None)),
    "frankenmerge_tied": Case(recipe("passthrough", FRANKENMERGE, base=None), "llama_tied"),
    "breadcrumbs_edges": Case(recipe("breadcrumbs", BREADCRUMBS)),
    "breadcrumbs_edges_small": Case(recipe("breadcrumbs_ties", BREADCRUMBS), "llama_thin"),
}
RANDOM: Mapping[str, Case] = {
    "random_linear": Case(recipe("dare_linear", MODELS), "llama_wide"),
    "random_plain": Case(recipe("dare_linear", MODELS, "rescale: false"), "llama_wide"),
    "random_ties": Case(recipe("dare_ties", MODELS), "llama_wide"),
    "random_della": Case(recipe("della", POSITIVE, "epsilon: 0.15"), "llama_wide"),
    "random_della_linear": Case(
        recipe("della_linear", MODELS, "epsilon: 0.19, rescale: false"), "llama_wide"
    ),
}
DIFFERENT: Mapping[str, Case] = {
    "ties_bf16": Case(recipe("ties", MODELS), dtype=torch.bfloat16),
    "sce_tiny": Case(recipe("sce", TWO), noise=1e-4),
    "nearswap_tiny": Case(recipe("nearswap", ONE, "t: 0.0000005"), noise=1e-6),
    "arcee_small": Case(recipe("arcee_fusion", ONE), noise=1e-3),
    "nuslerp_stacks": Case(
        recipe("nuslerp", LINEAR, "nuslerp_flatten: false, nuslerp_row_wise: true", base=None),
        "mixtral_fused",
    ),
    "mixture_linear": Case(recipe("linear", LINEAR, base=None), "mixtral"),
    "mixture_ties": Case(recipe("ties", MODELS), "mixtral"),
    "refused_della": Case(recipe("della", POSITIVE, "density: 0.5"), "llama_thin"),
    "refused_depth": Case(recipe("passthrough", FRANKENMERGE, base=None), "qwen2"),
}
DRAWN: Mapping[str, Case] = {
    f"{method}_{number}": Case(content, kind, noise=METHODS[method].noise)
    for method in METHODS
    for number in range(PER_METHOD)
    for kind, content in [random_case(method, number)]
}
EQUAL = GIVEN | DRAWN

TOLERANCES: Mapping[str, float] = {
    # Iterated in float32 there, on coefficients in float64 here.
    "karcher": 2e-6,
    # Angles in float32 there; of nearly opposite rows their error is magnified.
    "nuslerp": 2e-6,
    # Cosines in float32 there; near 1 + (N - 1) cos = 0 their error is magnified.
    "model_stock": 1e-5,
}
"""Absolute, per method, where it is not float32's rounding error."""


def with_paths(content: Any, paths: Mapping[str, str]) -> Any:
    """`content` with every model's name replaced by its path."""
    if isinstance(content, dict):
        return {
            key: paths[value] if key in ("model", "base_model") else with_paths(value, paths)
            for key, value in content.items()
        }
    return [with_paths(item, paths) for item in content] if isinstance(content, list) else content


Merged = Callable[[str], tuple[Family, MergedWeights, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family: Callable[..., Family]) -> Path:
    """Each case as a YAML file, and what mergekit made of it in the folder of its name."""
    folder = tmp_path_factory.mktemp("parity")
    for name, case in (EQUAL | RANDOM | DIFFERENT).items():
        paths = {key: str(path) for key, path in case.family(family).folders.items()}
        text = yaml.safe_dump(with_paths(dict(case.content), paths), sort_keys=False)
        (folder / f"{name}.yaml").write_text(text)
    command = [str(ORACLE), str(Path(__file__).parent / "oracle.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def merged(folder: Path, family: Callable[..., Family]) -> Merged:
    """`merged(case)`: (its sources, what we make of the case, what mergekit made of it)."""

    def get(name: str) -> tuple[Family, MergedWeights, dict[str, Tensor]]:
        found = (EQUAL | RANDOM | DIFFERENT)[name].family(family)
        made = load_recipe(folder / f"{name}.yaml")
        weights = MergedWeights(open_sources({str(p): p for p in found.folders.values()}))
        weights.prepare(made)
        theirs = folder / name / "model.safetensors"
        return found, weights, load_file(theirs) if theirs.is_file() else {}

    return get


def stored(family: Family, name: str) -> dict[str, Tensor]:
    """A source's tensors."""
    return load_file(family.folders[name] / "model.safetensors")


def check_equal(ours: Tensor, theirs: Tensor, name: str, method: str = "") -> None:
    assert ours.dtype == theirs.dtype == torch.float32
    atol = TOLERANCES.get(method, 2e-7)
    message = partial("{}: {}".format, name)
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=atol, msg=message)


@pytest.mark.parametrize("case", EQUAL)
def test_equals_mergekit(merged: Merged, case: str):
    _, weights, theirs = merged(case)
    names, content = set(weights.names()), EQUAL[case].content
    # A tied head, which mergekit may write a second time.
    assert names <= set(theirs) <= names | {"lm_head.weight"}
    by_column = content.get("parameters", {}).get("nuslerp_row_wise", False)
    for name, expected in theirs.items():
        if not (by_column and expected.dim() == 3):  # see test_columns_of_a_stack
            check_equal(weights.tensor(name), expected, name, content["merge_method"])


@pytest.mark.parametrize("case", RANDOM)
def test_equals_mergekit_in_distribution(merged: Merged, case: str):
    """Other random numbers, the same law: shares, means and spreads of many elements agree."""
    family, weights, theirs = merged(case)
    base = stored(family, "base")
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


# --- where we do not follow mergekit --------------------------------------------------------------


def test_elements_that_tie_with_the_threshold_stay(merged: Merged):
    """Of equal magnitudes, common in 16-bit checkpoints, mergekit keeps as many as a sort says.

    We keep all of them, so that the result does not depend on the order of a tensor's elements.
    """
    family, weights, theirs = merged("ties_bf16")
    base = stored(family, "base")
    differing = 0
    for name in weights.names():
        tied = torch.zeros(base[name].shape, dtype=torch.bool)
        for source, density in (("a", 0.3), ("b", 0.8)):
            tau = (stored(family, source)[name].float() - base[name].float()).abs()
            tied |= (
                tau == tau.flatten().sort(descending=True).values[int(density * tau.numel()) - 1]
            )
        ours = weights.tensor(name)
        check_equal(ours[~tied], theirs[name][~tied], name)
        differing += int((ours != theirs[name])[tied].sum())
    assert differing > 10


def test_sce_weighs_small_deltas_too(merged: Merged):
    """Mean squares that sum to less than 1e-6 count as equal there: all of a usual fine-tune's.

    We weigh them as Wan et al. 2024 do, whatever their size.
    """
    family, weights, theirs = merged("sce_tiny")
    base, a, b = (stored(family, name) for name in ("base", "a", "b"))
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.2.self_attn.k_proj.weight"):
        taus = torch.stack([a[name] - base[name], b[name] - base[name]])
        energies = taus.double().square().mean((1, 2))
        agree = taus * torch.where(taus.sum(0) >= 0, 1, -1) > 0
        for found, shares in (
            (weights.tensor(name), energies / energies.sum()),
            (theirs[name], torch.full((2,), 0.5)),
        ):
            kept = shares.view(2, 1, 1) * agree
            tau = (kept * taus).sum(0) / kept.sum(0).clamp(min=1e-9)
            torch.testing.assert_close(found, (base[name] + tau).float(), rtol=2e-6, atol=2e-8)
    assert not torch.equal(weights.tensor(name), theirs[name])


def test_nearswap_moves_small_deltas_whole(merged: Merged):
    """Differences below 1e-6 are divided by 1e-6 there, so that they go only part of the way.

    The rule is: to the other model, but at most t far.
    """
    family, weights, theirs = merged("nearswap_tiny")
    name, t = "model.layers.0.mlp.up_proj.weight", 5e-7
    base, a = (stored(family, source)[name] for source in ("base", "a"))
    tau = a - base
    assert torch.equal(weights.tensor(name), base + tau.clamp(-t, t))
    small = tau.abs() < t
    torch.testing.assert_close((theirs[name] - base)[small], 0.5 * tau[small], rtol=0.1, atol=1e-8)


def test_arcee_fusion_sees_small_divergences(merged: Merged):
    """In float32 the divergences of a fine-tune's rows are rounding errors, and so is its choice.

    We compute them in float64. (Above 10^6 elements mergekit also takes quartiles of a random
    sample, ours are exact.)
    """
    family, weights, theirs = merged("arcee_small")
    name = "model.layers.0.mlp.up_proj.weight"
    base, a = (stored(family, source)[name] for source in ("base", "a"))
    p, q = (part.double().softmax(-1) + 1e-8 for part in (a, base))
    importance = (a - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    low, middle, high = (importance.flatten().sort().values[1535 * i // 4] for i in (1, 2, 3))
    chosen = importance >= middle + 1.5 * (high - low)
    assert torch.equal(weights.tensor(name), torch.where(chosen, base + (a - base), base))
    assert int(((theirs[name] != base) != chosen).sum()) > 10


def test_columns_of_a_stack(merged: Merged):
    """nuslerp_row_wise goes along the first axis there: across the experts of a fused mixture.

    Ours goes along the columns of each expert's matrix, as if it were stored alone.
    """
    family, weights, theirs = merged("nuslerp_stacks")
    name = "model.layers.1.mlp.experts.down_proj"
    a, b = (stored(family, source)[name].double() for source in ("a", "b"))
    for found, axis in ((weights.tensor(name), 1), (theirs[name], 0)):
        angle = torch.nn.functional.cosine_similarity(a, b, axis).acos().unsqueeze(axis)
        t = 0.6 / (0.6 + 0.6)  # layer 1 of 3 is half way from 0.3 to 0.9
        expected = ((1 - t) * angle).sin() * a + (t * angle).sin() * b
        torch.testing.assert_close(found, (expected / angle.sin()).float(), rtol=1e-5, atol=1e-5)


def fused(tensor: Callable[[str], Tensor], layer: int) -> dict[str, Tensor]:
    """A layer's experts as mergekit names and stacks them."""

    def stack(part: str) -> Tensor:
        names = [f"model.layers.{layer}.block_sparse_moe.experts.{i}.{part}" for i in range(3)]
        return torch.stack([tensor(f"{name}.weight") for name in names])

    prefix = f"model.layers.{layer}.mlp.experts"
    return {
        f"{prefix}.gate_up_proj": torch.cat([stack("w1"), stack("w3")], 1),
        f"{prefix}.down_proj": stack("w2"),
    }


def test_experts_are_merged_one_by_one(merged: Merged):
    """mergekit fuses a layer's experts, whatever a checkpoint stores, and trims them as one tensor.

    We merge the tensors that are stored. What needs no thresholds is the same; ties trims each
    expert's matrices by themselves, as it does any other matrix.
    """
    _, weights, theirs = merged("mixture_linear")
    for layer in range(3):
        for name, tensor in fused(weights.tensor, layer).items():
            check_equal(tensor, theirs[name], name)
    family, weights, theirs = merged("mixture_ties")
    base = fused(stored(family, "base").__getitem__, 0)
    for name, tensor in fused(weights.tensor, 0).items():
        moved = [(part != base[name]).double().mean((1, 2)) for part in (tensor, theirs[name])]
        assert not torch.equal(tensor, theirs[name])
        assert moved[0].std() < 0.01, "each expert keeps its share"
        assert moved[0].mean().item() == pytest.approx(moved[1].mean().item(), abs=0.02)
    attention = "model.layers.0.self_attn.q_proj.weight"
    check_equal(weights.tensor(attention), theirs[attention], attention)


@pytest.mark.parametrize(
    ("case", "reason"), [("refused_della", "p_in"), ("refused_depth", "layer_types")]
)
def test_merges_what_mergekit_cannot(folder: Path, merged: Merged, case: str, reason: str):
    """della on rows of one element divides 0 by 0 there; a changed depth leaves Qwen's list of
    layer types behind.
    """
    assert reason in (folder / case / "error.txt").read_text()
    _, weights, _ = merged(case)
    for name, tensor in weights.items():
        assert bool(tensor.isfinite().all()), name
