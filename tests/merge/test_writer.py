"""Export: what is written is what is scored; whole or absent; the same bytes every time."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.merge import writer
from evomerge.merge.hub import resolve_model
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from evomerge.merge.writer import require_new, shards, write_model
from search_spaces.dialect import dump_recipe, parse_recipe
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from tests.merge.models import KINDS, Family
from tests.merge.plans import recipe_of


def ties(**options) -> Recipe:
    own = {"weight": 0.7, "density": 0.4}
    return recipe_of("ties", {"a": own, "b": own}, **options)


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.mark.parametrize("shard_bytes", [5e9, 20_000])
def test_written_is_scored(tmp_path: Path, family: Callable[..., Family], shard_bytes: float):
    """Every tensor of the folder is, bit for bit, what the engine was given."""
    sources = open_sources(family("llama", torch.bfloat16).folders)
    out = tmp_path / "new" / "out"
    write_model(ties(), sources, out, max_shard_bytes=shard_bytes)
    weights = MergedWeights(sources)
    weights.prepare(ties())
    written = read_all(out)
    assert set(written) == set(weights.names())
    assert all(torch.equal(written[name], weights.tensor(name)) for name in written)
    assert [p.name for p in out.parent.iterdir()] == ["out"], "no temporary folder is left"


@pytest.mark.parametrize("kind", KINDS)
def test_loads_in_transformers_with_the_resident_models_logits(
    tmp_path: Path, family: Callable[..., Family], kind: str
):
    made = family(kind)
    sources = open_sources(made.folders)
    write_model(ties(), sources, tmp_path / "out", max_shard_bytes=30_000)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    weights = MergedWeights(sources)
    weights.prepare(ties())
    state = {name: weights.tensor(name) for name in weights.names()}
    resident = type(loaded).from_pretrained(None, config=loaded.config, state_dict=state)
    base = AutoModelForCausalLM.from_pretrained(made.folders["base"])
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, resident(tokens).logits)
    assert any(loaded(tokens).logits[0, 0] != base(tokens).logits[0, 0])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(made.folders["base"]).get_vocab()


def test_another_depth_loads(tmp_path: Path, family: Callable[..., Family]):
    sources = open_sources(family("qwen2").folders)
    recipe = recipe_of("linear", {"a": {"weight": 1.0}}, spans=[(0, 3), (1, 3)], dtype="bfloat16")
    write_model(recipe, sources, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 5
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        assert bool(model(torch.arange(5).view(1, 5)).logits.isfinite().all())


def test_same_recipe_same_bytes(tmp_path: Path, family: Callable[..., Family]):
    """Also from freshly opened sources, in another folder, and with random masks."""
    own = {"weight": 0.7, "density": 0.4}
    recipe = recipe_of("dare_ties", {"a": own, "b": own}, seed=11)
    for name in ("one", "two"):
        sources = open_sources(family("llama").folders)
        extra = {"recipe.yaml": "x: ü\n"}
        write_model(recipe, sources, tmp_path / name, max_shard_bytes=30_000, extra_files=extra)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert (tmp_path / "one" / "recipe.yaml").read_text(encoding="utf-8") == "x: ü\n"


def test_same_bytes_with_another_number_of_threads(tmp_path: Path, family: Callable[..., Family]):
    own = {"weight": 0.7, "density": 0.4}
    recipe = recipe_of("dare_linear", {"a": own, "b": own})
    sources = open_sources(family("llama", vocab_size=4096).folders)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        write_model(recipe, sources, tmp_path / str(threads))
    torch.set_num_threads(1)
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


def test_files_are_what_transformers_expects(tmp_path: Path, family: Callable[..., Family]):
    made = family("llama")
    write_model(ties(), open_sources(made.folders), tmp_path / "out", max_shard_bytes=20_000)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= names
    assert "model.safetensors.index.json" in names
    part = next((tmp_path / "out").glob("model-00001-of-*.safetensors"))
    with safe_open(part, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert open_sources({"again": tmp_path / "out"}).layers == 3, "and it is a source itself"


def test_shards_are_full_but_not_over():
    sizes = {"a": 4, "b": 4, "c": 3, "huge": 40, "d": 1}
    assert shards(sizes, 8) == [["a", "b"], ["c"], ["huge"], ["d"]]
    assert shards(sizes, 100) == [list(sizes)]


# --- whole or absent --------------------------------------------------------------------------------


def test_what_is_there_is_not_overwritten(tmp_path: Path, family: Callable[..., Family]):
    sources = open_sources(family("llama").folders)
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="must be new or empty"):
        write_model(ties(), sources, out)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    write_model(ties(), sources, out)
    assert (out / "config.json").is_file(), "an empty folder is fine"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be new or empty"):
        write_model(ties(), sources, tmp_path / "file")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("link", "name a new folder inside it, such as link/model"),
        ("mount", "name a new folder inside it, such as mount/model"),
        ("dangling", "name another, or remove the link"),
    ],
)
def test_out_that_no_folder_can_be_renamed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str
):
    """It was merged and verified, and lost at the very end."""
    for folder in ("real", "mount"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "mount")
    with pytest.raises(InputError, match=said):
        require_new(Path(out))


def test_the_current_folder_is_no_output_even_when_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"name a new folder inside it, such as model"):
        require_new(Path("."))


@pytest.mark.parametrize("below", ["out", "deep/out"])
def test_out_below_a_file(tmp_path: Path, family: Callable[..., Family], below: str):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / below
    with pytest.raises(InputError, match=r"it cannot be made \(.*name a folder that you may write"):
        write_model(ties(), open_sources(family("llama").folders), out)
    assert (tmp_path / "file").read_text() == "mine"


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without the superuser's right to write anywhere, where the tests have it; `folder` is open."""
    user = os.geteuid()
    closed = [p for p in folder.parents if user == 0 and not p.stat().st_mode & 0o001]
    for parent in closed:
        parent.chmod(parent.stat().st_mode | 0o001)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for parent in closed:
            parent.chmod(parent.stat().st_mode & ~0o001)


