"""What an engine gets: names, shapes, boxes, the stack of layers, refusals before any weight."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights, MergeError
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.roles import role
from search_spaces.rules import RULES
from tests.merge.models import KINDS, Family
from tests.merge.plans import recipe_of

UP = "model.layers.1.mlp.up_proj.weight"


def prepared(family: Family, recipe: Recipe) -> MergedWeights:
    weights = MergedWeights(open_sources(family.folders))
    weights.prepare(recipe)
    return weights


def task_arithmetic(**options) -> Recipe:
    return recipe_of("task_arithmetic", {"a": {"weight": 0.6}, "b": {"weight": 0.3}}, **options)


def every_rule() -> list[Recipe]:
    two = {"a": {"weight": 0.6}, "b": {"weight": 0.3}}
    sparse = {name: own | {"density": 0.5} for name, own in two.items()}
    recipes: list[Recipe] = []
    for name, rule in RULES.items():
        if rule.combine == "slerp":
            recipes.append(recipe_of(name, {"a": {}}, t=0.3))
        else:
            recipes.append(recipe_of(name, sparse if rule.sparsify != "none" else two))
    return recipes


@pytest.mark.parametrize("kind", KINDS)
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
    ):
        assert torch.equal(weights.tensor(UP, box), whole[box])
    gate = UP.replace("up_proj", "gate_proj")
    assert torch.equal(weights.tensor(gate, (slice(0, 24),)), weights.tensor(gate)[:24])
    other = recipe_of("linear", {"b": {"weight": 1.0}})
    weights.prepare(other)
    assert not torch.equal(weights.tensor(UP, (slice(0, 24),)), whole[:24]), "the last candidate's"


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
    sources.config("a")["layer_types"] = ["first", "second", "third"]
    weights = MergedWeights(sources)
    weights.prepare(recipe_of("linear", {"a": {"weight": 1.0}}, spans=[(0, 3), (1, 2)]))
    config = weights.output_config()
    assert config["layer_types"] == ["first", "second", "third", "second"]
    assert sources.config("a")["layer_types"] == ["first", "second", "third"], "untouched"


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
