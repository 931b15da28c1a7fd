"""The fingerprint: what may change an answer changes it, what cannot does not."""

import copy
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evomerge.merge.locations import Location
from evomerge.run_file import parse_run_file
from evomerge.runs import fingerprint as module
from evomerge.runs.fingerprint import fingerprint

ROOT = Path(__file__).parents[2]


class Workspace:
    """A run file, its two sources and its tasks, all in one folder."""

    def __init__(self, folder, quickstart):
        self.folder = folder
        models = quickstart["models"]
        for name, path in {"base": models["base"], **models["experts"]}.items():
            if name in ("base", "lunari", "tovek"):
                shutil.copytree(path, folder / name)
        shutil.copytree(quickstart["fitness"]["include"], folder / "tasks")
        self.content = {
            "models": {"base": "base", "experts": {"lunari": "lunari", "tovek": "tovek"}},
            "fitness": {"include": "tasks", "tasks": {"sums": {"items": 8}}},
            "cluster": {"executor": "serial"},
        }
        self.names = ["base", "lunari", "tovek"]
        self.loras = {}

    @property
    def locations(self):
        return {n: Location(self.folder / n, self.loras.get(n)) for n in self.names}

    def fingerprint(self, exact=False):
        config = parse_run_file(copy.deepcopy(self.content), "run.yaml")
        return fingerprint(config, self.folder, self.locations, exact=exact)

    def set(self, key, value):
        section = self.content
        *path, last = key.split(".")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value


@pytest.fixture
def workspace(tmp_path, quickstart):
    return Workspace(tmp_path / "workspace", quickstart)


def test_the_same_wherever_it_lies(workspace, tmp_path):
    before = workspace.fingerprint()
    assert workspace.fingerprint() == before
    shutil.move(workspace.folder, tmp_path / "elsewhere")
    workspace.folder = tmp_path / "elsewhere"
    (workspace.folder / "base").rename(workspace.folder / "renamed")
    (workspace.folder / "base").symlink_to("renamed")
    assert workspace.fingerprint() == before


def test_the_same_in_any_process(workspace, tmp_path):
    code = tmp_path / "code"  # a copy: what is worked on may change under a process
    for package in ("evomerge", "fitness", "search_spaces"):
        shutil.copytree(ROOT / package, code / package)
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from evomerge.merge.locations import Location\n"
        "from evomerge.run_file import parse_run_file\n"
        "from evomerge.runs.fingerprint import fingerprint\n"
        "content, folder, names = json.loads(sys.argv[1])\n"
        "locations = {name: Location(Path(folder, name)) for name in names}\n"
        "config = parse_run_file(content, 'run.yaml')\n"
        "print(fingerprint(config, Path(folder), locations, exact=False))\n"
    )
    argument = json.dumps([workspace.content, str(workspace.folder), workspace.names])
    found = [
        subprocess.run(
            [sys.executable, "-c", program, argument],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(code)},
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    ]  # fmt: skip
    assert len(found[0]) == 64
    assert len(set(found)) == 1


def test_the_same_when_a_run_is_continued(workspace):
    """A run's own copy of its run file names every key, with its default."""
    for cluster in ({"executor": "serial"}, {"executor": "ray", "gpus_per_evaluator": 1}):
        workspace.set("cluster", cluster)
        workspace.set("engine", {"source_memory": 1, "max_model_len": 64})
        before = workspace.fingerprint()
        config = parse_run_file(copy.deepcopy(workspace.content), "run.yaml")
        written = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True))
        workspace.content = yaml.safe_load(written)
        assert workspace.fingerprint() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("search.seed", 7),
        ("search.budget.evaluations", 50),
        ("fitness.tasks.sums.items", 12),
        ("fitness.objectives", [{"cost": "tokens"}]),
        ("export.pick", "best:sums"),
        ("cluster.evaluators", 3),
        ("cluster.deadline_seconds", 5),
        ("space.weight", [0, 2]),
    ],
)
def test_what_makes_no_answer_makes_no_difference(workspace, key, value):
    before = workspace.fingerprint()
    workspace.set(key, value)
    assert workspace.fingerprint() == before


def test_files_that_are_not_read_make_no_difference(workspace):
    before = workspace.fingerprint()
    (workspace.folder / "lunari" / "README.md").write_text("notes")
    (workspace.folder / "lunari" / "model.gguf").write_bytes(b"another format")
    (workspace.folder / "lunari" / "modeling.py").write_text("no code of a model's is run")
    os.utime(workspace.folder / "lunari" / "model.safetensors")
    assert workspace.fingerprint() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine.dtype", "bfloat16"),
        ("engine.device", "cpu"),
        ("engine.max_model_len", 64),
        ("engine.batch_tokens", 512),
        ("engine.source_memory", 1.5),
        ("engine.trust_remote_code", True),
        ("engine.kind", "vllm"),
        ("models.tokenizer", "lunari"),
        ("cluster", {"executor": "ray"}),
    ],
)
def test_a_setting_that_may_change_answers_counts(workspace, key, value):
    before = workspace.fingerprint()
    workspace.set(key, value)
    assert workspace.fingerprint() != before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine.tensor_parallel", 2),
        ("engine.arguments", {"block_size": 16}),
        ("engine.sampling", {"repetition_penalty": 1.1}),
    ],
)
def test_a_setting_of_vllm_counts(workspace, key, value):
    workspace.set("engine.kind", "vllm")
    before = workspace.fingerprint()
    workspace.set(key, value)
    assert workspace.fingerprint() != before