@pytest.mark.parametrize("name", ["out", "new/out"])
def test_no_permission_to_write(tmp_path: Path, family: Callable[..., Family], name: str):
    sources = open_sources(family("llama").folders)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    message = r"it cannot be made \(Permission denied: .*locked"
    with as_nobody(locked), pytest.raises(InputError, match=message):
        write_model(ties(), sources, locked / name)
    assert list(locked.iterdir()) == []


def overflowing(dtype: str) -> Recipe:
    return recipe_of("linear", {"a": {"weight": 1e30}}, normalize=False, dtype=dtype)


def test_an_overflow_names_the_tensor_and_the_remedy(tmp_path: Path, family: Callable[..., Family]):
    """It reached the command line as a traceback."""
    sources = open_sources(family("llama").folders)
    out = tmp_path / "out"
    with pytest.raises(
        InputError,
        match=r"^tensor model\.embed_tokens\.weight: dtype float16: .*NaN or infinity in float16; "
        r"choose another dtype: bfloat16 or float32",
    ):
        write_model(overflowing("float16"), sources, out)
    assert list(tmp_path.iterdir()) == []
    write_model(overflowing("bfloat16"), sources, out)
    assert open_sources({"out": out}).dtype("out") == torch.bfloat16


def test_an_overflow_of_the_widest_type(tmp_path: Path, family: Callable[..., Family]):
    recipe = recipe_of(
        "linear",
        {"a": {"weight": 3e38}, "b": {"weight": 3e38}},
        normalize=False,
        dtype="float32",
    )
    with pytest.raises(InputError, match=r"infinity in float32; choose smaller weights"):
        write_model(recipe, open_sources(family("llama").folders), tmp_path / "out")


