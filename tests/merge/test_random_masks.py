"""The counter-based generator: known answers, statistics, independence of chunks and devices."""

import pytest
import torch

from evomerge.merge.random_masks import keep_mask, mask_key, random_bits


def _multiplied(x: int) -> int:
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    return x * 0x846CA68B % 2**32


def _by_hand(key: tuple[int, int], index: int) -> int:
    x = index ^ key[0]
    x = _multiplied(x ^ x >> 16)
    return _multiplied(x ^ x >> 16 ^ key[1]) >> 8


KEY = (3497362085, 3110411433)
FIRST = [8405259, 7925232, 2484879, 8631491]
LAST = [2919459, 12123668]


def test_known_answers():
    """Frozen: a recipe of last year must still give the same model."""
    assert mask_key(7, 1, "model.norm.weight") == KEY
    assert random_bits(KEY, 0, 4).tolist() == FIRST
    assert random_bits((0, 0), 2**32 - 2, 2).tolist() == LAST


@pytest.mark.parametrize("start", [0, 1, 2**31 - 3, 2**31, 2**32 - 6])
def test_equals_unsigned_arithmetic(start: int):
    """Torch's wrapping int32 arithmetic is that of 32-bit words written in plain integers."""
    for key in ((0, 0), (1, 2**32 - 1), mask_key(3, 0, "x")):
        expected = [_by_hand(key, index) for index in range(start, start + 6)]
        assert random_bits(key, start, 6).tolist() == expected


def test_chunks_do_not_matter():
    key = mask_key(0, 0, "x")
    whole = random_bits(key, 0, 1000)
    parts = [random_bits(key, start, 77) for start in range(0, 924, 77)]
    assert torch.equal(whole[:924], torch.cat(parts))


def test_refuses_more_than_32_bits():
    with pytest.raises(ValueError, match=r"at most 2\*\*32"):
        random_bits((0, 0), 2**32 - 1, 2)


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.9])
def test_is_bernoulli(density: float):
    """Mean, lag correlations and runs of eight elements, each within five standard errors."""
    count = 2**20
    mask = keep_mask(mask_key(1, 0, "x"), 0, count, density).double()
    spread = (density * (1 - density)) ** 0.5
    assert abs(mask.mean().item() - density) < 5 * spread / count**0.5
    for lag in (1, 2, 3, 64, 128, 4096):
        product = (mask[lag:] - density) * (mask[:-lag] - density)
        assert abs(product.mean().item()) < 5 * spread**2 / (count - lag) ** 0.5, lag
    sums = mask.view(-1, 8).sum(1)
    variance = 8 * density * (1 - density)
    assert sums.var().item() == pytest.approx(variance, rel=0.05)


def test_bits_are_uniform():
    """Chi-square over 256 bins of the highest and of the lowest eight bits."""
    bits = random_bits(mask_key(2, 0, "y"), 0, 2**20)
    for part in (bits >> 16, bits & 255):
        counts = torch.bincount(part, minlength=256).double()
        chi_square = ((counts - 4096) ** 2 / 4096).sum().item()
        assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6


def test_masks_nest_in_density():
    key = mask_key(0, 2, "x")
    smaller = torch.zeros(4096)
    for density in (0.0, 0.1, 0.100001, 0.5, 0.999, 1.0):
        mask = keep_mask(key, 0, 4096, density)
        assert bool((mask >= smaller).all())
        smaller = mask
    assert bool(smaller.all()), "density 1 keeps everything"
    assert not keep_mask(key, 0, 4096, 0.0).any(), "density 0 keeps nothing"


def test_keys_give_independent_masks():
    """Other seed, other input, other tensor: agreement is that of independent draws."""
    keys = [mask_key(0, 0, "x"), mask_key(1, 0, "x"), mask_key(0, 1, "x"), mask_key(0, 0, "y")]
    masks = [keep_mask(key, 0, 2**18, 0.5).double() for key in keys]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            both = (first * second).mean().item()
            assert abs(both - 0.25) < 5 * (3 / 16 / 2**18) ** 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_masks():
    key = mask_key(5, 1, "x")
    for start in (0, 2**31 - 500):
        on_gpu = keep_mask(key, start, 1000, 0.4, "cuda").cpu()
        assert torch.equal(on_gpu, keep_mask(key, start, 1000, 0.4))
