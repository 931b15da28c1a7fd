"""Random masks without memory: a counter-based generator keyed by (seed, input, tensor, element).

The number of an element depends on its key and index alone, so a mask is the same on any device, in
chunks of any size and after a resume; and because an element is kept iff u < density with one u per
element, the mask of a lower density is part of the mask of a higher one (a smooth landscape).

The generator mixes an element's index with the tensor's key word, by Wellons' 32-bit finaliser
`lowbias32`, and the result with the input's key word, by the finaliser's two multiplications: the
inputs of a tensor share the first step. Only 32-bit multiply, xor and logical shift are used: a few
lines in a Triton kernel. Torch's int32 arithmetic wraps modulo 2**32, as uint32 arithmetic does.
"""

from functools import lru_cache
from hashlib import blake2b
from math import ceil

import torch

MaskKey = tuple[int, int]
"""Two unsigned 32-bit words: the tensor's, which its inputs share, and the input's."""

RESOLUTION = 24
"""Bits of u; all multiples of 2**-24 in [0, 1) are exact in float32."""

_LIMIT = 2**32


def mask_key(seed: int, position: int, tensor: str) -> MaskKey:
    """The key of one input's mask for one output tensor.

    Args:
        seed: the recipe's.
        position: of the input among the plan's inputs, from 0.
        tensor: the output tensor's name.
    """
    return _word(f"{seed}/{tensor}"), _word(f"{seed}/{position}/{tensor}")


def random_bits(
    key: MaskKey, start: int, count: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """The 24-bit numbers of elements `start` to `start + count`, int32, shape (count,).

    Raises:
        ValueError: the range leaves [0, 2**32), the elements one tensor may have.
    """
    if start < 0 or start + count > _LIMIT:
        raise ValueError(f"elements {start} to {start + count}: a tensor has at most 2**32")
    x = _counter(count, str(device)) + _signed(start)
    scratch = torch.empty_like(x)
    x.bitwise_xor_(_signed(key[0]))
    _xor_shifted(x, 16, scratch)
    _multiply_twice(x, scratch)
    _xor_shifted(x, 16, scratch)
    _multiply_twice(x.bitwise_xor_(_signed(key[1])), scratch)
    return x.bitwise_right_shift_(32 - RESOLUTION).bitwise_and_(2**RESOLUTION - 1)


def keep_mask(
    key: MaskKey, start: int, count: int, density: float, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """1.0 where an element is kept (with probability `density`), else 0.0; float32, (count,)."""
    bits = random_bits(key, start, count, device)
    threshold = ceil(density * 2**RESOLUTION)  # bits < threshold iff u < density
    return torch.lt(bits, threshold, out=torch.empty(count, device=device))


def _multiply_twice(x: torch.Tensor, scratch: torch.Tensor) -> None:
    """The middle of `lowbias32` (Wellons 2018, Prospecting for Hash Functions), in place."""
    _xor_shifted(x.mul_(0x7FEB352D), 15, scratch)
    x.mul_(_signed(0x846CA68B))


def _xor_shifted(x: torch.Tensor, shift: int, scratch: torch.Tensor) -> None:
    """x ^= x >> shift, the shift logical."""
    torch.bitwise_right_shift(x, shift, out=scratch)
    x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - shift)) - 1))


@lru_cache(maxsize=2**16)
def _word(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little")


@lru_cache(maxsize=8)
def _counter(count: int, device: str) -> torch.Tensor:
    """0, 1, ... count - 1 (chunks are nearly all of one size). Read only."""
    return torch.arange(count, dtype=torch.int32, device=device)


def _signed(word: int) -> int:
    """The int32 with the bits of an unsigned 32-bit word."""
    word %= _LIMIT
    return word - _LIMIT if word >= _LIMIT // 2 else word
