"""Stages on whole tensors against mergekit 0.1.5's own functions, tensor by tensor, float32.

Followed to the rounding error, edge cases included. Not followed, because mergekit's result is an
accident there: opposite vectors whose cosine float32 does not round to -1 (`ACCIDENTS`), della on a
row of one element (0 / 0) and the arrangement of ties, arcee_fusion's float32 divergences (noise
for small deltas) and random quartiles.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.merge.random_masks import random_bits
from evomerge.merge.whole.angles import COEFFICIENTS
from evomerge.merge.whole.combine import WHOLE_COMBINE
from evomerge.merge.whole.sparsify import WHOLE_SPARSIFY

ROOT = Path(__file__).parents[2]
ORACLE = Path(os.environ.get("EVOMERGE_ORACLE", ROOT / ".venv-oracle" / "bin" / "python"))

pytestmark = pytest.mark.skipif(
    not ORACLE.is_file(),
    reason="mergekit is not there: 'make oracle', or set EVOMERGE_ORACLE to a Python that has it",
)


@dataclass
class Case:
    method: str
    inputs: dict[str, Tensor]
    shared: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def experts(self) -> list[str]:
        return [name for name in self.inputs if name != "base"]


SHAPES: Mapping[str, tuple[int, ...]] = {
    "matrix": (12, 20),
    "vector": (37,),
    "element": (1,),
    "stack": (3, 8, 10),
    "row": (1, 9),
    "column": (9, 1),
}


def _family(seed: int, shape: tuple[int, ...], names: str, noise: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    deltas = {n: torch.randn(shape, generator=generator) * noise for n in names}
    return {"base": base} | {name: base + delta for name, delta in deltas.items()}


def _cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for i, (kind, shape) in enumerate(SHAPES.items()):
        family = _family(i, shape, "abc", 0.7)
        pair = {name: family[name] for name in ("base", "a")}
        models = {name: tensor for name, tensor in family.items() if name != "base"}
        ab = {"a": 0.7, "b": 0.5}
        two = {name: family[name] for name in ("base", "a", "b")}
        cases[f"slerp_{kind}"] = Case("slerp", pair, {"t": 0.3})
        for flatten, row_wise in ((True, False), (False, False), (False, True)):
            if kind == "stack" and row_wise:
                continue  # mergekit: across the stack
            switches = {"nuslerp_flatten": flatten, "nuslerp_row_wise": row_wise}
            name = f"nuslerp_{kind}_{flatten}_{row_wise}"
            cases[name] = Case("nuslerp", two, switches, ab)
            models_only = {n: two[n] for n in "ab"}
            cases[f"{name}_plain"] = Case("nuslerp", models_only, switches, ab)
        for normalize in (True, False):
            shared = {"normalize_weights": normalize, "eps": 1e-8}
            weights = {"a": 0.7, "b": 0.5, "c": 0.4}
            cases[f"multislerp_{kind}_{normalize}"] = Case("multislerp", family, shared, weights)
            cases[f"multislerp_{kind}_{normalize}_plain"] = Case(
                "multislerp", models, shared, weights
            )
        for most in (1, 10, 100):
            cases[f"karcher_{kind}_{most}"] = Case(
                "karcher", models, {"max_iter": most, "tol": 1e-5}
            )
        for filter_wise in (False, True):
            cases[f"model_stock_{kind}_{filter_wise}"] = Case(
                "model_stock", family, {"filter_wise": filter_wise}
            )
        cases[f"arcee_fusion_{kind}"] = Case("arcee_fusion", pair)
    return cases | _edges()


def _edges() -> dict[str, Case]:
    family = _family(99, (6, 10), "abcd", 0.7)
    base, a, b, zero = family["base"], family["a"], family["b"], torch.zeros(6, 10)
    near = base + 1e-3 * a
    flat = {"nuslerp_flatten": True, "nuslerp_row_wise": False}
    rows = {"nuslerp_flatten": False, "nuslerp_row_wise": False}
    multi = {"normalize_weights": True, "eps": 1e-8}
    karcher = {"max_iter": 10, "tol": 1e-5}
    even, half = {"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 0.25}
    cases = {
        f"slerp_{name}": Case("slerp", {"base": first, "a": second}, {"t": 0.3})
        for name, first, second in (
            ("near", base, near),
            ("equal", base, base),
            ("opposite", base, -base),
            ("zero_base", zero, a),
            ("zero_other", base, zero),
            ("zeros", zero, zero),
        )
    }
    for name, first, second in (
        ("near", a, a + 1e-3 * b),
        ("equal", a, a),
        ("opposite", a, -a),
        ("zero", a, zero),
    ):
        pair = {"a": first, "b": second}
        cases[f"nuslerp_{name}"] = Case("nuslerp", pair, flat, half)
        cases[f"nuslerp_rows_{name}"] = Case("nuslerp", pair, rows, half)
        cases[f"multislerp_{name}"] = Case("multislerp", pair, multi, half)
        cases[f"karcher_{name}"] = Case("karcher", pair, karcher)
        deltas = {"base": base, "a": base + first, "b": base + second}
        cases[f"model_stock_{name}"] = Case("model_stock", deltas, {"filter_wise": False})
        cases[f"model_stock_rows_{name}"] = Case("model_stock", deltas, {"filter_wise": True})
    cases["nuslerp_no_sum"] = Case("nuslerp", {"a": a, "b": b}, flat, {"a": 0.5, "b": -0.5})
    cases["multislerp_antipodal"] = Case("multislerp", {"a": a, "b": -a}, multi, even)
    cases["multislerp_antipodal_lengths"] = Case("multislerp", {"a": a, "b": -3 * a}, multi, even)
    four = {"a": a, "b": -a, "c": b, "d": -b}
    cases["multislerp_refused"] = Case("multislerp", four, multi, dict.fromkeys("abcd", 1.0))
    cases["multislerp_one"] = Case("multislerp", {"base": base, "a": a}, multi, {"a": 0.4})
    cases["karcher_one"] = Case("karcher", {"a": a}, karcher)
    cases["karcher_zeros"] = Case("karcher", {"a": zero, "b": zero}, karcher)
    cases["karcher_balanced"] = Case("karcher", {"a": a, "b": -a, "c": b}, karcher)
    small = {name: base + 1e-5 * (tensor - base) for name, tensor in family.items()}
    cases["model_stock_small"] = Case("model_stock", small, {"filter_wise": False})
    cases["model_stock_rows_small"] = Case("model_stock", small, {"filter_wise": True})
    simplex = {"base": base} | {
        name: base + direction for name, direction in zip("abc", _balanced(base.shape), strict=True)
    }
    cases["model_stock_singular"] = Case("model_stock", simplex, {"filter_wise": False})
    cases["arcee_fusion_same"] = Case("arcee_fusion", {"base": base, "a": base})
    return cases


def _balanced(shape: torch.Size) -> list[Tensor]:
    """Three directions of pairwise cosine -1/2, where Model Stock's divisor vanishes."""
    x, y = torch.zeros(shape), torch.zeros(shape)
    x[0, 0] = y[0, 1] = 1.0
    return [x, -0.5 * x + 0.75**0.5 * y, -0.5 * x - 0.75**0.5 * y]


