"""One engine for all depths: what it is built from, and what it refuses; the stack's configuration."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.merge.remote import RemoteWeights, encode
from evomerge.merge.skeleton import model_folder
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from fitness.engine import Stack
from fitness.engines.stacks import layer_kinds
from fitness.errors import FitnessError
from fitness.items import Request
from search_spaces.errors import InputError
from search_spaces.recipe import Input, Recipe, Setting, Slice, parameters
from search_spaces.stacking import Hop, Pool
from tests.data_flow.families import LAYERS, WINDOW, Kind, save_models
from tests.data_flow.running import DEEPEST, TOLERANCE, Running, logits, straight
from tests.merge.scaled_stacks import MORE

FULL, SLIDING = "layer_types=full_attention", "layer_types=sliding_attention"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Running:
    return Running(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory) -> Running:
    return Running(tmp_path_factory.mktemp("gemma3"), "gemma3")


def path(*layers: int, model: str = "a") -> list[Hop]:
    return [Hop(model, layer) for layer in layers]


def slots_of(folder):
    config = AutoConfig.from_pretrained(folder)
    return list(layer_kinds(config, config.num_hidden_layers))


# --- the engine


def test_only_layers_that_run_are_asked_for_and_each_weight_once(llama):
    asked = []
    write = llama.weights.write
    llama.weights.write = lambda name, out, box=(): asked.append(name) or write(name, out, box)
    try:
        llama.load(path(3, 1))
    finally:
        del llama.weights.write
    assert sorted(asked) == sorted(llama.weights.names())
    assert {name.split(".")[2] for name in asked if ".layers." in name} == {"0", "1"}


def test_a_candidate_too_deep_is_refused_and_harms_nothing(llama):
    llama.load(straight("a"))
    before = logits(llama.model)
    with pytest.raises(
        FitnessError, match=f"of {DEEPEST + 1} layers: the engine was built for {DEEPEST};"
    ):
        llama.load(path(*[0] * (DEEPEST + 1)))
    with pytest.raises(RuntimeError, match="no candidate is resident"):
        llama.engine.answer([Request("loglikelihood", "a", "b")])
    llama.load(straight("a"))
    assert torch.equal(logits(llama.model), before)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_load_that_breaks_halfway_at_another_depth_is_repaired_by_the_next(name, request):
    running = request.getfixturevalue(name)
    kept = path(0, 4, 4, 2, 1, 0)
    running.load(kept)
    before = logits(running.model)
    write = running.weights.write
    left = iter(range(20))

    def breaking(name, out, box=()):
        if next(left, None) is None:
            raise OSError("gone")
        write(name, out, box)

    running.weights.write = breaking
    try:
        with pytest.raises(OSError, match="gone"):
            running.load(path(2, 2, 2, 2, 0, 0, 0, model="b"))
    finally:
        del running.weights.write
    running.load(kept)
    assert torch.equal(logits(running.model), before)


def test_layers_of_another_kind_share_the_weights_of_their_places(gemma3):
    for layers in ((2, 2, 2, 2), (0, 2, 0, 2, 2), (1,), (0, 1, 2, 3, 4)):
        recipe = gemma3.load(path(*layers))
        stock = gemma3.exported(recipe)
        assert (logits(gemma3.model) - logits(stock)).abs().max() <= TOLERANCE
    per_layer = sum(w.numel() for w in gemma3.engine._layers._slots[0].parameters())
    kept = {id(w): w.numel() for layer in gemma3.engine._layers._slots for w in layer.parameters()}
    made = gemma3.engine._layers._others.values()
    assert made
    assert {id(w) for layer in made for w in layer.parameters()} <= set(kept)
    assert sum(kept.values()) == DEEPEST * per_layer


def test_kinds_matter(tmp_path):
    """The same weights without the window are another model where it ends: nothing passes by chance."""
    running = Running(tmp_path, "gemma2")
    running.load(path(0, 0, 0))
    slid = logits(running.model)
    running.engine._layers.run(Stack(3, (FULL,) * 3))
    differ = (logits(running.model) - slid).abs().amax((0, 2))
    assert differ[:WINDOW].max() < 1e-5
    assert differ[WINDOW:].min() > 1e-2


def test_an_engine_with_slots_of_each_kind_runs_the_same(gemma3, tmp_path):
    other = Running(tmp_path, "gemma3", of_each_kind=True)
    for layers in ((2,) * DEEPEST, (0, 2, 1), (3, 3, 2, 2, 0)):
        gemma3.load(path(*layers))
        other.load(path(*layers))
        assert torch.equal(logits(gemma3.model), logits(other.model))


def test_kinds_that_the_engine_does_not_have_are_refused(gemma3):
    with pytest.raises(FitnessError, match=r"kind 'layer_types=mamba': the engine has .*sliding"):
        gemma3.engine._layers.run(Stack(1, ("layer_types=mamba",)))
    with pytest.raises(
        FitnessError, match="does not say of what kinds its layers are: the engine's"
    ):
        gemma3.engine._layers.run(Stack(2))


def test_mixtures_stored_under_other_names_are_refused_by_name(tmp_path):
    """An engine deeper than the sources has no checkpoint to compare its names with."""
    with pytest.raises(FitnessError, match=r"no tensor 'model\.layers\.0\..*experts.*needs it"):
        Running(tmp_path, MORE["olmoe"]).load(path(0, 1))


# --- what it is built from


def test_an_engine_is_built_from_the_sources_own_folder_where_that_will_do(llama):
    assert model_folder(llama.sources) == llama.folders["a"]
    assert model_folder(llama.sources, LAYERS) == llama.folders["a"]
    config = AutoConfig.from_pretrained(model_folder(llama.sources, 12))
    own = AutoConfig.from_pretrained(llama.folders["a"])
    assert config.num_hidden_layers == 12
    config.num_hidden_layers = LAYERS
    assert {**config.to_dict(), "_name_or_path": ""} == {**own.to_dict(), "_name_or_path": ""}


def test_slots_of_each_kind_are_as_many_as_the_deepest_candidate_has_layers(gemma3):
    folder = model_folder(gemma3.sources, 7)
    assert slots_of(folder) == [SLIDING, FULL] * 7
    assert slots_of(model_folder(gemma3.sources, LAYERS)) == [SLIDING, FULL] * LAYERS
    assert model_folder(gemma3.sources) == gemma3.folders["a"]


def test_an_engine_whose_slots_change_their_kind_needs_each_kind_once(gemma3):
    own = [SLIDING, SLIDING, FULL, SLIDING, SLIDING]
    assert slots_of(model_folder(gemma3.sources, 7, of_each_kind=False)) == [*own, *own[:2]]
    assert slots_of(model_folder(gemma3.sources, 2, of_each_kind=False)) == [SLIDING, FULL]
    assert slots_of(model_folder(gemma3.sources, 1, of_each_kind=False)) == [SLIDING, FULL]
    assert model_folder(gemma3.sources, LAYERS, of_each_kind=False) == gemma3.folders["a"]


def test_a_gpt_neox_deeper_than_its_sources_is_built(tmp_path):
    running = Running(tmp_path, "gpt_neox")
    recipe = running.load(path(*[4] * DEEPEST))
    assert (logits(running.model) - logits(running.exported(recipe))).abs().max() <= TOLERANCE


# --- the stack's configuration


def edited(folder, out, **changes):
    """A copy of a model whose config.json lacks (None) or says other things."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (out / "config.json").write_text(json.dumps(kept))
    return out


