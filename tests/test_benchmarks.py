"""The benchmarks run and say what they should; their times are not judged here."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from benchmarks.chaos import plan_kills
from benchmarks.cluster import SIGMA, before_drain, best_possible, seconds_of
from benchmarks.models import Shape, save_models
from benchmarks.processes import run
from benchmarks.recipes import MERGEKIT, draw, moved_bytes
from search_spaces.rules import RULES

ROOT = Path(__file__).parent.parent
PRESETS = ("ties", "passthrough")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `python -m benchmarks.merge` prints at a tiny scale, without mergekit."""
    options = ["--scale", "16", "--no-rival", "--threads", "1", "--seconds", "0", "--growth", "4"]
    presets = [word for preset in PRESETS for word in ("--preset", preset)]
    models = ["--models", str(tmp_path_factory.mktemp("models"))]
    command = [sys.executable, "-m", "benchmarks.merge", "--json", *options, *presets, *models]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (only,) = done.stdout.splitlines()
    return json.loads(only)


def numbers(content: object) -> Iterator[float]:
    """Every number in `content`, however deep."""
    if isinstance(content, dict):
        for value in content.values():
            yield from numbers(value)
    elif isinstance(content, (int, float)):
        yield content


def test_line_has_a_figure_of_each_kind_for_each_preset(line: dict[str, Any]):
    assert line["benchmark"] == "merge"
    assert line["threads"] == 1
    assert line["experts"] == 3
    for figure in ("seconds", "prepare_seconds", "of_copy_bandwidth"):
        assert tuple(line[figure]) == PRESETS
    assert set(line["one_off"]) == {"ties"}
    assert line["vs_mergekit"] == line["rival_seconds"] == {}
    assert all(math.isfinite(number) and number >= 0 for number in numbers(line))


def test_shares_of_bandwidth_follow_from_the_seconds(line: dict[str, Any]):
    sources = {"ties": 4, "passthrough": 1}
    for preset, share in line["of_copy_bandwidth"].items():
        moved = 2 * line["parameters"] * (sources[preset] + 1)
        expected = moved / line["seconds"][preset] / (line["copy_gb_per_s"] * 1e9)
        assert 0 < share < 3  # tiny models live in caches and may beat a copy through memory
        assert share == pytest.approx(expected, rel=0.05, abs=2e-4)


def test_one_off_measures_a_whole_process(line: dict[str, Any]):
    for figures in line["one_off"].values():
        assert set(figures) == {"seconds", "peak_mb"}
        assert figures["seconds"] > 0.5  # no Python that imports torch is faster
        assert figures["peak_mb"] > 50


def test_growth_is_per_element_and_expert(line: dict[str, Any]):
    for by in ("experts", "parameters"):
        assert set(line["growth"][by]) == {"ties", "linear"}
    for costs in line["growth"]["experts"].values():
        assert set(costs) == {"2", "4"}
    for costs in line["growth"]["parameters"].values():
        assert len(costs) == 2


def test_shape_is_qwen(tmp_path: Path):
    """The default shape has as many parameters as Qwen2.5-0.5B; a divided one is a model, too."""
    shape = Shape()
    layer = shape.hidden * (2 * shape.hidden + 2 * 128 + 3 * shape.intermediate) + 3 * shape.hidden
    biases = 2 * 128
    assert shape.layers * (layer + biases) + (shape.vocabulary + 1) * shape.hidden == 494_032_768

    folders = save_models(tmp_path, shape.divided(16), 2)
    assert list(folders) == ["base", "expert1", "expert2"]
    tensors = []
    for folder in folders.values():
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            tensors.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    base, first, second = tensors
    change = first["model.embed_tokens.weight"].float() - base["model.embed_tokens.weight"].float()
    assert change.std().item() == pytest.approx(0.001, rel=0.1)
    assert not first["model.norm.weight"].equal(second["model.norm.weight"])


def test_complete_models_are_kept_and_incomplete_ones_made_again(tmp_path: Path):
    shape = Shape().divided(16)
    folder = save_models(tmp_path, shape, 1)["expert1"]
    weights = folder / "model.safetensors"
    content, written = weights.read_bytes(), weights.stat().st_mtime_ns
    save_models(tmp_path, shape, 1)
    assert weights.stat().st_mtime_ns == written
    (folder / "shape.json").unlink()
    weights.write_bytes(b"half a file")
    save_models(tmp_path, shape, 1)
    assert weights.read_bytes() == content


