"""Export: a recipe becomes a stock Hugging Face folder, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError

from evomerge.merge.boxes import boxed
from evomerge.merge.checkpoint import INDEX, SINGLE
from evomerge.merge.shards import PIECE, Shape, release, write_shard
from evomerge.merge.skeleton import write_tokenizer
from evomerge.merge.sources import Sources
from evomerge.merge.weights import MergedWeights, MergeError
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe

_SLACK_BYTES = 32 * 2**20
"""Room for everything but the weights."""


def write_model(
    recipe: Recipe,
    sources: Sources,
    out: Path,
    *,
    max_shard_bytes: float = 5e9,
    extra_files: Mapping[str, str] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Merge `recipe` into `out`, a folder that plain `transformers` loads.

    The same recipe over the same sources gives the same bytes. Tensors are made and written in
    pieces: no file is held in memory, and what was read of the sources is let go of. A
    temporary folder beside `out` is renamed in the end: `out` is whole or absent.

    Args:
        recipe: what to merge; its sources are names in `sources`.
        sources: opened sources.
        out: new or empty folder.
        max_shard_bytes: largest weight file; a larger tensor gets one of its own.
        extra_files: further files: name -> text.
        finish: is passed the temporary folder when all else is there; looks at it, adds to it. If it
            raises, there is no `out`.

    Raises:
        InputError: `out` holds something, is a file or below one, a link or a mount point, may not
            be written or does not fit the disk; the recipe does not fit the sources; a tensor came
            out with NaN or infinity (names it and the dtype); the source of `recipe.tokenizer` has none.
    """
    sources = sources.with_tokenizer(recipe.tokenizer, recipe.base)
    weights = MergedWeights(sources)
    weights.prepare(recipe)
    shapes = {n: Shape(weights.shape(n), weights.storage_dtype(n)) for n in weights.names()}
    with _whole_or_absent(out, sum(shape.bytes for shape in shapes.values())) as folder:
        try:
            _write_weights(weights, shapes, max_shard_bytes, folder)
        except MergeError as error:
            raise _not_finite(error, weights.dtype) from error
        _write_json(weights.output_config(), folder / "config.json")
        write_tokenizer(sources, recipe.sources[0], folder)
        for name, text in (extra_files or {}).items():
            if Path(name).name != name:
                raise ValueError(f"extra file {name!r}: a plain file name is needed")
            (folder / name).write_text(text, encoding="utf-8")
        if finish is not None:
            finish(folder)


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


def _not_finite(error: MergeError, dtype: torch.dtype) -> InputError:
    if error.finite:
        return InputError(
            f"tensor {error.tensor}", error.reason, "recipe", "change the weights or the rule"
        )
    narrow = dtype == torch.float16  # the other dtypes reach as far as float32
    return InputError(
        f"dtype {str(dtype).removeprefix('torch.')}",
        error.reason,
        f"tensor {error.tensor}",
        "choose another dtype: bfloat16 or float32"
        if narrow
        else "choose smaller weights, and check that the sources are finite",
    )


def _write_weights(
    weights: MergedWeights, shapes: Mapping[str, Shape], max_bytes: float, folder: Path
) -> None:
    sizes = {name: shape.bytes for name, shape in shapes.items()}
    parts = shards(sizes, max_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors" if len(parts) > 1 else SINGLE
        held = {name: shapes[name] for name in names}
        write_shard(folder / file, held, _pieces(weights, held))
        weight_map |= dict.fromkeys(names, file)
    if len(parts) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        _write_json(index, folder / INDEX)


def _pieces(weights: MergedWeights, shapes: Mapping[str, Shape]) -> Iterator[torch.Tensor]:
    """The tensors one after the other, large ones cut; what was read for one is let go of.

    A piece is gone when the next is asked for: they share memory.
    """
    memory = torch.empty(PIECE, dtype=torch.uint8)
    for name, shape in shapes.items():
        weights.check_finite(name)
        for box in shape.pieces():
            sizes = boxed(shape.sizes, box)
            size = prod(sizes) * shape.dtype.itemsize
            room = memory if size <= PIECE else torch.empty(size, dtype=torch.uint8)
            piece = room[:size].view(shape.dtype).view(sizes)
            weights.write(name, piece, box)
            yield piece
        release(weights.mapped(name))


def _write_json(content: object, path: Path) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _whole_or_absent(out: Path, weight_bytes: int) -> Iterator[Path]:
    """A temporary folder that becomes `out` if the block succeeds and vanishes if it does not."""
    where = f"output folder {out}"
    try:
        temporary = _begin(out, weight_bytes)
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


def require_new(out: Path) -> None:
    """Refuse an output folder that holds something, is a file, or cannot be put in place by renaming.

    Raises:
        InputError: names it.
    """
    where = f"output folder {out}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            str(out), "the output folder must be new or empty", where, "name another, or remove it"
        )
    if out.name in ("", "..") or out.is_symlink() or out.is_mount():
        inside = f"name a new folder inside it, such as {out / 'model'}"
        raise InputError(
            str(out),
            "a new folder takes its place in the end, which '.', '..', links and mount points forbid",
            where,
            inside if out.is_dir() else "name another, or remove the link",
        )


def _begin(out: Path, weight_bytes: int) -> Path:
    """The temporary folder, if `out` may become what it will be and fits."""
    require_new(out)
    where = f"output folder {out}"
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    temporary = out.parent / f".{out.name}.{os.getpid()}.partial"
    temporary.mkdir()
    free, needed = shutil.disk_usage(out.parent).free, weight_bytes + _SLACK_BYTES
    if free < needed:
        temporary.rmdir()
        raise _disk_full(f"{needed / 1e6:.0f} MB to write, {free / 1e6:.0f} MB free", where)
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
    # EFBIG: a limit on the size of files (ulimit -f), or a file system's.
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, OSError) and error.errno in full


def _disk_full(passed: str, where: str) -> InputError:
    return InputError(
        passed, "the whole model must fit", where, "free some space, or write to another disk"
    )
