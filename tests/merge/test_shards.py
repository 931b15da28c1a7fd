"""Safetensors files written piece by piece, read by the library; pages of mapped files let go of."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from evomerge.merge import shards
from evomerge.merge.shards import Shape, release, write_shard

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {
        f"t{i}": (torch.randn(7, i + 1, 3, generator=generator) * 9).to(dtype)
        for i, dtype in enumerate(DTYPES)
    }
    return found | {"empty": torch.empty(0, 4), "scalar": torch.tensor(2.5), "é\n": torch.ones(1)}


def shapes(held: dict[str, torch.Tensor]) -> dict[str, Shape]:
    return {name: Shape(tuple(tensor.shape), tensor.dtype) for name, tensor in held.items()}


@pytest.mark.parametrize("piece", [1, 40, 10**6])
def test_the_library_reads_what_was_written_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
):
    monkeypatch.setattr(shards, "PIECE", piece)
    held = tensors()
    path = tmp_path / "model.safetensors"
    cut = [held[name][box] for name, shape in shapes(held).items() for box in shape.pieces()]
    assert (len(cut) > len(held)) is (piece < 10**6)
    write_shard(path, shapes(held), [part.contiguous() for part in cut])
    read = load_file(path)
    assert list(read) == list(held)
    for name, tensor in held.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_piece_too_few_is_noticed(tmp_path: Path):
    held = tensors()
    with pytest.raises(ValueError, match=r"\d+ bytes written, \d+ announced"):
        write_shard(tmp_path / "x", shapes(held), list(held.values())[1:])


def test_only_mapped_files_are_let_go_of(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    big = torch.arange(2**20, dtype=torch.float32)
    write_shard(path, {"big": Shape((2**20,), torch.float32)}, [big])
    mapped = safe_open(path, framework="pt").get_tensor("big")
    plain = big.clone()
    release([mapped, plain, mapped[3:5]])
    assert torch.equal(plain, big), "ordinary memory keeps its content"
    assert torch.equal(mapped, big), "and what was let go of is read again"
