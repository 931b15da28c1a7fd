"""Input scales as plain weights: against models whose hidden states are multiplied, for every
architecture; where it is exact, where epsilon shows, what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merge.folding import Fold, folds
from evomerge.merge.sources import Sources, open_sources
from search_spaces import validation
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.stacking import Hop
from search_spaces.validation import GREATEST_SCALE, LEAST_SCALE
from tests.data_flow.families import LAYERS, save_models
from tests.data_flow.running import random_path
from tests.merge.prove_folding import errors
from tests.merge.scaled_stacks import (
    ALL,
    EXPERTS,
    distance,
    divergence,
    fold_in_place,
    log_probabilities,
    multiplied,
    recipe_of,
    stock_model,
)

NO_EPSILON = dict.fromkeys(
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"), 1e-30
)
"""Where norms add nothing to the mean square, folding is exact."""

FOLDED = [name for name in ALL if name != "olmo"]
EXACT = ["stablelm", "stablelm_parallel", "gpt_neox", "gpt_neox_serial", "phi", "starcoder2"]
EXACT += ["falcon", "falcon_new", "nemotron"]
"""Norms that compute in float64 when the model does; RMSNorms go through float32."""

ONE_PER_RULE = ["llama_tied", "gemma", "gemma3", "glm4", "olmo2", "cohere", "nemotron", "qwen2_moe"]
ROUNDING = {torch.float32: 5e-5, torch.float64: 1e-5}
"""Between log probabilities: float32 arithmetic in up to 9 layers; of the norms alone."""

SourcesOf = Callable[..., Sources]


@pytest.fixture(scope="module")
def sources_of(tmp_path_factory) -> SourcesOf:
    """`sources_of(name, **changes of the configuration)`: models `a` and `b`, made once."""
    made: dict[str, Sources] = {}

    def get(name: str, **changes) -> Sources:
        key = f"{name} {changes}"
        if key not in made:
            folder = tmp_path_factory.mktemp(name)
            made[key] = open_sources(save_models(folder, ALL[name], **changes))
        return made[key]

    return get


def scaled_path(seed: int) -> list[Hop]:
    rng = np.random.default_rng(seed)
    return random_path(rng, int(rng.integers(3, 10)), scales=True)


def expected_of(path: list[Hop], sources: Sources, folder: Path, dtype=torch.float64):
    """The true scaled model's log probabilities, and the model without scales."""
    recipe = recipe_of(path, sources, "float32", scaled=False)
    model = stock_model(recipe, sources, folder / "plain", dtype)
    with multiplied(model, path):
        return log_probabilities(model), model


@pytest.mark.parametrize("name", FOLDED)
def test_the_folded_stock_model_is_the_scaled_one(name: str, sources_of: SourcesOf, tmp_path: Path):
    sources = sources_of(name, **NO_EPSILON)
    path = scaled_path(sum(map(ord, name)))
    expected, model = expected_of(path, sources, tmp_path)
    assert distance(log_probabilities(model), expected) > 0.5  # the scales do something
    recipe = recipe_of(path, sources, "float32")
    folded = stock_model(recipe, sources, tmp_path / "folded", torch.float32)
    assert distance(log_probabilities(folded), expected) < ROUNDING[torch.float32]
    if name not in EXPERTS:
        fold_in_place(model, recipe, sources)
        bound = 1e-11 if name in EXACT else ROUNDING[torch.float64]
        assert distance(log_probabilities(model), expected) < bound


@pytest.mark.parametrize("name", ONE_PER_RULE)
def test_what_folding_costs_beside_rounding(name: str, sources_of: SourcesOf, tmp_path: Path):
    """With the epsilon that models have; and in bfloat16, where the hooks' model is no better."""
    found = errors(scaled_path(7), sources_of(name), tmp_path, name not in EXPERTS)
    assert found["moved"] > 0.5
    assert found["float32"] < 1e-3
    assert found["bfloat16"] < 2 * found["hooked"] + 1e-4


