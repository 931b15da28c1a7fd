"""Random masks without memory: a counter-based generator keyed by (seed, input, tensor, element).

The number of an element depends on its key and index alone, so a mask is the same on any device, in
chunks of any size and after a resume; and because an element is kept iff u < density with one u per
element, the mask of a lower density is part of the mask of a higher one (a smooth landscape).

The generator is two rounds of Wellons' 32-bit finaliser `lowbias32` around two key words. Only
32-bit multiply, add, xor and logical shift are used: three lines in a Triton kernel. Torch's int32
arithmetic wraps modulo 2**32, as uint32 arithmetic does.
"""

from functools import lru_cache
from hashlib import blake2b
from math import ceil

import torch

MaskKey = tuple[int, int]
"""Two unsigned 32-bit words."""

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
    digest = blake2b(f"{seed}/{position}/{tensor}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


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
    _mix(x.bitwise_xor_(_signed(key[0])), scratch)
    _mix(x.add_(_signed(key[1])), scratch)
    return x.bitwise_right_shift_(32 - RESOLUTION).bitwise_and_(2**RESOLUTION - 1)


def keep_mask(
    key: MaskKey, start: int, count: int, density: float, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """1.0 where an element is kept (with probability `density`), else 0.0; float32, (count,)."""
    bits = random_bits(key, start, count, device)
    threshold = ceil(density * 2**RESOLUTION)  # bits < threshold iff u < density
    return torch.lt(bits, threshold, out=torch.empty(count, device=device))


def _mix(x: torch.Tensor, scratch: torch.Tensor) -> None:
    """`lowbias32` (Wellons 2018, Prospecting for Hash Functions), in place."""
    _xor_shifted(x, 16, scratch)
    _xor_shifted(x.mul_(0x7FEB352D), 15, scratch)
    _xor_shifted(x.mul_(_signed(0x846CA68B)), 16, scratch)


def _xor_shifted(x: torch.Tensor, shift: int, scratch: torch.Tensor) -> None:
    """x ^= x >> shift, the shift logical."""
    torch.bitwise_right_shift(x, shift, out=scratch)
    x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - shift)) - 1))


@lru_cache(maxsize=8)
def _counter(count: int, device: str) -> torch.Tensor:
    """0, 1, ... count - 1 (chunks are nearly all of one size). Read only."""
    return torch.arange(count, dtype=torch.int32, device=device)


def _signed(word: int) -> int:
    """The int32 with the bits of an unsigned 32-bit word."""
    word %= _LIMIT
    return word - _LIMIT if word >= _LIMIT // 2 else word
