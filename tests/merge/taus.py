"""Deltas of all kinds, for what counts and sums over them."""

from collections.abc import Callable

import torch

from evomerge.merge.deltas import Delta, Origin

Kinds = dict[str, Callable[[], Delta]]


def _normal(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def _tuned(count: int, dtype: torch.dtype, step: float, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """A fine-tune and its base, stored in `dtype`: their difference has few values."""
    base = (_normal(count, seed) * 0.02).to(dtype)
    return (base.float() + _normal(count, seed + 1) * step).to(dtype), base


def _delta(theta: torch.Tensor, *reference: torch.Tensor) -> Delta:
    return Delta(theta, reference)


def _wide(count: int) -> torch.Tensor:
    """Every power of two that float32 has, subnormals included."""
    exponents = torch.randint(-149, 128, (count,), generator=torch.Generator().manual_seed(5))
    signs = _normal(count, 6).sign().double()
    return (signs * 1.4142135 * 2.0 ** exponents.double()).clamp(-3e38, 3e38).float()


def _mean_of_three(count: int) -> Delta:
    thetas = [_tuned(count, d, 1e-3, i)[0] for i, d in enumerate(HALVES)]
    return Delta(thetas[0], thetas)


HALVES = (torch.bfloat16, torch.float16, torch.float32)
LARGE = 70_001  # beyond what is sorted
KINDS: Kinds = {
    "float32": lambda: _delta(_normal(LARGE, 1)),
    "float32, small": lambda: _delta(_normal(3000, 1)),
    "bfloat16": lambda: _delta(*_tuned(LARGE, torch.bfloat16, 1e-3)),
    "bfloat16, hardly tuned": lambda: _delta(*_tuned(LARGE, torch.bfloat16, 3e-5)),
    "bfloat16, sorted": lambda: _delta(*_tuned(9000, torch.bfloat16, 3e-5)),
    "bfloat16, no base": lambda: _delta(_tuned(LARGE, torch.bfloat16, 1e-3)[0]),
    "float16": lambda: _delta(*_tuned(LARGE, torch.float16, 1e-4)),
    "float64": lambda: _delta(*(t.double() for t in _tuned(LARGE, torch.float32, 1e-3))),
    "two types": lambda: _delta(_normal(LARGE, 1).half(), _normal(LARGE, 2).bfloat16()),
    "mean reference": lambda: _mean_of_three(LARGE),
    "few odd values": lambda: _delta(torch.tensor([0.1, -0.3, 0.3000001, 0.7]).repeat(LARGE // 4)),
    "odd values in one bin": lambda: _delta(1 + torch.arange(LARGE).remainder(7) * 2.0**-23),
    "constant": lambda: _delta(torch.full((LARGE,), -0.1)),
    "zero": lambda: _delta(torch.zeros(LARGE)),
    "nearly all zero": lambda: _delta(_normal(LARGE, 2) * (torch.arange(LARGE) % 997 == 0)),
    "one large": lambda: _delta(torch.cat((_normal(LARGE, 3) * 1e-6, torch.tensor([1e4])))),
    "huge range": lambda: _delta(_wide(LARGE)),
    "huge range, small": lambda: _delta(_wide(3000)),
    "subnormal": lambda: _delta(_normal(LARGE, 4) * 1e-42),
    "one element": lambda: _delta(torch.tensor([-2.5])),
    "one zero": lambda: _delta(torch.zeros(1)),
    "4096": lambda: _delta(_normal(4096, 7)),
    "4097": lambda: _delta(_normal(4097, 7)),
    "65537": lambda: _delta(_normal(65537, 8)),
}  # fmt: skip
"""Name -> a new delta."""


def named(delta: Delta, *tensor: str) -> Delta:
    """The delta with a key."""
    delta.key = tuple(Origin("content", part, lasting=True) for part in tensor)
    return delta


def tau(delta: Delta) -> torch.Tensor:
    """All of a delta, by the definition: float32, every operation rounded once."""
    theta = delta.theta.float()
    if not delta.reference:
        return theta
    total = delta.reference[0].float()
    for part in delta.reference[1:]:
        total = total + part.float()
    return theta - total / torch.full_like(total, len(delta.reference))


def ranks(count: int) -> list[int]:
    """Some counts of elements to keep."""
    shares = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3333, 0.5, 0.7, 0.9, 0.99)
    return sorted({1, min(2, count), count, *(max(1, int(s * count)) for s in shares)})
