"""Distances from the base, against the same by hand; and what they warn of."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from evomerge.hand_over import distances as distances_module
from evomerge.hand_over.distances import MERGE, measure
from evomerge.hand_over.distances_svg import picture
from evomerge.merge.locations import Location
from evomerge.merge.sources import open_sources
from evomerge.merge.writer import write_model
from search_spaces.roles import role
from search_spaces.stacking import Hop
from tests.merge.plans import recipe_of
from tests.merge.scaled_stacks import recipe_of as stack_of
from tests.merge.test_lora import adapt
from tests.merge.test_tokenizers import save

WEIGHTS = {"a": {"weight": 0.6}, "b": {"weight": 0.3}}


def measured(recipe, sources, out):
    write_model(recipe, sources, out)
    return measure(out, recipe, sources)


def by_hand(folders, out, origin, layer, component):
    """Relative distances of a part, all tensors at once."""
    files = {n: load_file(f / "model.safetensors") for n, f in folders.items()}
    files[MERGE] = load_file(out / "model.safetensors")
    names = [
        n for n in files[MERGE] if role(n).layer == layer and component in ("", role(n).component)
    ]
    start = {
        n: files["base"][n]
        if origin == "base"
        else sum(files[s][n] for s in folders) / len(folders)
        for n in names
    }
    norm = math.sqrt(sum(float((start[n].double() ** 2).sum()) for n in names))
    return {
        source: math.sqrt(sum(float(((found[n] - start[n]).double() ** 2).sum()) for n in names))
        / norm
        for source, found in files.items()
    }


@pytest.mark.parametrize("piece", [7, 2**22])
def test_equals_the_same_by_hand(tmp_path, family, monkeypatch, piece):
    monkeypatch.setattr(distances_module, "_PIECE", piece)
    made = family("llama_odd" if piece == 7 else "llama")
    sources, recipe = open_sources(made.folders), recipe_of("task_arithmetic", WEIGHTS)
    found = measured(recipe, sources, tmp_path / "out")
    assert found.reference == "the base (base)"
    assert {part.layer for part in found.layers} == {0, 1, 2}
    for part in (*found.layers, *found.parts):
        if part.layer is not None:
            hand = by_hand(made.folders, tmp_path / "out", "base", part.layer, part.component)
            assert part.distances == pytest.approx(hand, rel=1e-5)
    assert found.whole["base"] == 0
    assert 0.5 * found.whole["a"] < found.whole[MERGE] < found.whole["a"]
    assert found.warnings == ()


def test_without_a_base_from_the_mean(tmp_path, family):
    folders = {n: f for n, f in family("llama").folders.items() if n != "base"}
    sources, recipe = open_sources(folders), recipe_of("linear", WEIGHTS)
    found = measured(recipe, sources, tmp_path / "out")
    assert found.reference == "the mean of a, b (no base)"
    for part in found.layers:
        hand = by_hand(folders, tmp_path / "out", "mean", part.layer, "")
        assert part.distances == pytest.approx(hand, rel=1e-4, abs=1e-7)


def test_a_base_that_the_rule_does_not_take_is_measured_from_all_the_same(tmp_path, family):
    made = family("llama")
    found = measured(recipe_of("linear", WEIGHTS), open_sources(made.folders), tmp_path / "out")
    assert found.reference == "the base (base)"


def test_a_merge_that_is_one_of_its_sources_is_said(tmp_path, family):
    made = family("llama")
    recipe = recipe_of("linear", {"a": {"weight": 1.0}, "b": {"weight": 0.0}})
    found = measured(recipe, open_sources(made.folders), tmp_path / "out")
    assert found.warnings == ("the merge is a: no weight differs by more than rounding",)


def test_layers_far_out_are_said(tmp_path, family):
    made = family("llama")
    recipe = recipe_of("task_arithmetic", {"a": {"weight": 2.5}, "b": {"weight": 0.1}})
    found = measured(recipe, open_sources(made.folders), tmp_path / "out")
    (warning,) = found.warnings
    assert warning.startswith("layer 0, 1, 2: up to 2.5 times as far out as the farthest source")
    below = recipe_of("task_arithmetic", {"a": {"weight": 1.9}, "b": {"weight": 0.1}})
    assert measured(below, open_sources(made.folders), tmp_path / "near").warnings == ()


def test_a_stack_is_compared_with_the_layers_it_comes_from(tmp_path, family):
    made = family("llama")
    sources = open_sources(made.folders)
    recipe = stack_of([Hop("a", 2), Hop("b", 0), Hop("a", 2), Hop("base", 1)], sources, "float32")
    found = measured(recipe, sources, tmp_path / "out")
    two = by_hand(made.folders, made.folders["a"], "base", 2, "")
    assert [part.layer for part in found.layers] == [0, 1, 2, 3]
    assert found.layers[0].distances[MERGE] == pytest.approx(two["a"], rel=1e-5)
    assert found.layers[2].distances == found.layers[0].distances
    assert found.layers[3].distances[MERGE] == 0


def test_an_adapter_and_matched_rows(tmp_path, family):
    pytest.importorskip("peft")
    made = family("llama")
    adapt(made.folders["base"], tmp_path / "lora")
    places = {n: Location(f) for n, f in made.folders.items()}
    places["b"] = Location(made.folders["base"], tmp_path / "lora")
    found = measured(recipe_of("task_arithmetic", WEIGHTS), open_sources(places), tmp_path / "out")
    assert {p.component for p in found.parts if p.distances["b"] > 0} == {"attn", "mlp"}
    folders = {
        "base": save(tmp_path / "base", [*(f"w{i}" for i in range(9)), "<unk>"], ["<s>"]),
        "a": save(tmp_path / "a", ["<unk>", *(f"w{i}" for i in range(12))], seed=1),
    }
    sources = open_sources(folders, "union", "base")
    recipe = replace(recipe_of("task_arithmetic", {"a": {"weight": 1.0}}), tokenizer="union")
    found = measured(recipe, sources, tmp_path / "union")
    embed = next(p for p in found.parts if p.component == "embed")
    assert embed.distances[MERGE] == pytest.approx(embed.distances["a"])


def test_the_picture_is_small_valid_and_readable_in_the_dark(tmp_path, family):
    made = family("llama")
    found = measured(recipe_of("ties", WEIGHTS), open_sources(made.folders), tmp_path / "out")
    text = picture(found, "base")
    assert len(text) < 20_000
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    assert "prefers-color-scheme: dark" in text
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    panels = {p.component for p in found.parts if p.layer is not None} | {""}
    assert len(lines) == 3 * len(panels), "the merge and two sources in each"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for line in lines:
        for x, y in (map(float, point.split(",")) for point in line.attrib["points"].split()):
            assert 0 <= x <= width
            assert 0 <= y <= height
    assert "nan" not in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text), "it asks nobody for anything"


def test_sixteen_sources_and_hostile_names_still_fit(tmp_path, family):
    made = family("llama")
    found = measured(recipe_of("ties", WEIGHTS), open_sources(made.folders), tmp_path / "out")
    names = {f"checkpoint<{i}>&": i / 10 for i in range(16)} | {MERGE: 0.2}
    crowd = replace(
        found,
        whole=names,
        layers=tuple(replace(p, distances=names) for p in found.layers),
        parts=tuple(replace(p, distances=names | {MERGE: math.inf}) for p in found.parts),
    )
    root = ET.fromstring(picture(crowd, None))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    legend = [e for e in root.iter() if e.tag.endswith("text") and "checkpoint" in (e.text or "")]
    assert len(legend) == 16
    assert max(float(e.attrib["x"]) + 7 * len(e.text) for e in legend) <= width
    assert max(float(e.attrib["y"]) for e in legend) < 100 < height


def test_nothing_is_held_in_memory_but_pieces(tmp_path, family, monkeypatch):
    """No float64 copy of a whole tensor is ever made."""
    made = family("llama")
    monkeypatch.setattr(distances_module, "_PIECE", 64)
    seen = []
    honest = torch.Tensor.double

    def watched(tensor):
        seen.append(tensor.numel())
        return honest(tensor)

    monkeypatch.setattr(torch.Tensor, "double", watched)
    measured(recipe_of("ties", WEIGHTS), open_sources(made.folders), tmp_path / "out")
    assert max(seen) == 64
    assert json.dumps(seen[:1])