def test_what_a_file_leaves_to_a_pattern_is_listed_when_layers_move(tmp_path):
    """Gemma 2 was released without `layer_types`: every second layer slides."""
    folders = save_models(tmp_path, "gemma2")
    old = {
        name: edited(f, tmp_path / f"old_{name}", layer_types=None) for name, f in folders.items()
    }
    sources = open_sources(old)
    weights = MergedWeights(sources)
    weights.prepare(Pool(("a", "b"), LAYERS, {}).stack(path(1, 1, 0)))
    assert weights.stack() == Stack(3, (FULL, FULL, SLIDING))
    assert weights.output_config()["layer_types"] == [*["full_attention"] * 2, "sliding_attention"]
    weights.prepare(Pool(("a", "b"), LAYERS, {}).stack(straight("a")))
    assert "layer_types" not in weights.output_config()
    assert weights.stack().kinds == (SLIDING, FULL, SLIDING, FULL, SLIDING)


def test_qwens_window_does_not_reach_into_layers_that_see_everything(tmp_path):
    """`max_window_layers` counts from the bottom: deeper stacks would slide above it."""
    changes = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": LAYERS}
    sources = open_sources(save_models(tmp_path, "qwen2", **changes))
    weights = MergedWeights(sources)
    weights.prepare(Pool(("a", "b"), LAYERS, {}).stack(path(*range(LAYERS), 3, 4, 3, 4)))
    assert weights.stack() == Stack(9)
    config = weights.output_config()
    assert config["max_window_layers"] == 9
    assert config["layer_types"] == ["full_attention"] * 9
    slots = AutoConfig.from_pretrained(model_folder(sources, 12))
    assert (slots.max_window_layers, set(slots.layer_types)) == (12, {"full_attention"})