@pytest.mark.parametrize(
    ("key", "value"),
    [("address", "ray://head:10001"), ("cpus_per_evaluator", 2), ("gpus_per_evaluator", 0)],
)
def test_where_evaluators_are_and_their_share_count(workspace, key, value):
    workspace.set("cluster", {"executor": "ray"})
    before = workspace.fingerprint()
    workspace.set(f"cluster.{key}", value)
    assert workspace.fingerprint() != before


def test_merging_exactly_counts(workspace):
    assert workspace.fingerprint(exact=True) != workspace.fingerprint(exact=False)


def _flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _weights(workspace):
    path = workspace.folder / "tovek" / "model.safetensors"
    before = path.stat()
    _flip_last_byte(path)
    assert path.stat().st_size == before.st_size


def _config(workspace):
    path = workspace.folder / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 5.0}))


def _tokenizer(workspace):
    path = workspace.folder / "lunari" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")


def _merges(workspace):
    (workspace.folder / "lunari" / "merges.txt").write_text("a b")


def _swap(workspace):
    for old, new in (("lunari", "third"), ("tovek", "lunari"), ("third", "tovek")):
        (workspace.folder / old).rename(workspace.folder / new)


def _order(workspace):
    workspace.names = ["base", "tovek", "lunari"]


def _another_source(workspace):
    shutil.copytree(workspace.folder / "lunari", workspace.folder / "more")
    workspace.names.append("more")


def _adapter(workspace):
    workspace.loras["lunari"] = workspace.folder / "adapter"
    workspace.loras["lunari"].mkdir()
    (workspace.folder / "adapter" / "adapter_config.json").write_text("{}")
    (workspace.folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")


def _task_code(workspace):
    (workspace.folder / "tasks" / "helpers.py").write_text("def clean(text): return text")


@pytest.mark.parametrize(
    "change",
    [
        _weights, _config, _tokenizer, _merges, _swap, _order, _another_source, _adapter, _task_code,
    ],
)  # fmt: skip
def test_contents_of_sources_and_tasks_count(workspace, change):
    before = workspace.fingerprint()
    change(workspace)
    assert workspace.fingerprint() != before


def test_an_adapter_s_contents_count(workspace):
    _adapter(workspace)
    before = workspace.fingerprint()
    _flip_last_byte(workspace.folder / "adapter" / "adapter_model.safetensors")
    assert workspace.fingerprint() != before


def test_a_model_s_own_code_counts_where_it_is_run(workspace):
    workspace.set("engine.trust_remote_code", True)
    before = workspace.fingerprint()
    (workspace.folder / "base" / "modeling.py").write_text("code")
    assert workspace.fingerprint() != before


def test_code_beside_a_task_file_that_is_included_counts(workspace):
    shared = workspace.folder / "shared"
    shared.mkdir()
    (workspace.folder / "tasks" / "sums.yaml").rename(shared / "common.yaml")
    text = (
        (shared / "common.yaml")
        .read_text()
        .replace("task: sums", "")
        .replace("sums.jsonl", "../tasks/sums.jsonl")
    )
    (shared / "common.yaml").write_text(text)
    (workspace.folder / "tasks" / "sums.yaml").write_text(
        "include: ../shared/common.yaml\ntask: sums\n"
    )
    before = workspace.fingerprint()
    (shared / "helpers.py").write_text("def clean(text): return text")
    assert workspace.fingerprint() != before


@pytest.mark.parametrize("package", ["torch", "transformers", "vllm", "lm-eval", "numpy", "numba"])
def test_a_package_s_version_counts(workspace, monkeypatch, package):
    before = workspace.fingerprint()
    real = importlib.metadata.version
    monkeypatch.setattr(module, "version", lambda p: "99.0" if p == package else real(p))
    assert workspace.fingerprint() != before


@pytest.mark.parametrize("package", ["evomerge", "fitness", "search_spaces"])
def test_a_line_of_our_code_counts(workspace, monkeypatch, tmp_path, package):
    """A checkout has one version for many states."""
    copied = tmp_path / package
    shutil.copytree(ROOT / package, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sys.modules[package], "__path__", [str(copied)])
    module._code.cache_clear()
    before = workspace.fingerprint()
    module._code.cache_clear()
    with (copied / "errors.py").open("a") as file:
        file.write("# another line\n")
    assert workspace.fingerprint() != before
    module._code.cache_clear()


@pytest.mark.parametrize("name", ["NVIDIA_TF32_OVERRIDE", "VLLM_ATTENTION_BACKEND"])
def test_the_environment_of_the_libraries_counts(workspace, monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    before = workspace.fingerprint()
    monkeypatch.setenv(name, "1")
    assert workspace.fingerprint() != before


def test_what_the_vllm_engine_sets_makes_no_difference(workspace, monkeypatch):
    """The first start sets it before the fingerprint is taken, a resume afterwards."""
    from fitness.engines.vllm.engine import prepare_environment

    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = workspace.fingerprint()
    prepare_environment(2)
    os.environ["VLLM_PLUGINS"] = "mine"
    prepare_environment(1)
    assert workspace.fingerprint() == before


GPU = "GPU {}: NVIDIA {} (UUID: GPU-6b2c{}-aa)\n"
MIG = "  MIG 1g.18gb     Device  {}: (UUID: MIG-{})\n"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (GPU.format(0, "H200", 1) + GPU.format(1, "H200", 2), ["NVIDIA H200"]),
        (
            GPU.format(0, "L4", 1) + GPU.format(1, "A10", 2),
            ["NVIDIA A10", "NVIDIA L4", "visible", "1"],
        ),
        (
            GPU.format(0, "H200", 1) + MIG.format(0, 1) + MIG.format(1, 2),
            ["MIG 1g.18gb", "NVIDIA H200", "visible", "1"],
        ),
    ],
)
def test_gpus_count_by_kind(tmp_path, monkeypatch, listed, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert module._gpu_names() == expected