CASES = _cases()
DELLA: Mapping[str, tuple[tuple[int, ...], float, float]] = {
    "della_matrix": ((40, 31), 0.4, 0.2),
    "della_vector": ((77,), 0.7, 0.1),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What mergekit makes of each case, and what it refuses."""
    folder = tmp_path_factory.mktemp("functions")
    asked: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, case in CASES.items():
        parameters = {key: value for key, value in case.shared.items()}
        if case.weights:
            parameters["weight"] = case.weights
        asked[name] = {"method": case.method, "parameters": parameters, "inputs": [*case.inputs]}
        tensors |= {f"{name}/{key}": tensor.clone() for key, tensor in case.inputs.items()}
    for name, (shape, density, epsilon) in DELLA.items():
        parameters = {"density": density, "epsilon": epsilon}
        asked[name] = {"method": "della_probabilities", "parameters": parameters, "inputs": ["a"]}
        tensors[f"{name}/a"] = _della_input(shape)
    save_file(tensors, folder / "inputs.safetensors")
    (folder / "cases.json").write_text(json.dumps(asked))
    command = [str(ORACLE), str(Path(__file__).parent / "oracle_functions.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    merged = load_file(folder / "merged.safetensors")
    return merged, json.loads((folder / "refused.json").read_text())


def _della_input(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def _gram(tensors: list[Tensor]):
    flat = torch.stack([tensor.double().reshape(-1) for tensor in tensors])
    return (flat @ flat.T).numpy()


def _ours(case: Case) -> Tensor:
    base = case.inputs.get("base")
    thetas = [case.inputs[name] for name in case.experts]
    taus = thetas if base is None else [theta - base for theta in thetas]
    weights = [case.weights.get(name, 1.0) for name in case.experts]
    none = [{} for _ in thetas]
    if case.method == "arcee_fusion":
        assert base is not None
        return base + WHOLE_SPARSIFY["importance"](taus, none, {}, [(0, 0)], base)[0]
    if case.method == "slerp":
        assert base is not None
        taus, base, weights = [base, *thetas], None, [1.0, 1.0]
    if case.shared.get("filter_wise") or case.shared.get("nuslerp_flatten") is False:
        merged = WHOLE_COMBINE[case.method](taus, weights, none, case.shared)
    else:
        coefficients = COEFFICIENTS[case.method](_gram(taus), weights, case.shared)
        parts = [c * tau for c, tau in zip(coefficients, taus, strict=True)]
        merged = reduce(torch.add, parts)
    return merged if base is None else base + merged


ACCIDENTS: Mapping[str, float] = {
    "karcher_opposite": 1.0,
    "nuslerp_rows_opposite": 1 / 3,
    "multislerp_antipodal_lengths": -1.0,
}
"""Opposite vectors -> the multiple of the first that we give; mergekit gives rounding errors over
rounding errors (karcher: a direction that no source has)."""


@pytest.mark.parametrize("name", ACCIDENTS)
def test_opposite_vectors_give_a_multiple(name: str):
    case = CASES[name]
    torch.testing.assert_close(_ours(case), ACCIDENTS[name] * case.inputs["a"])


@pytest.mark.parametrize("name", sorted(CASES.keys() - ACCIDENTS.keys()))
def test_equals_mergekit(oracle, name: str):
    merged, refused = oracle
    if name in refused:
        with pytest.raises(ValueError, match=r"change"):
            _ours(CASES[name])
        return
    torch.testing.assert_close(_ours(CASES[name]), merged[name], rtol=1e-5, atol=2e-6)


def test_refuses_what_mergekit_refuses(oracle):
    assert [*oracle[1]] == ["multislerp_refused"]


@pytest.mark.parametrize("name", DELLA)
def test_keeps_with_the_probabilities_of_mergekit(oracle, name: str):
    shape, density, epsilon = DELLA[name]
    tau, key = _della_input(shape), (12, 34)
    own = [{"density": density, "epsilon": epsilon}]
    (kept,) = WHOLE_SPARSIFY["della"]([tau], own, {}, [key], None)
    probabilities = oracle[0][name]
    u = random_bits(key, 0, tau.numel()).view_as(tau) * 2.0**-24
    near = (u - probabilities).abs() < 1e-6
    assert near.sum() < 5
    assert torch.equal((kept == tau)[~near], (u < probabilities)[~near])