def test_the_tokenizer_of_a_source_that_has_none(tmp_path: Path, llama_copy: Family):
    for path in llama_copy.folders["b"].glob("*token*"):
        path.unlink()
    sources = open_sources(llama_copy.folders)
    with pytest.raises(InputError, match=r"tokenizer of 'b': this source has none"):
        write_model(replace(ties(), tokenizer="b"), sources, tmp_path / "out")
    write_model(replace(ties(), tokenizer="a"), sources, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["e++", "maths+code", "a@b"])
def test_a_recipe_of_paths_with_plus_is_dumped_read_and_merged(
    tmp_path: Path, llama_copy: Family, name: str
):
    """The models lie below /tmp/e++: from the recipe's text to a merged folder."""
    folders = {
        old: Path(shutil.copytree(folder, tmp_path / name / old))
        for old, folder in llama_copy.folders.items()
    }
    text = dump_recipe(ties().renamed({old: str(path) for old, path in folders.items()}))
    recipe = parse_recipe(text, "recipe.yaml")
    found = {source: resolve_model(source, tmp_path) for source in recipe.sources}
    assert list(found.values()) == [path.resolve() for path in folders.values()]
    sources = open_sources(found)
    sources.check_compatible()
    write_model(recipe, sources, tmp_path / "out")
    plain = tmp_path / "plain"
    write_model(ties(), open_sources(folders), plain)
    assert digests(tmp_path / "out") == digests(plain)


@pytest.mark.parametrize(
    "failing", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failure_midway_leaves_nothing(
    tmp_path: Path,
    family: Callable[..., Family],
    monkeypatch: pytest.MonkeyPatch,
    failing: BaseException,
):
    write = writer.write_shard

    def fails_in_the_second(path, shapes, pieces):
        first, *rest = pieces
        if "00002" in path.name:
            path.write_bytes(b"begun")
            raise failing
        write(path, shapes, [first, *rest])

    monkeypatch.setattr(writer, "write_shard", fails_in_the_second)
    sources = open_sources(family("llama").folders)
    full = isinstance(failing, OSError)
    with pytest.raises(InputError if full else KeyboardInterrupt) as caught:
        write_model(ties(), sources, tmp_path / "out", max_shard_bytes=30_000)
    assert list(tmp_path.iterdir()) == []
    assert not full or "free some space" in str(caught.value)


def test_too_little_space_is_said_first(
    tmp_path: Path, family: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(writer, "_SLACK_BYTES", free + 2**30)
    with pytest.raises(InputError, match=r"\d+ MB to write, \d+ MB free: the whole model must fit"):
        write_model(ties(), open_sources(family("llama").folders), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from evomerge.merge import writer
from evomerge.merge.hub import resolve_model
from evomerge.merge.sources import open_sources
from tests.merge.plans import recipe_of

write = writer.write_shard
def dies_at_the_second(path, tensors, pieces):
    if "00002" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, tensors, pieces)
writer.write_shard = dies_at_the_second
names = ("base", "a", "b")
recipe = recipe_of("linear", {"a": {"weight": 1.0}, "b": {"weight": 1.0}})
sources = open_sources({name: Path(path) for name, path in zip(names, sys.argv[2:])})
writer.write_model(recipe, sources, Path(sys.argv[1]), max_shard_bytes=30_000)
"""


def test_killed_midway_out_is_absent_and_can_be_written_again(
    tmp_path: Path, family: Callable[..., Family]
):
    made = family("llama")
    out = tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, str(out), *map(str, made.folders.values())]
    died = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL
    assert not out.exists()
    assert any(tmp_path.glob(".out.*.partial")), "it was in the middle of writing"
    write_model(ties(), open_sources(made.folders), out)
    assert not any(tmp_path.glob(".out.*.partial")), "what was left behind is gone"
    assert (out / "model.safetensors").stat().st_mode & 0o044, "others may read it"
    assert set(read_all(out)) == set(open_sources(made.folders).names_of("base"))
