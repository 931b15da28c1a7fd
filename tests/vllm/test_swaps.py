"""Candidates merged into a running vLLM answer what their exports answer in transformers.

Each engine is a process of its own (tests/vllm/prove.py): hundreds of swaps in random order, bad
candidates in between, the prefix cache on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SWAPS = 210
MOST = 1e-4
"""Difference of log probabilities, over every prompt, position and token."""

CASES = [
    ("llama", 1),
    ("llama", 2),
    ("llama_tied", 1),
    ("qwen2_tied", 1),
    ("qwen2_tied", 2),
    ("gemma", 1),
    ("phi3", 1),
    ("gpt_neox", 1),
    ("mixtral", 1),
]
Prove = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`family(kind)`: models, and what their merges answer; each is written once."""

    @cache
    def get(kind: str) -> Path:
        root = tmp_path_factory.mktemp(kind)
        _run("prove", "expect", str(root), kind)
        return root

    return get


@pytest.fixture(scope="module")
def prove(family: Callable[[str], Path]) -> Prove:
    """`prove(kind, ranks, swaps, seed)`: what an engine did; each is run once."""

    @cache
    def get(kind: str, ranks: int, swaps: int = SWAPS, seed: int = 1) -> dict[str, Any]:
        arguments = json.dumps({"ranks": ranks, "swaps": swaps, "seed": seed})
        return json.loads(_run("prove", "serve", str(family(kind)), arguments))

    return get


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"tests.vllm.{script}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.parametrize(("kind", "ranks"), CASES)
def test_candidates_answer_as_their_exports(prove: Prove, kind: str, ranks: int):
    found = prove(kind, ranks)
    assert found["swaps"] >= 200
    assert len(found["errors"]) == 16, "eight recipes, as a search merges them and as exported"
    assert max(found["errors"].values()) <= MOST, found["errors"]
    assert found["cached"] > 0, "no prefix was read from the cache, so a stale one would not show"


@pytest.mark.parametrize(("kind", "ranks"), [("llama", 1), ("llama", 2), ("llama_tied", 1)])
def test_replies_are_those_of_the_embedded_engine(prove: Prove, kind: str, ranks: int):
    assert prove(kind, ranks)["differing_replies"] == []


@pytest.mark.parametrize(("kind", "ranks"), CASES)
def test_a_candidate_always_scores_the_same(prove: Prove, kind: str, ranks: int):
    """To the bit, whatever was resident before, a candidate that failed half way included."""
    digests = prove(kind, ranks)["digests"]
    assert {name: len(different) for name, different in digests.items()} == dict.fromkeys(
        digests, 1
    )


def test_another_process_scores_the_same(prove: Prove):
    here, there = prove("llama", 1)["digests"], prove("llama", 1, 16, 2)["digests"]
    assert here == there


@pytest.mark.parametrize(("kind", "ranks"), CASES)
def test_bad_candidates_fail_as_they_are(prove: Prove, kind: str, ranks: int):
    """As the same exceptions, with their attributes, across vLLM's processes; nothing answers then."""
    fused, norm, last = {
        "phi3": ("self_attn.qkv_proj.weight", "weight", "model.norm.weight"),
        "qwen2_tied": ("self_attn.k_proj.bias", "weight", "model.norm.weight"),
        "gpt_neox": ("attention.query_key_value.bias", "bias", "gpt_neox.final_layer_norm.bias"),
    }.get(kind, ("self_attn.k_proj.weight", "weight", "model.norm.weight"))
    stem = "gpt_neox" if kind == "gpt_neox" else "model"
    assert prove(kind, ranks)["failures"] == {
        "unknown source": ["InputError: source 'z': it is not open"],
        "overflow in a fused group": [f"MergeError: {stem}.layers.1.{fused}: finite=False"],
        "overflow in a norm": [f"MergeError: {stem}.layers.2.input_layernorm.{norm}: finite=False"],
        "overflow in the last norm": [f"MergeError: {last}: finite=False"],
    }


def test_loads_that_break_inside_vllm(family: Callable[[str], Path]):
    """The next candidate is whole, to the bit, and in the storage that CUDA graphs would know."""
    ended = json.loads(_run("breaks", str(family("llama_tied"))))
    found = ended["found"]
    assert all(kept for _, kept in found.values())
    assert ended["error"] <= MOST
    assert ended["digests"] == 1, "an engine that is started after another in one process included"
    assert ended["threads"], "vLLM disables torch.set_num_threads; closing gives it back"
    says = {how: outcome for how, (outcome, _) in found.items()}
    assert says["unknown name"].startswith("ValueError: There is no module or parameter named")
    assert says["part of a fused group"].startswith(
        "RuntimeError: the checkpoint's tensors leave 1"
    )
    assert "layers.1.self_attn.qkv_proj" in says["part of a fused group"]
    assert says["no attention"].startswith("RuntimeError: the checkpoint's tensors leave 2 weights")
    assert says["Ctrl-C"] == "KeyboardInterrupt: "
    assert says["out of memory"] == "OutOfMemoryError: of the GPU"


@pytest.mark.parametrize("kind", ["llama", "qwen2_tied"])
def test_ranks_merge_their_shards(prove: Prove, kind: str):
    """Norms are every rank's; all else is merged once."""
    alone, (first, second) = prove(kind, 1)["elements"], prove(kind, 2)["elements"]
    (whole,) = alone
    for part in (first, second):
        assert 0.48 * whole < part < 0.52 * whole
    assert whole <= first + second < 1.02 * whole


@pytest.mark.parametrize(("kind", "ranks"), CASES)
def test_engines_leave_nothing_behind(prove: Prove, kind: str, ranks: int):
    """No process after `close`, no memory that grows, and no random generator of ours reseeded."""
    found = prove(kind, ranks)
    during, after = found["children"]
    assert during == (0 if ranks == 1 else 1 + ranks), "in process with one rank"
    assert after == 0
    early, late = found["rss"]
    assert late - early < 40, f"MB grown in {SWAPS * 3 // 4} swaps"
    assert found["undisturbed"]