def test_layers_of_different_kinds_are_not_merged(gemma3):
    uneven = Recipe(
        "linear",
        (Slice((Input("a", (0, 2)), Input("b", (1, 3)))),),
        parameters=parameters({"weight": Setting.constant(0.5)}),
    )
    rule = (
        r"layer 1 of 'a' \(.*sliding_attention\) and layer 2 of 'b' \(.*full_attention\): layers that "
        "are merged with each other are of one kind"
    )
    with pytest.raises(InputError, match=rule):
        gemma3.engine.load(uneven)
    with pytest.raises(InputError, match=rule):
        gemma3.weights.output_config()


def test_a_mixtures_dense_layers_move_with_their_configuration(tmp_path):
    """`mlp_only_layers` names layers by number."""
    sources = open_sources(save_models(tmp_path / "m", "qwen3_moe", mlp_only_layers=[1, 3]))
    weights = MergedWeights(sources)
    weights.prepare(Pool(("a", "b"), LAYERS, {}).stack(path(3, 0, 0, 1)))
    assert [kind.endswith("sparse=False") for kind in weights.stack().kinds] == [
        True,
        False,
        False,
        True,
    ]
    assert weights.output_config()["mlp_only_layers"] == [0, 3]
    folder = tmp_path / "slots"
    shutil.copytree(model_folder(sources, 3), folder)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    built = ["experts" in str(layer.mlp) for layer in model.model.layers]
    assert built == [True, False] * 3


def test_layers_that_are_built_in_two_ways_nobody_lists_stay_in_their_places(tmp_path):
    """DeepSeek's `first_k_dense_replace` cannot say that a dense layer lies above one of experts."""
    kind = Kind(
        "DeepseekV2Config",
        {
            **{
                "num_key_value_heads": 4,
                "kv_lora_rank": 16,
                "q_lora_rank": None,
                "n_routed_experts": 4,
            },
            **{"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16, "head_dim": 16},
            **{"n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
            **{"first_k_dense_replace": 1, "topk_method": "greedy"},
        },
    )
    sources = open_sources(save_models(tmp_path, kind))
    weights = MergedWeights(sources)
    pool = Pool(("a", "b"), LAYERS, {})
    weights.prepare(pool.stack(straight("b")))
    assert weights.stack().depth == LAYERS
    weights.prepare(pool.stack(path(0, 1, 2)))
    with pytest.raises(
        InputError, match="layers 0 and 1 of 'a': they hold other tensors, and config"
    ):
        weights.stack()
    with pytest.raises(InputError, match="they hold other tensors"):
        weights.output_config()


def test_a_recipe_that_crosses_to_another_process_keeps_its_stack(gemma3):
    recipe = gemma3.stack([Hop("a", 2), Hop("b", 0, -0.5), Hop("mean", 1)])
    remote = RemoteWeights(gemma3.weights, lambda: None)
    remote.prepare(encode(recipe)[0])
    assert remote.stack() == Stack(3, (FULL, SLIDING, SLIDING))