@pytest.mark.parametrize("preset", RULES)
def test_every_preset_has_recipes_to_measure(preset: str):
    drawn = [draw(preset, "base", ["a", "b", "c"], number) for number in (0, 1, 0)]
    assert drawn[0] == drawn[2]
    assert drawn[0].hash != drawn[1].hash
    assert moved_bytes(drawn[0], 10) == 20 * (len(drawn[0].sources) + 1)


def test_mergekit_presets_are_declared():
    assert set(MERGEKIT) <= set(RULES)


def test_peak_is_the_childs_own():
    """A child of a large process begins with its parent's peak: it must not be counted."""
    ballast = bytearray(os.urandom(1)) * 300_000_000
    idle = run([sys.executable, "-S", "-c", "pass"], 1)
    busy = run([sys.executable, "-S", "-c", "bytearray(b'x') * 100_000_000"], 1)
    assert len(ballast) == 300_000_000
    assert idle.peak_mb < 60
    assert 90 < busy.peak_mb - idle.peak_mb < 110


def test_a_failing_process_is_an_error_with_its_last_words():
    with pytest.raises(RuntimeError, match=r"ended with 3:\nlast words"):
        run([sys.executable, "-c", "import sys; sys.stderr.write('last words'); sys.exit(3)"], 1)


def test_cluster_line_has_both_schedules_on_real_workers():
    options = ["--workers", "4", "--median", "0.05", "--barrier-rounds", "4", "--rounds", "10"]
    command = [sys.executable, "-m", "benchmarks.cluster", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (only,) = done.stdout.splitlines()
    figures = json.loads(only)["workers"]["4"]
    assert figures["asynchronous"]["evaluations"] == 40
    barred = figures["generational"]
    # whole generations only: one cut short would have no barrier at its end
    assert {name: f["evaluations"] for name, f in barred.items()} == {
        "population_4": 16,
        "population_32": 32,
    }
    for search in (figures["asynchronous"], *barred.values()):
        assert 0 < search["utilisation"] <= 1
        assert search["driver_ms"] > 0
    assert set(figures["ratio"]) == set(barred)


def test_evaluation_times_are_log_normal_and_follow_from_the_hash():
    hashes = [f"{number * 2654435761 % 2**48:012x}" for number in range(4000)]
    logs = [math.log(seconds_of(each, 3.0)) for each in hashes]
    mean = sum(logs) / len(logs)
    assert mean == pytest.approx(math.log(3.0), abs=0.03)
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / len(logs))
    assert spread == pytest.approx(SIGMA, rel=0.05)
    assert seconds_of(hashes[7], 3.0) == seconds_of(hashes[7], 3.0) == 3 * seconds_of(hashes[7], 1)


def test_utilisation_by_hand():
    """Two workers: 2 s and 4 s from 0, 2 s from 3 (a second late). The last hand-out is at 3 s."""
    assert before_drain([0.0, 0.0, 3.0], [2.0, 4.0, 2.0], 2) == pytest.approx((2 + 3) / 6)
    assert best_possible([2.0, 4.0, 2.0], 2) == 1.0
    assert best_possible([1.0, 1.0, 2.0], 2) == pytest.approx(4 / 6)


def test_kills_are_apart_and_drivers_die_in_the_middle():
    """Two kills close together could hit a candidate three times: it would be recorded as lost."""
    kills = plan_kills(100, 8, 2, random.Random(3))
    moments = [moment for moment, _ in kills]
    assert min(b - a for a, b in pairwise(moments)) >= 4
    assert moments[0] > 0
    assert moments[-1] < 98
    assert [round(moment / 33) for moment, who in kills if who == "driver"] == [1, 2]
    assert sum(who == "evaluator" for _, who in kills) == 8
    assert plan_kills(100, 8, 2, random.Random(3)) == kills
    with pytest.raises(ValueError, match="use fewer"):
        plan_kills(20, 8, 2, random.Random(3))


def test_preflight_says_what_each_part_takes(tmp_path: Path):
    options = ["--models", str(tmp_path), "--scale", "16", "--no-dry-run", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preflight", *options],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["benchmark"] == "preflight"
    assert {"prepare", "sources", "kinship", "prompts"} <= set(found["seconds"])
    assert found["kinship_seconds"] > 0