def scales() -> st.SearchStrategy[float]:
    sizes = st.floats(np.log(LEAST_SCALE), np.log(GREATEST_SCALE)).map(np.exp)
    sizes = sizes.map(lambda size: float(np.clip(size, LEAST_SCALE, GREATEST_SCALE)))
    return st.tuples(st.sampled_from((-1.0, 1.0)), sizes).map(np.prod).map(float)


paths = st.lists(
    st.builds(Hop, st.sampled_from(("a", "b")), st.integers(0, LAYERS - 1), scales()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(path=paths)
def test_any_scales_within_the_bounds_fold_exactly(
    path: list[Hop], sources_of: SourcesOf, tmp_path_factory
):
    """The algebra, in float64: nothing is lost in a stack of layers with exact norms."""
    sources = sources_of("stablelm", **NO_EPSILON, tie_word_embeddings=True)
    expected, model = expected_of(path, sources, tmp_path_factory.mktemp("drawn"))
    fold_in_place(model, recipe_of(path, sources, "float32"), sources)
    assert distance(log_probabilities(model), expected) < 1e-8


def test_the_first_scale_is_exact(sources_of: SourcesOf, tmp_path: Path):
    """It stays in the stream: the first layer's norm sees what it would, epsilon and all."""
    path = [Hop("a", 0, -0.05), Hop("b", 1), Hop("a", 3)]
    sources = sources_of("phi3")
    expected, model = expected_of(path, sources, tmp_path)
    fold_in_place(model, recipe_of(path, sources, "float32"), sources)
    assert distance(log_probabilities(model), expected) == 0.0


def test_why_scales_have_a_least(
    sources_of: SourcesOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Epsilon counts in the scaled model where a scale makes its input tiny, not in the folded one."""
    sources = sources_of("llama")

    def off(scale: float) -> tuple[float, float]:
        path = [Hop("ab"[i % 2], i % LAYERS, scale if i == 3 else 1.0) for i in range(6)]
        expected, model = expected_of(path, sources, tmp_path / f"{scale}")
        fold_in_place(model, recipe_of(path, sources, "float32"), sources)
        found = log_probabilities(model)
        return distance(found, expected), divergence(found, expected)

    greatest, mean = off(LEAST_SCALE)
    assert greatest < 0.05
    assert mean < 1e-5
    assert off(0.1)[0] < greatest / 20
    with pytest.raises(InputError, match=r"input_scale = 0\.001: its magnitude lies in"):
        off(0.001)
    monkeypatch.setattr(validation, "LEAST_SCALE", 0.0)
    greatest, mean = off(1e-4)
    assert greatest > 0.5
    assert mean > 1e-2


def of(name: str, *scales: float, dtype: str = "float32") -> Callable[[SourcesOf], tuple]:
    """A path of layers a0, b0, a1, b1, ... with these scales, and its sources."""

    def made(sources_of: SourcesOf) -> tuple[Recipe, Sources]:
        sources = sources_of(name)
        path = [Hop("ab"[i % 2], i // 2, scale) for i, scale in enumerate(scales)]
        return recipe_of(path, sources, dtype), sources

    return made


LAYER = "model.layers.{}.{}.weight"
PRE = ("input_layernorm", "post_attention_layernorm")
ENDS = ("self_attn.o_proj", "mlp.down_proj")


def test_what_becomes_of_llama(sources_of: SourcesOf):
    assert folds(*of("llama", 0.5, 2.0, -0.25)(sources_of)) == {
        "model.embed_tokens.weight": Fold(0.5),
        **{LAYER.format(1, end): Fold(0.5) for end in ENDS},
        **{LAYER.format(2, end): Fold(-2.0) for end in ENDS},
        **{LAYER.format(2, norm): Fold(-1.0) for norm in PRE},
        "model.norm.weight": Fold(-1.0),
    }


def test_biases_go_with_their_matrices(sources_of: SourcesOf):
    biased = folds(*of("llama_biased", 1.0, 2.0)(sources_of))
    ends = {LAYER.format(1, end): Fold(0.5) for end in ENDS}
    assert biased == ends | {name.replace("weight", "bias"): fold for name, fold in ends.items()}
    norms = folds(*of("stablelm", 1.0, -1.0)(sources_of))
    assert not [name for name in norms if name.endswith("norm.bias")]


def test_a_head_that_is_the_embedding_stays_as_it_was(sources_of: SourcesOf):
    assert folds(*of("llama_tied", -2.0, 1.0)(sources_of)) == {
        "model.embed_tokens.weight": Fold(-2.0),
        "model.norm.weight": Fold(-0.5),
    }
    assert folds(*of("starcoder2", 4.0, -1.0)(sources_of))["model.norm.bias"] == Fold(0.25)
    assert folds(*of("starcoder2", 4.0, -1.0)(sources_of))["model.norm.weight"] == Fold(-0.25)


def test_gains_that_are_stored_without_their_one(sources_of: SourcesOf):
    found = folds(*of("gemma2", 2.0, -0.5)(sources_of))
    after = ("post_attention_layernorm", "post_feedforward_layernorm")
    before = ("input_layernorm", "pre_feedforward_layernorm")
    assert found == {
        "model.embed_tokens.weight": Fold(2.0),
        **{LAYER.format(1, norm): Fold(-2.0, -3.0) for norm in after},
        **{LAYER.format(1, norm): Fold(-1.0, -2.0) for norm in before},
        "model.norm.weight": Fold(-0.5, -1.5),  # tied
    }


def test_what_reads_the_stream_without_a_norm(sources_of: SourcesOf):
    found = folds(*of("olmo2", 1.0, -0.5)(sources_of))
    reading = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    after = ("post_attention_layernorm", "post_feedforward_layernorm")
    assert found == {
        **{LAYER.format(1, n): Fold(-0.5) for n in (*reading, "mlp.gate_proj", "mlp.up_proj")},
        **{LAYER.format(1, norm): Fold(-2.0) for norm in after},
        "model.norm.weight": Fold(-1.0),
    }


def test_scales_that_undo_each_other(sources_of: SourcesOf):
    found = folds(*of("llama", 1.0, -0.5, -2.0)(sources_of))
    assert {name.split(".")[2] for name in found} == {"1"}


def test_no_scales_are_no_work_and_ask_nothing(sources_of: SourcesOf):
    assert folds(*of("llama", 1.0, 1.0)(sources_of)) == {}
    assert folds(*of("olmo", 1.0, 1.0)(sources_of)) == {}


def test_norms_without_gains_are_refused(sources_of: SourcesOf):
    with pytest.raises(InputError, match="model of type 'olmo': its norms have no gains"):
        folds(*of("olmo", 1.0, 0.5)(sources_of))


@pytest.mark.parametrize(
    ("dtype", "depth", "remedy"),
    [("float16", 3, "or dtype bfloat16"), ("bfloat16", 7, "nearer to 1"), ("float32", 7, "nearer")],
)
@pytest.mark.parametrize("scale", [LEAST_SCALE, 1 / LEAST_SCALE])
def test_products_that_leave_the_types_range_are_refused(
    sources_of: SourcesOf, dtype: str, depth: int, remedy: str, scale: float, monkeypatch
):
    monkeypatch.setattr(validation, "GREATEST_SCALE", 100.0)
    inside = of("llama", 0.02, *[scale] * (depth - 1), dtype=dtype)
    assert folds(*inside(sources_of))
    outside = of("llama", 0.02, *[scale] * (depth - 1), 0.9 if scale < 1 else 1.1, dtype=dtype)
    with pytest.raises(InputError, match=f"layer {depth}: input scales with the product") as caught:
        folds(*outside(sources_of))
    assert remedy in caught.value.remedy
