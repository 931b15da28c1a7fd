"""Recipes over sources that do not fit them everywhere: other shapes, tensors that are missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merge.placement import Placed, Placement, TensorSource
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from search_spaces.dialect import parse_recipe
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from tests.merge.models import Family

UP = "model.layers.{}.mlp.up_proj.weight"


def changed(
    family: Family, tmp_path: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]
) -> dict[str, Path]:
    """The family's folders, source `name` in a changed copy."""
    copy = Path(shutil.copytree(family.folders[name], tmp_path / name))
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return family.folders | {name: copy}


def prepared(folders: dict[str, Path], recipe: Recipe) -> MergedWeights:
    weights = MergedWeights(open_sources(folders))
    weights.prepare(recipe)
    return weights


def sliced(method: str, *parts: str, extra: str = "") -> Recipe:
    slices = ", ".join(f"{{sources: [{part}]}}" for part in parts)
    return parse_recipe(f"{{merge_method: {method}, slices: [{slices}]{extra}}}", "here")


def test_layers_of_other_shapes_are_refused_before_a_kernel_reads_beyond_their_end(
    family: Callable[..., Family], tmp_path: Path
):
    made = family("llama")
    folders = made.folders
    for name in folders:
        folders = folders | changed(
            Family(folders), tmp_path, name, lambda t: t.update({UP.format(1): torch.ones(6, 32)})
        )
    crossed = sliced(
        "linear",
        "{model: a, layer_range: [0, 1], parameters: {weight: 1}}, "
        "{model: b, layer_range: [1, 2], parameters: {weight: 1}}",
    )
    with pytest.raises(InputError, match=r"shape \[48, 32\] and .* \[6, 32\].*have one shape"):
        prepared(folders, crossed)


def test_a_copied_layer_that_lacks_a_tensor_gets_the_same_layers(
    family: Callable[..., Family], tmp_path: Path
):
    """The output's layer 2 is b's layer 1: what b lacks there comes from the first source's layer 1."""
    folders = changed(family("llama"), tmp_path, "b", lambda t: t.pop(UP.format(1)))
    stacked = sliced(
        "passthrough", "{model: a, layer_range: [0, 2]}", "{model: b, layer_range: [1, 2]}"
    )
    weights = prepared(folders, stacked)
    first = load_file(folders["base"] / "model.safetensors")
    assert torch.equal(weights.tensor(UP.format(2)), first[UP.format(1)])


def test_too_few_sources_for_the_combination_leave_the_one_that_has_the_tensor(
    family: Callable[..., Family], tmp_path: Path
):
    folders = changed(family("llama"), tmp_path, "b", lambda t: t.pop(UP.format(1)))
    recipe = parse_recipe(
        "{merge_method: task_arithmetic, base_model: base, parameters: {combine: nuslerp, weight: 1},"
        " models: [{model: a}, {model: b}]}",
        "here",
    )
    weights = prepared(folders, recipe)
    expected = load_file(folders["base"] / "model.safetensors")[UP.format(1)]
    assert torch.equal(weights.tensor(UP.format(1)), expected)
    assert not torch.equal(weights.tensor(UP.format(0)), expected)


def test_whole_model_density_counts_the_deltas_that_are_merged(family: Callable[..., Family]):
    """Base layer 0 with a's layer 1: the deltas are large, and 30 % of *them* stay."""
    recipe = parse_recipe(
        "{merge_method: ties_whole, base_model: base, parameters: {density: 0.3, weight: 1}, slices: "
        "[{sources: [{model: base, layer_range: [0, 1]}, {model: a, layer_range: [1, 2]}]}]}",
        "here",
    )
    made = family("llama")
    weights = prepared(made.folders, recipe)
    base = load_file(made.folders["base"] / "model.safetensors")
    moved = total = 0
    for name in weights.names():
        changed_elements = weights.tensor(name) != base[name]
        moved, total = moved + int(changed_elements.sum()), total + changed_elements.numel()
    assert moved / total == pytest.approx(0.3, abs=0.01)


def test_float64_sources_are_merged_and_stored_as_float32(
    family: Callable[..., Family], tmp_path: Path
):
    made = family("llama")
    folders = made.folders
    for name in made.folders:
        folders = folders | changed(
            Family(folders),
            tmp_path,
            name,
            lambda t: t.update({k: v.double() for k, v in t.items()}),
        )
    weights = prepared(
        folders, sliced("linear", "{model: a, layer_range: [0, 3], parameters: {weight: 1}}")
    )
    assert weights.tensor(UP.format(0)).dtype == torch.float32


class Streamed(Placed):
    """Sources that must come over for every candidate; notes what is announced and asked for."""

    keeps = False

    def __init__(self, sources: TensorSource) -> None:
        super().__init__(sources, Placement("mapped", "cpu", 0))
        self.announced: list[str] = []
        self.asked: list[str] = []

    def announce(self, coming: Sequence[tuple[str, str]]) -> None:
        self.announced.append(coming[0][1])

    def tensor(self, source: str, name: str) -> torch.Tensor:
        if source == "a":
            self.asked.append(name)
        return super().tensor(source, name)


def test_what_is_announced_is_what_the_engine_asks_for_next(
    family: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
):
    """Engines have an order of their own; announcing the file's order kept most tensors waiting."""
    made: list[Streamed] = []

    def placed(sources: TensorSource, placement: Placement) -> Streamed:
        made.append(Streamed(sources))
        return made[-1]

    monkeypatch.setattr("evomerge.merge.weights.Placed", placed)
    recipe = sliced("linear", "{model: a, layer_range: [0, 3], parameters: {weight: 1}}")
    weights = prepared(family("llama").folders, recipe)
    order = weights.names()[::-1]
    for candidate in range(2):
        weights.prepare(recipe)
        if made:
            made[0].announced, made[0].asked = [], []
        for name in order:
            weights.tensor(name)
        assert made[0].announced == ([] if candidate == 0 else made[0].asked[1:])


def test_loops_are_compiled_where_nothing_may_be_written(tmp_path: Path):
    """Numba refuses to cache where neither the package nor the home folder can be written."""
    code = (
        "import os\n"
        "from evomerge.merge import compiled\n"
        "compiled._writable = lambda folder: False\n"
        "compiled.give_numba_a_place()\n"
        "print(os.environ['NUMBA_CACHE_DIR'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip().startswith(str(tmp_path))


def test_an_incomplete_source_is_noted(family: Callable[..., Family], tmp_path: Path):
    """Alone, nothing contradicts it: transformers would fill the gap with random numbers."""
    made = family("llama", num_hidden_layers=4)
    folders = changed(made, tmp_path, "a", lambda t: t.pop(UP.format(2)))
    notes = open_sources({"a": folders["a"]}).warnings()
    assert notes == [
        f"source 'a' lacks {UP.format(2)}, which its other layers have: so does the result"
    ]
    assert open_sources({"b": folders["b"]}).warnings() == []
