"""Folds in candidates' weights: the merge, the fold, one rounding; whole, in parts and in pieces."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merge import folding
from evomerge.merge.elements import ElementPass, InputPass, Region
from evomerge.merge.pipeline import ReadyTensor
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import DTYPES, MergedWeights, MergeError
from search_spaces.errors import InputError
from search_spaces.recipe import Input, Recipe, Setting, Slice, parameters
from tests.merge.models import Family

MODELS = ("llama", "llama_tied", "gemma", "gpt_neox", "mixtral_fused")
SPANS = (((0, 2), -0.7), ((1, 3), 1.3), ((2, 3), 0.4))
"""Layers of three slices, and the scales of what flows into them."""

RULES = {
    "passthrough": {},
    "linear": {"weight": 0.6, "normalize": False},
    "task_arithmetic": {"weight": 0.6, "lambda": 0.9},
    "ties": {"weight": 0.6, "density": 0.5},
    "slerp": {"t": 0.3},
}


def stacked(
    method: str, *, scaled: bool = True, dtype: str = "float32", **numbers: object
) -> Recipe:
    """Slices of layers merged by `method`, each of one or two sources."""
    names = {"passthrough": ("a",), "slerp": ("base", "a")}.get(method, ("a", "b"))
    base = "base" if method in ("task_arithmetic", "ties", "slerp") else None
    slices = [
        Slice(tuple(Input(name, span) for name in names), (), scale if scaled else 1.0)
        for span, scale in SPANS
    ]
    chosen = {name: Setting.constant(value) for name, value in (RULES[method] | numbers).items()}
    return Recipe(method, tuple(slices), base, parameters(chosen), dtype)


def prepared(family: Family, recipe: Recipe) -> MergedWeights:
    weights = MergedWeights(open_sources(family.folders))
    weights.prepare(recipe)
    return weights


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_PIECE", 37)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("kind", MODELS)
def test_numbers_are_the_merge_times_the_fold_rounded_once(
    family: Callable[..., Family], kind: str, method: str, dtype: str
):
    made = family(kind, torch.bfloat16)
    plain = prepared(made, stacked(method, scaled=False))
    recipe = stacked(method, dtype=dtype)
    weights = prepared(made, recipe)
    folds = folding.folds(recipe, open_sources(made.folders))
    assert 0 < len(folds) < len(weights.names())
    for name in weights.names():
        merged, fold = plain.tensor(name), folds.get(name, folding.Fold(1.0))
        expected = (merged * fold.factor + fold.shift).to(DTYPES[dtype])
        assert torch.equal(weights.tensor(name), expected)
        assert name not in folds or not torch.equal(expected, merged.to(DTYPES[dtype]))


@pytest.mark.parametrize("method", ["passthrough", "task_arithmetic", "slerp"])
@pytest.mark.parametrize("kind", ["gemma", "mixtral_fused"])
def test_parts_and_pieces_are_of_the_whole(
    family: Callable[..., Family], kind: str, method: str, monkeypatch: pytest.MonkeyPatch
):
    made = family(kind, torch.bfloat16)
    recipe = stacked(method, dtype="bfloat16")
    whole = prepared(made, recipe)
    expected = {name: whole.tensor(name) for name in whole.names()}
    monkeypatch.setattr(folding, "_PIECE", 37)
    weights = prepared(made, recipe)
    for name, tensor in expected.items():
        assert torch.equal(weights.tensor(name), tensor)
        boxes = [(slice(1, 7),), (slice(None), slice(3, 20)), (slice(2, 9, 3),)]
        for box in boxes if tensor.dim() > 1 else boxes[:1]:
            assert torch.equal(weights.tensor(name, box), tensor[box])
            out = torch.zeros(tensor[box].shape)  # another dtype than the storage's
            weights.write(name, out, box)
            assert torch.equal(out, tensor[box].float())


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_pass_that_scales_keeps_its_scale(scale: float):
    source = torch.randn(50, generator=torch.Generator().manual_seed(1))
    ready = ReadyTensor(ElementPass("none", (InputPass(),), scale=scale), None, [source])
    out = torch.empty(50)
    assert folding.write_folded(ready, folding.Fold(0.3), out, Region.whole(50))
    assert torch.equal(out, source * scale * 0.3)


def test_a_tied_head_asked_for_by_its_name_is_the_folded_embedding(family: Callable[..., Family]):
    weights = prepared(family("llama_tied"), stacked("linear"))
    embedding = weights.tensor("model.embed_tokens.weight")
    assert torch.equal(weights.tensor("lm_head.weight"), embedding)


def test_the_next_candidate_has_no_folds_of_the_last(family: Callable[..., Family]):
    made = family("llama")
    weights = prepared(made, stacked("linear"))
    weights.prepare(stacked("linear", scaled=False))
    plain = prepared(made, stacked("linear", scaled=False))
    for name in plain.names():
        assert torch.equal(weights.tensor(name), plain.tensor(name))


DOWN = "model.layers.{}.mlp.down_proj.weight"


def with_first_element(family: Family, layer: int, value: float) -> Family:
    for folder in family.folders.values():
        tensors = load_file(folder / "model.safetensors")
        tensors[DOWN.format(layer)][0, 0] = value
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return family


def two_slices(method: str, scale: float) -> Recipe:
    """Layer 0 as it is, layers 1 and 2 scaled; the kernel folds where a rule has no base."""
    base = "base" if method == "task_arithmetic" else None
    slices = tuple(
        Slice((Input("a", span), Input("b", span)), (), factor)
        for span, factor in (((0, 1), 1.0), ((1, 3), scale))
    )
    half = parameters({"weight": Setting.constant(0.5)})
    return Recipe(method, slices, base, half, "float16")


METHODS = pytest.mark.parametrize("method", ["linear", "task_arithmetic"])


@METHODS
def test_what_overflows_only_when_folded_is_found(llama_copy: Family, method: str):
    family = with_first_element(llama_copy, 2, 2000.0)
    weights = prepared(family, two_slices(method, 0.02))
    assert bool(weights.tensor(DOWN.format(0)).isfinite().all())
    with pytest.raises(MergeError, match=r"layers\.2\.mlp\.down_proj.* infinity in float16"):
        weights.tensor(DOWN.format(2))
    with pytest.raises(MergeError):
        weights.tensor(DOWN.format(2), (slice(0, 4),))
    assert bool(weights.tensor(DOWN.format(2), (slice(4, 9),)).isfinite().all())


@METHODS
def test_what_overflows_only_before_the_fold_is_no_error(llama_copy: Family, method: str):
    family = with_first_element(llama_copy, 2, 100_000.0)
    with pytest.raises(MergeError):
        prepared(family, two_slices(method, 1.0)).tensor(DOWN.format(2))
    weights = prepared(family, two_slices(method, 4.0))
    assert weights.tensor(DOWN.format(2))[0, 0] == 25_000


@METHODS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.usefixtures("small_pieces")
def test_what_is_broken_in_a_source_shows(llama_copy: Family, value: float, method: str):
    family = with_first_element(llama_copy, 2, value)
    with pytest.raises(MergeError, match="NaN or infinity"):
        prepared(family, two_slices(method, 0.5)).tensor(DOWN.format(2))


def test_a_tensor_that_the_architecture_does_not_have_is_refused(llama_copy: Family):
    for folder in llama_copy.folders.values():
        tensors = load_file(folder / "model.safetensors")
        tensors |= {f"model.layers.{i}.layer_scalar": torch.ones(1) for i in range(3)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tensor model\.layers\.\d\.layer_scalar: what it does"):
        prepared(llama_copy, stacked("linear"))
    prepared(llama_copy, stacked("linear", scaled=False))


def test_an_unknown_architecture_merges_without_scales_only(llama_copy: Family):
    for folder in llama_copy.folders.values():
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"llama"', '"mine"'))
    with pytest.raises(InputError, match="model_type 'mine'"):
        prepared(llama_copy, stacked("linear"))
    prepared(llama_copy, stacked("linear", scaled=False))
