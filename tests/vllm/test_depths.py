"""One vLLM is every stack in turn, and answers what the stacks' exports answer in transformers.

Each engine is a process of its own (tests/vllm/depths.py), built once for the deepest stack: stacks of
other depths and orders, parents, merges and bad ones follow each other at random.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.conftest import ROOT

MOST = 1e-4
"""Difference of log probabilities, over every prompt, position and token."""
DEEPEST = 8

LEFT_OUT: dict[str, Any] = {}
IDENTITIES: dict[str, Any] = {"fixed": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, two ranks": ("llama", {"ranks": 2}),
    "llama, compiled": ("llama", {**IDENTITIES, "compiled": True}),
    "qwen3": ("qwen3", LEFT_OUT),
    "gemma3": ("gemma3", LEFT_OUT),
    "gemma3, identities": ("gemma3", IDENTITIES),
    "olmo2, identities": ("olmo2", IDENTITIES),
    "phi": ("phi", LEFT_OUT),
}
"""With layers left out, or with identities in their place; with layers of two kinds (Gemma 3); in code
of transformers (OLMo 2, Phi), with a bias of the output (Phi)."""
Serve = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """`serve(case)`: what an engine did; each is run once."""

    @cache
    def family(name: str) -> str:
        root = str(tmp_path_factory.mktemp(name))
        _run("expect", root, name)
        return root

    @cache
    def get(case: str) -> dict[str, Any]:
        name, options = CASES.get(case, (case, LEFT_OUT))
        return json.loads(_run("serve", family(name), name, json.dumps(options)))

    return get


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.vllm.depths", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_DISABLE_COMPILE_CACHE": "1"}
    environment.pop("TORCHDYNAMO_DISABLE", None)  # of a vLLM that has run in this process
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=550, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


@pytest.mark.parametrize("case", CASES)
def test_stacks_answer_as_their_exports(serve: Serve, case: str):
    """In every log probability, and in every token that they generate."""
    found = serve(case)
    assert len(found["errors"]) == 11
    assert max(found["errors"].values()) <= MOST, found["errors"]
    assert found["differing"] == []
    assert found["cached"] > 0, "no prefix was read from the cache, so a stale one would not show"


@pytest.mark.parametrize("case", CASES)
def test_a_stack_always_scores_the_same(serve: Serve, case: str):
    """To the bit, whatever was resident before, deeper or shallower or broken off half way."""
    digests = serve(case)["digests"]
    assert digests == dict.fromkeys(digests, 1)


@pytest.mark.parametrize("case", CASES)
def test_layers_that_run(serve: Serve, case: str):
    """A candidate's own, and identities only where the engine cannot leave layers out."""
    ran = serve(case)["ran"]
    assert {ran[name][0] for name in ran} == {1, 3, 4, 5, 6, 7, DEEPEST}
    slots = 2 * DEEPEST if "gemma3" in case else DEEPEST  # of each kind so many
    for layers, identities in ran.values():
        assert identities == (slots - layers if CASES[case][1].get("fixed") else 0)


@pytest.mark.parametrize("case", [case for case in CASES if "ranks" not in case])
def test_layers_that_are_not_used_are_not_merged(serve: Serve, case: str):
    assert serve(case)["merges_no_more"]


@pytest.mark.parametrize("case", CASES)
def test_bad_stacks_fail_as_they_are(serve: Serve, case: str):
    """Those that do not fit before a weight is touched; nothing answers then."""
    failures = serve(case)["failures"]
    (deep,), (top,) = failures["too deep"], failures["fails at the top"]
    assert deep == (
        "FitnessError: a candidate with 9 layers of kind 'layer_types=sliding_attention': the engine "
        "has 8 slots of that kind"
        if "gemma3" in case
        else "FitnessError: a candidate of 9 layers: the engine was built for 8"
    )
    assert top.startswith("MergeError: model.layers.3.")


def test_a_model_that_vllm_cannot_hold(serve: Serve):
    """vLLM asserts it, in the middle of building the model."""
    (refused,) = serve("qwen2_sliding").values()
    assert refused.startswith("vLLM cannot start with it: ")
    assert "Sliding window for some but all layers is not supported" in refused
