"""Export: a recipe becomes a stock Hugging Face folder, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from evomerge.merge.checkpoint import INDEX, SINGLE
from evomerge.merge.sources import Sources
from evomerge.merge.vocabulary import has_tokenizer
from evomerge.merge.weights import MergedWeights, MergeError
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_TEMPLATES = "additional_chat_templates"
_SLACK_BYTES = 32 * 2**20
"""Room for everything but the weights."""


def write_model(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    *,
    max_shard_bytes: float = 5e9,
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Merge `recipe` into `out`, a folder that plain `transformers` loads.

    The same recipe over the same sources gives the same bytes. At most one shard is in memory. A
    temporary folder beside `out` is renamed in the end: `out` is whole or absent.

    Args:
        recipe: what to merge; its sources are names in `sources`.
        sources: opened sources.
        out: new or empty folder.
        max_shard_bytes: largest weight file; a larger tensor gets one of its own.
        extra_files: further files: name -> text.

    Raises:
        InputError: `out` holds something, is a file or below one, may not be written or does not
            fit the disk; the recipe does not fit the sources; a tensor came out with NaN or
            infinity (names it and the dtype); the source of `recipe.tokenizer` has none.
    """
    weights = MergedWeights(sources)
    weights.prepare(recipe)
    _check_tokenizer(recipe, sources)
    sizes = {name: _bytes(weights, name) for name in weights.names()}
    with _whole_or_absent(out, sum(sizes.values())) as folder:
        try:
            _write_weights(weights, sizes, max_shard_bytes, folder)
        except MergeError as error:
            raise _not_finite(error, weights.dtype) from error
        _write_json(weights.output_config(), folder / "config.json")
        first = recipe.sources[0]
        _copy(sources.folder(first), folder, ["generation_config.json"])
        _copy(sources.folder(recipe.tokenizer or first), folder, _TOKENIZER_FILES)
        for name, text in (extra_files or {}).items():
            if Path(name).name != name:
                raise ValueError(f"extra file {name!r}: a plain file name is needed")
            (folder / name).write_text(text, encoding="utf-8")


def shards(sizes: Mapping[str, int], max_bytes: float) -> list[list[str]]:
    """Names in order, cut into runs of at most `max_bytes` (or one tensor that is larger)."""
    result: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if result[-1] and used + size > max_bytes:
            result.append([])
            used = 0
        result[-1].append(name)
        used += size
    return result


def _check_tokenizer(recipe: Recipe, sources: Sources) -> None:
    name = recipe.tokenizer
    if name is not None and not has_tokenizer(sources.folder(name)):
        raise InputError(
            f"tokenizer of '{name}'",
            "this source has none",
            f"source {name} ({sources.folder(name)})",
            "name another source",
        )


def _not_finite(error: MergeError, dtype: torch.dtype) -> InputError:
    narrow = dtype == torch.float16  # the other dtypes reach as far as float32
    return InputError(
        f"dtype {str(dtype).removeprefix('torch.')}",
        error.reason,
        f"tensor {error.tensor}",
        "choose another dtype: bfloat16 or float32"
        if narrow
        else "choose smaller weights, and check that the sources are finite",
    )


def _bytes(weights: MergedWeights, name: str) -> int:
    return torch.Size(weights.shape(name)).numel() * weights.storage_dtype(name).itemsize


def _write_weights(
    weights: MergedWeights, sizes: Mapping[str, int], max_bytes: float, folder: Path
) -> None:
    parts = shards(sizes, max_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors" if len(parts) > 1 else SINGLE
        tensors = {name: weights.tensor(name) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        del tensors
        (folder / file).chmod(0o644)  # safetensors makes files only their owner can read
        weight_map |= dict.fromkeys(names, file)
    if len(parts) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        _write_json(index, folder / INDEX)


def _write_json(content: object, path: Path) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if "tokenizer.json" in names and (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, target / _TEMPLATES)


@contextmanager
def _whole_or_absent(out: Path, weight_bytes: int) -> Iterator[Path]:
    """A temporary folder that becomes `out` if the block succeeds and vanishes if it does not."""
    where = f"output folder {out}"
    try:
        temporary = _begin(out, weight_bytes, where)
    except OSError as error:
        if _is_disk_full(error):
            raise _disk_full("there is no space at all", where) from error
        raise InputError(
            str(out),
            f"it cannot be made ({error.strerror}: {error.filename})",
            where,
            "name a folder that you may write, in a folder",
        ) from error
    try:
        yield temporary
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_disk_full(error):
            raise _disk_full("the disk filled up while writing", where) from error
        raise


def _begin(out: Path, weight_bytes: int, where: str) -> Path:
    """The temporary folder, if `out` may become what it will be and fits."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            str(out), "the output folder must be new or empty", where, "name another, or remove it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < weight_bytes + _SLACK_BYTES:
        raise _disk_full(f"{weight_bytes / 1e9:.2f} GB of weights, {free / 1e9:.2f} GB free", where)
    _remove_leftovers(out)
    temporary = out.parent / f".{out.name}.{os.getpid()}.partial"
    temporary.mkdir()
    return temporary


def _remove_leftovers(out: Path) -> None:
    """Remove what earlier writers of `out` left behind when they were killed."""
    for leftover in out.parent.glob(f".{out.name}.*.partial"):
        writer = leftover.name.split(".")[-2]
        if writer == str(os.getpid()) or not Path("/proc", writer).exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, SafetensorError):  # wraps the operating system's error as text
        return os.strerror(errno.ENOSPC) in str(error) or f"os error {errno.ENOSPC}" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _disk_full(passed: str, where: str) -> InputError:
    return InputError(
        passed, "the whole model must fit", where, "free some space, or write to another disk"
    )
