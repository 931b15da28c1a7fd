"""What an engine gets: names, shapes, boxes, the stack of layers, refusals before any weight."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merge.prepared import Prepared
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights, MergeError
from fitness.engine import ShapeError
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.roles import role
from search_spaces.rules import RULES
from tests.merge.models import Family
from tests.merge.plans import recipe_of

UP = "model.layers.1.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
EXPERTS = "model.layers.1.mlp.experts.gate_up_proj"
HALF = {"weight": 0.5, "density": 0.5}
DIFFERENT_KINDS = ("llama_tied", "llama_thin", "qwen2", "gpt_neox", "mixtral_fused")
"""Tied, of one element, with biases, of other names, with stacks of matrices."""


def prepared(family: Family, recipe: Recipe) -> MergedWeights:
    weights = MergedWeights(open_sources(family.folders))
    weights.prepare(recipe)
    return weights


def task_arithmetic(**options) -> Recipe:
    return recipe_of("task_arithmetic", {"a": {"weight": 0.6}, "b": {"weight": 0.3}}, **options)


def every_rule() -> list[Recipe]:
    settings = {
        "a": {"weight": 0.6, "density": 0.5},
        "b": {"weight": 0.3, "density": 0.5},
    }
    return [recipe_of(name, settings) for name in RULES]


@pytest.mark.parametrize("kind", DIFFERENT_KINDS)
@pytest.mark.parametrize("recipe", every_rule(), ids=lambda recipe: recipe.method)
def test_every_rule_on_every_architecture(family: Callable[..., Family], kind: str, recipe: Recipe):
    made = family(kind, torch.bfloat16)
    weights = prepared(made, recipe)
    stored = load_file(made.folders["base"] / "model.safetensors")
    assert set(weights.names()) == set(stored)
    for name in weights.names():
        tensor = weights.tensor(name)
        assert tensor.dtype == weights.storage_dtype(name) == torch.bfloat16
        assert tensor.shape == stored[name].shape == weights.shape(name)
        assert bool(tensor.isfinite().all())


def test_names_are_in_checkpoint_order(family: Callable[..., Family]):
    names = prepared(family("llama"), task_arithmetic()).names()
    layers = [role(name).layer for name in names if role(name).layer is not None]
    assert layers == sorted(layers)
    assert names[0] == "model.embed_tokens.weight"
    assert set(names[-2:]) == {"model.norm.weight", "lm_head.weight"}


def test_task_arithmetic_is_its_formula(family: Callable[..., Family]):
    made = family("llama", torch.bfloat16)
    weights = prepared(made, task_arithmetic(dtype="float32"))
    base, a, b = (
        load_file(made.folders[name] / "model.safetensors") for name in ("base", "a", "b")
    )
    for name in weights.names():
        r = base[name].float()
        expected = r + 0.6 * (a[name].float() - r) + 0.3 * (b[name].float() - r)
        torch.testing.assert_close(weights.tensor(name), expected)
    # 16 bits: the same arithmetic, rounded once.
    half = prepared(made, task_arithmetic())
    for name in weights.names():
        assert torch.equal(half.tensor(name), weights.tensor(name).bfloat16())


@pytest.mark.parametrize("recipe", every_rule(), ids=lambda recipe: recipe.method)
def test_boxes_are_parts_of_the_whole(family: Callable[..., Family], recipe: Recipe):
    weights = prepared(family("llama"), recipe)
    whole = weights.tensor(UP)
    for box in (
        (slice(0, 24),),
        (slice(24, 48),),
        (slice(None), slice(5, 9)),
        (slice(1, 2), slice(3)),
        (slice(0, 48, 2),),
        (slice(7, 7),),
    ):
        assert torch.equal(weights.tensor(UP, box), whole[box])
    gate = UP.replace("up_proj", "gate_proj")
    assert torch.equal(weights.tensor(gate, (slice(0, 24),)), weights.tensor(gate)[:24])
    other = recipe_of("linear", {"b": {"weight": 1.0}})
    weights.prepare(other)
    assert not torch.equal(weights.tensor(UP, (slice(0, 24),)), whole[:24]), "the last candidate's"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16"])
def test_boxes_of_every_axis_and_dtype(
    family: Callable[..., Family], stored: torch.dtype, dtype: str | None
):
    """Of a vector, a matrix and a stack of three matrices: along the axes that ranks cut."""
    recipe = recipe_of("dare_ties", {"a": HALF, "b": HALF}, dtype=dtype)
    weights = prepared(family("mixtral_fused", stored), recipe)
    for name, axes in (("model.norm.weight", 1), (EMBEDDING, 2), (EXPERTS, 3)):
        whole = weights.tensor(name)
        for axis in range(axes):
            half = whole.shape[axis] // 2
            for part in (slice(0, half), slice(half, None), slice(-1, None)):
                box = (*[slice(None)] * axis, part)
                assert torch.equal(weights.tensor(name, box), whole[box])
        everywhere = (slice(1, 3),) * axes
        assert torch.equal(weights.tensor(name, everywhere), whole[everywhere])


@pytest.mark.parametrize("recipe", every_rule(), ids=lambda recipe: recipe.method)
def test_write_puts_the_tensor_in_place(family: Callable[..., Family], recipe: Recipe):
    """Into storage of the same type as it is, into other types and layouts by a copy."""
    weights = prepared(family("mixtral_fused", torch.bfloat16), recipe)
    for name in ("model.norm.weight", EMBEDDING, EXPERTS):
        whole = weights.tensor(name)
        for dtype in (torch.bfloat16, torch.float32):
            resident = torch.full(whole.shape, torch.nan, dtype=dtype)
            place = resident.data_ptr()
            weights.write(name, resident)
            assert resident.data_ptr() == place
            assert torch.equal(resident, whole.to(dtype))
        fused = torch.full((whole.shape[0] * 2, *whole.shape[1:]), torch.nan, dtype=whole.dtype)
        weights.write(name, fused[whole.shape[0] :])  # a model's q, k and v may be one tensor
        assert torch.equal(fused[whole.shape[0] :], whole)
        assert bool(fused[: whole.shape[0]].isnan().all())
        half = whole.shape[0] // 2
        weights.write(name, fused[: whole.shape[0] - half], (slice(half, None),))
        assert torch.equal(fused[: whole.shape[0] - half], whole[half:])


def test_write_into_a_view_that_is_not_contiguous(family: Callable[..., Family]):
    weights = prepared(family("llama"), task_arithmetic())
    shape = weights.shape(UP)
    turned = torch.full(shape[::-1], torch.nan)
    weights.write(UP, turned.T)
    assert torch.equal(turned.T, weights.tensor(UP))


def test_write_refuses_another_shape(family: Callable[..., Family]):
    weights = prepared(family("llama"), task_arithmetic())
    with pytest.raises(ShapeError, match=r"shape \[48, 32\] does not fit \[32, 48\]"):
        weights.write(UP, torch.empty(32, 48))
    with pytest.raises(ShapeError, match=r"shape \[24, 32\] does not fit \[48, 32\]"):
        weights.write(UP, torch.empty(48, 32), (slice(0, 24),))


def test_items_are_all_the_tensors_in_their_order(family: Callable[..., Family]):
    weights = prepared(family("mixtral_fused"), task_arithmetic())
    items = list(weights.items())
    assert [name for name, _ in items] == list(weights.names())
    assert all(torch.equal(tensor, weights.tensor(name)) for name, tensor in items)


def test_sources_of_another_dtype_each(family: Callable[..., Family]):
    """Stored in float32, bfloat16 and float16: read as they are, merged in float32."""
    dtypes = {"base": torch.float32, "a": torch.bfloat16, "b": torch.float16}
    folders = {name: family("llama", dtype).folders[name] for name, dtype in dtypes.items()}
    weights = prepared(Family(folders), task_arithmetic(dtype="float32"))
    r, a, b = (load_file(folders[name] / "model.safetensors")[UP].float() for name in dtypes)
    torch.testing.assert_close(weights.tensor(UP), r + 0.6 * (a - r) + 0.3 * (b - r))


@pytest.mark.parametrize("recipe", every_rule(), ids=lambda recipe: recipe.method)
def test_tables_change_thresholds_only(family: Callable[..., Family], recipe: Recipe):
    """With prepared statistics, as in a search: the same but for elements next to a threshold."""
    made = family("llama", torch.bfloat16, hidden_size=64, intermediate_size=256)
    exact = prepared(made, recipe)
    found = MergedWeights(open_sources(made.folders), Prepared())
    found.prepare(recipe)
    for name in (UP, "model.norm.weight", EMBEDDING):
        ours, expected = found.tensor(name).float(), exact.tensor(name).float()
        differing = (ours - expected).abs() > 0.02 * expected.abs() + 1e-4
        assert differing.double().mean() <= 0.002, name


def test_tied_head_is_the_embedding(family: Callable[..., Family]):
    weights = prepared(family("llama_tied"), task_arithmetic())
    assert "lm_head.weight" not in weights.names()
    embedding = weights.tensor("model.embed_tokens.weight")
    assert torch.equal(weights.tensor("lm_head.weight"), embedding)
    with pytest.raises(KeyError):
        weights.tensor("model.layers.9.mlp.up_proj.weight")


def test_a_stack_of_slices(family: Callable[..., Family]):
    """Layers 0 1 | 1 2 | 2 of the same two experts: depth 5, each layer of its own origin."""
    made = family("llama")
    spans = [(0, 2), (1, 3), (2, 3)]
    recipe = recipe_of("linear", {"a": {"weight": 1.0}, "b": {"weight": 3.0}}, spans=spans)
    weights = prepared(made, recipe)
    flat = prepared(made, recipe_of("linear", {"a": {"weight": 1.0}, "b": {"weight": 3.0}}))
    for layer, origin in enumerate([0, 1, 1, 2, 2]):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        source = f"model.layers.{origin}.self_attn.q_proj.weight"
        assert torch.equal(weights.tensor(name), flat.tensor(source))
    assert "model.layers.5.self_attn.q_proj.weight" not in weights.names()
    assert weights.output_config()["num_hidden_layers"] == 5


def test_per_layer_configuration_follows_the_layers(family: Callable[..., Family]):
    made = family("qwen2")
    sources = open_sources(made.folders)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    sources.config("a")["layer_types"] = [*kinds]
    weights = MergedWeights(sources)
    weights.prepare(recipe_of("linear", {"a": {"weight": 1.0}}, spans=[(0, 3), (1, 2)]))
    config = weights.output_config()
    assert config["layer_types"] == [*kinds, "sliding_attention"]
    assert sources.config("a")["layer_types"] == kinds, "untouched"


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "bfloat16"), (None, "float32")])
def test_output_config_says_its_dtype(
    family: Callable[..., Family], dtype: str | None, stored: str
):
    config = prepared(family("llama"), task_arithmetic(dtype=dtype)).output_config()
    assert config["dtype"] == stored


def test_integer_buffers_are_copied(llama_copy: Family):
    for number, folder in enumerate(llama_copy.folders.values()):
        path = folder / "model.safetensors"
        buffer = {"model.layers.0.counts": torch.tensor([number, 2**40])}
        save_file(load_file(path) | buffer, path, metadata={"format": "pt"})
    weights = prepared(llama_copy, task_arithmetic(dtype="bfloat16"))
    assert weights.tensor("model.layers.0.counts").tolist() == [0, 2**40]
    assert weights.storage_dtype("model.layers.0.counts") == torch.int64


def test_overflow_is_a_merge_error(family: Callable[..., Family]):
    """1e6 times a delta fits float32, not float16; the message says where and in what."""
    recipe = recipe_of("task_arithmetic", {"a": {"weight": 1e9}}, dtype="float16")
    weights = prepared(family("llama"), recipe)
    with pytest.raises(MergeError, match=rf"tensor {UP}: .*NaN or infinity in float16") as caught:
        weights.tensor(UP)
    assert caught.value.tensor == UP


def test_a_sum_that_overflows_is_no_merge_error(llama_copy: Family):
    """Each element is finite; only the sum of the cheap check is not."""
    path = llama_copy.folders["a"] / "model.safetensors"
    name = "model.norm.weight"
    large = {name: torch.full((32,), 3e38)}
    save_file(load_file(path) | large, path, metadata={"format": "pt"})
    weights = prepared(llama_copy, recipe_of("linear", {"a": {"weight": 1.0}}))
    assert torch.equal(weights.tensor(name), large[name])


# --- refusals, before any weight --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            recipe_of("linear", {"aa": {"weight": 1.0}}),
            r"source 'aa': it is not open; did you mean 'a'\?",
        ),
        (
            recipe_of("linear", {"a": {"weight": 1.0}}, spans=[(0, 2), (2, 4)]),
            r"layer_range \[2, 4\].*3 layers|layer 3: the sources have layers 0 to 2",
        ),
        (
            recipe_of("linear", {"a": {"weight": 1.0}, "b": {"weight": -1.0}}),
            r"weights that sum to zero",
        ),
        (recipe_of("linear", {"a": {}}), r"no value of 'weight'"),
    ],
    ids=["unknown source", "layers", "weights", "no weight"],
)
def test_refused_by_prepare(family: Callable[..., Family], recipe: Recipe, message: str):
    weights = MergedWeights(open_sources(family("llama").folders))
    with pytest.raises(InputError, match=message):
        weights.prepare(recipe)
    with pytest.raises(RuntimeError, match="prepare"):
        weights.tensor(UP)


def test_prepare_takes_recipes_only(family: Callable[..., Family]):
    with pytest.raises(TypeError, match="a dict was passed"):
        MergedWeights(open_sources(family("llama").folders)).prepare({})
