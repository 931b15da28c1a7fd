"""What crosses to an engine's processes, and that the same weights are merged there."""

import dataclasses
import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from hypothesis import given

from evomerge.merge.locations import Location
from evomerge.merge.remote import NAME, decode, encode, open_weights, remote_provider
from evomerge.merge.search_weights import search_weights
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import Exactly
from search_spaces.errors import InputError
from search_spaces.recipe import Clause, Recipe, Setting
from search_spaces.rules import RULES
from tests.merge.models import Family
from tests.merge.plans import recipe_of
from tests.search_spaces.strategies import recipes

CPU = torch.device("cpu")
SETTINGS = {"a": {"weight": 0.6, "density": 0.5}, "b": {"weight": 0.3, "density": 0.4}}


def crossed(payload: object) -> object:
    """What arrives: everything goes through JSON, as lists and mappings."""
    data, _ = encode(payload)
    return decode(json.loads(json.dumps(data)))


def places(family: Family) -> dict[str, Location]:
    return {name: Location(folder) for name, folder in family.folders.items()}


@pytest.mark.parametrize("method", RULES)
def test_recipes_arrive_as_they_were(method: str):
    recipe = recipe_of(method, SETTINGS, seed=7, dtype="bfloat16", spans=[(0, 2), (1, 3)])
    assert crossed(recipe) == recipe
    assert crossed(Exactly(recipe)) == Exactly(recipe)


@given(recipes())
def test_any_recipe_arrives(recipe: Recipe):
    """Gradients, filters, stages chosen by settings, numbers to the last bit."""
    assert crossed(recipe) == recipe


def test_versions_tell_weights_apart():
    one, other = recipe_of("linear", SETTINGS), recipe_of("ties", SETTINGS)
    versions = {encode(payload)[1] for payload in (one, other, Exactly(one), Exactly(other))}
    assert len(versions) == 4
    assert encode(one)[1] == one.hash


def test_a_recipe_is_small():
    """It is all that goes to an engine."""
    gradient = Setting((Clause(tuple(0.1 * i for i in range(24)), "mlp"), Clause((0.5,))))
    recipe = dataclasses.replace(
        recipe_of("dare_ties", SETTINGS), parameters=(("weight", gradient),)
    )
    assert len(json.dumps(encode(recipe)[0])) < 4096


def test_another_recipe_than_was_sent_is_refused():
    data, _ = encode(recipe_of("linear", SETTINGS))
    data["recipe"]["dtype"] = "float16"
    with pytest.raises(RuntimeError, match="on its way"):
        decode(data)
    with pytest.raises(TypeError, match="a str was passed"):
        encode("linear")


@pytest.mark.parametrize("method", ["linear", "dare_ties", "della", "slerp", "model_stock"])
def test_the_same_weights_are_merged_there(family: Callable[..., Family], method: str):
    made = family("llama_tied", torch.bfloat16)
    sources = open_sources(places(made))
    provider = remote_provider(places(made), sources)
    arguments = json.loads(json.dumps(dict(provider.arguments))) | {"device": "cpu"}
    (entry,) = entry_points(group="evomerge.weight_providers", name=provider.name)
    assert entry.load() is open_weights
    there = entry.load()(arguments)
    here, _ = search_weights(sources, CPU, None)
    recipe = recipe_of(method, SETTINGS)
    for payload in (recipe, Exactly(recipe)):
        data, _ = provider.encode(payload)
        there.prepare(data)
        here.prepare(payload)
        assert tuple(there.names()) == here.names()
        for name in here.names():
            assert there.shape(name) == here.shape(name)
            assert there.storage_dtype(name) == here.storage_dtype(name)
            out = torch.empty(here.shape(name))
            there.write(name, out)
            assert torch.equal(out, here.tensor(name).float())
            half = (slice(0, here.shape(name)[0] // 2),)
            assert torch.equal(there.tensor(name, half), here.tensor(name)[half])


def test_a_provider_says_what_it_would_keep(family: Callable[..., Family]):
    """From this an engine decides how much of a GPU it takes itself."""
    made = family("llama", torch.bfloat16)
    sources = open_sources(places(made))
    provider = remote_provider(places(made), sources)
    assert provider.name == NAME
    assert provider.source_bytes == sources.held_bytes() == 3 * 2 * provider.parameters
    limited = remote_provider(places(made), sources, limit=sources.held_bytes() - 1)
    assert limited.source_bytes == 0, "the sources will not go there, so no room need be left"
    assert limited.arguments["limit"] == sources.held_bytes() - 1


def test_adapters_and_relative_folders(
    family: Callable[..., Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A worker's current folder need not be the driver's."""
    made = family("llama")
    monkeypatch.chdir(made.folders["base"].parent)
    folders = {"base": Location(Path("base")), "a": Location(Path("a"), Path("lora"))}
    provider = remote_provider(folders, open_sources(places(made)), tokenizer="union", base="base")
    found = provider.arguments["sources"]
    monkeypatch.chdir(tmp_path)
    assert Path(found["base"]["model"]).samefile(made.folders["base"])
    assert found["base"]["lora"] is None
    assert found["a"]["lora"] == str(made.folders["base"].parent / "lora")
    assert (provider.arguments["tokenizer"], provider.arguments["base"]) == ("union", "base")


def test_what_is_wrong_is_said_when_a_candidate_is_prepared(family: Callable[..., Family]):
    made = family("llama")
    provider = remote_provider(places(made), open_sources(places(made)))
    there = open_weights({**provider.arguments, "device": "cpu"})
    data, _ = encode(recipe_of("linear", {"a": {"weight": 1.0}, "z": {"weight": 1.0}}))
    with pytest.raises(InputError, match="source 'z'"):
        there.prepare(data)


def test_tables_are_kept_for_the_next_start(
    family: Callable[..., Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    made = family("llama", torch.bfloat16)
    provider = remote_provider(places(made), open_sources(places(made)))
    there = open_weights({**provider.arguments, "device": "cpu"})
    there.prepare(encode(recipe_of("ties", SETTINGS))[0])
    for name in there.names():
        there.tensor(name)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    there.keep()
    assert list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("method", RULES)
def test_merged_numbers_do_not_depend_on_threads(family: Callable[..., Family], method: str):
    """Workers merge with other numbers of threads than this process; a score must not show it."""
    made = family("llama", hidden_size=256, intermediate_size=512, num_hidden_layers=1)
    found: list[dict[str, torch.Tensor]] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            weights, _ = search_weights(open_sources(places(made)), CPU, None)
            weights.prepare(recipe_of(method, SETTINGS))
            found.append(dict(weights.items()))
    finally:
        torch.set_num_threads(before)
    alone, together = found
    if method == "iso_c":  # LAPACK's decomposition rounds in another order
        for name in alone:
            torch.testing.assert_close(together[name], alone[name])
    else:
        assert [n for n in alone if not torch.equal(alone[n], together[n])] == []
