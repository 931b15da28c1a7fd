"""Sources made for checks: the quickstart's models, changed in a way that a check has to notice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.conftest import QUICKSTART

MODELS = QUICKSTART / "models"
Tensors = dict[str, torch.Tensor]


def copied(out: Path, of: str, change: Callable[[Tensors], None] | None = None) -> Path:
    """A copy of a quickstart model, its weights changed in place; gives its folder."""
    shutil.copytree(MODELS / of, out)
    if change is not None:
        tensors = load_file(out / "model.safetensors")
        change(tensors)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def weights(of: Path | str) -> Tensors:
    """A model's tensors, float32."""
    folder = MODELS / of if isinstance(of, str) else of
    return {n: t.float() for n, t in load_file(folder / "model.safetensors").items()}


def flat(tensors: Tensors) -> torch.Tensor:
    """All matrices as one vector, float64."""
    return torch.cat(
        [tensors[n].double().reshape(-1) for n in sorted(tensors) if tensors[n].ndim > 1]
    )


def permuted(tensors: Tensors) -> None:
    """Reorder the neurons of every feed-forward layer: the same function, by other weights."""
    generator = torch.Generator().manual_seed(0)
    for name in [n for n in tensors if n.endswith("mlp.down_proj.weight")]:
        order = torch.randperm(tensors[name].shape[1], generator=generator)
        tensors[name] = tensors[name][:, order].contiguous()
        for part in ("gate_proj", "up_proj"):
            other = name.replace("down_proj", part)
            tensors[other] = tensors[other][order].contiguous()


def noise(tensors: Tensors) -> None:
    """Forget everything: other numbers of the same size."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if tensor.ndim > 1:
            drawn = torch.randn(tensor.shape, generator=generator) * tensor.float().std()
            tensors[name] = drawn.to(tensor.dtype)
