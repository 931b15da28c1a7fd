"""Merges small enough to check by eye: one paragraph of arithmetic each."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evomerge.merge.pipeline import merge_tensor
from evomerge.merge.random_masks import keep_mask, mask_key
from evomerge.merge.sources import open_sources
from evomerge.merge.weights import MergedWeights
from search_spaces.errors import InputError
from tests.merge.models import Family
from tests.merge.plans import plan_of, recipe_of

BASE = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
FIRST = BASE + torch.tensor([[4.0, -1.0], [2.0, 0.5]])
SECOND = BASE + torch.tensor([[-1.0, -3.0], [4.0, 0.25]])


def moved(plan, *sources: Tensor, base: Tensor = BASE) -> list:
    """What the plan adds to the base."""
    return (merge_tensor(plan, base, sources) - base).tolist()


# --- sums and means -------------------------------------------------------------------------------


def test_weights_that_cancel_are_refused():
    sources = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 2.0])]
    with pytest.raises(InputError, match=r"weights that sum to zero.*normalize: false"):
        merge_tensor(plan_of("linear", [0.5, -0.5]), None, sources)
    plain = merge_tensor(plan_of("linear", [0.5, -0.5], normalize=False), None, sources)
    assert plain.tolist() == [-1.0, 0.0, 0.5]


def test_passthrough():
    """Copied to the bit; a scale multiplies, 0 included."""
    assert torch.equal(merge_tensor(plan_of("passthrough", [1.0]), None, [FIRST]), FIRST)
    assert merge_tensor(plan_of("passthrough", [-0.5]), None, [FIRST]).tolist() == [
        [-2.5, 0.0],
        [-1.5, -0.75],
    ]
    assert not merge_tensor(plan_of("passthrough", [0.0]), None, [FIRST]).any()


def test_a_ramp_over_the_depth():
    """LiNeS: alpha + beta * depth = 0.5 + 1.5 * 0.5 = 1.25 half way up, 0.5 outside the stack."""
    numbers = {"alpha": 0.5, "beta": 1.5, "lambda": 2.0}
    for depth, ramp in ((0.0, 0.5), (0.5, 1.25), (1.0, 2.0), (None, 0.5)):
        plan = plan_of("lines", [1.0], depth=depth, **numbers)
        assert moved(plan, FIRST) == [[8 * ramp, -2 * ramp], [4 * ramp, 1 * ramp]]


def test_largest_of_the_weighted():
    """4 beats -1, -3 beats -1, 4 beats 2, 0.5 beats 0.25; halved, the first wins but at (1, 0)."""
    assert moved(plan_of("magmax", [1.0, 1.0]), FIRST, SECOND) == [[4.0, -3.0], [4.0, 0.5]]
    assert moved(plan_of("magmax", [1.0, 0.25]), FIRST, SECOND) == [[4.0, -1.0], [2.0, 0.5]]
    assert moved(plan_of("magmax", [1.0, 0.5]), FIRST, SECOND) == [[4.0, -1.5], [2.0, 0.5]]


# --- sparsification -------------------------------------------------------------------------------


def test_ties():
    """Density 1/2 keeps (4, 2) and (-3, 4); the signs are +, -, +, none; means over who agrees."""
    plan = plan_of("ties", [1.0, 1.0], [0.5, 0.5])
    assert moved(plan, FIRST, SECOND) == [[4.0, -3.0], [3.0, 0.0]]


def test_ties_with_weights_and_lambda():
    """Weights 1 and 3: sums 4, -9, 14; means 4/1, -9/3, 14/4; lambda 2 doubles the merged delta."""
    plan = plan_of("ties", [1.0, 3.0], [0.5, 0.5], **{"lambda": 2.0})
    assert moved(plan, FIRST, SECOND) == [[8.0, -6.0], [7.0, 0.0]]
    plan = plan_of("ties", [1.0, 3.0], [0.5, 0.5], normalize=False)
    assert moved(plan, FIRST, SECOND) == [[4.0, -9.0], [14.0, 0.0]]


def test_the_number_kept_is_rounded_down_but_at_least_one():
    base, expert = torch.zeros(5), torch.tensor([5.0, -4.0, 3.0, 2.0, 1.0])
    for density, kept in (
        (0.59, [5, -4, 0, 0, 0]),
        (0.6, [5, -4, 3, 0, 0]),
        (0.01, [5, 0, 0, 0, 0]),
    ):
        assert moved(plan_of("ties", [1.0], [density]), expert, base=base) == kept


def test_ties_between_magnitudes_are_all_kept():
    base, expert = torch.zeros(6), torch.tensor([3.0, -1.0, 1.0, 1.0, 0.5, 0.0])
    plan = plan_of("ties", [1.0], [0.34])  # k = 2
    assert moved(plan, expert, base=base) == [3.0, -1.0, 1.0, 1.0, 0.0, 0.0]


def test_l1_rescaling():
    """(4, -1, 2, 0.5) keeps 4 and 2: the sum of magnitudes 7.5 over 6."""
    plan = plan_of("ties", [1.0], [0.5], rescale=True)
    assert moved(plan, FIRST) == [[5.0, 0.0], [2.5, 0.0]]


def test_inverse_rescaling():
    """Each element is tau / density or 0, as `keep_mask` says per input (the paper's DARE)."""
    base, ones = torch.zeros(200), torch.ones(200)
    plan = plan_of(
        "dare_linear", [1.0, 10.0], [0.5, 0.25], seed=5, tensor="x.weight", rescale_norm="inverse"
    )
    first = keep_mask(mask_key(5, 0, "x.weight"), 0, 200, 0.5)
    second = keep_mask(mask_key(5, 1, "x.weight"), 0, 200, 0.25)
    assert moved(plan, ones, ones, base=base) == (2 * first + 40 * second).tolist()


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [
        (0.4, 0.2, [0, 0, 8, -7, 6, 5, 0, 0, 0, 0]),  # 2 dropped at the top, 4 stay
        (0.4, 0.0, [10, -9, 8, -7, 0, 0, 0, 0, 0, 0]),
        (0.9, 0.3, [0, -9, 8, -7, 6, 5, -4, 3, 2, 1]),  # no room for 3 at the top
        (0.05, 0.2, [0] * 10),
        (1.0, 0.5, [10, -9, 8, -7, 6, 5, -4, 3, 2, 1]),
    ],
)
def test_breadcrumbs(density: float, gamma: float, kept: list[float]):
    """Of fewer than 100 elements, and with gamma 0, it keeps its share as well."""
    base, expert = torch.zeros(10), torch.tensor([10.0, -9, 8, -7, 6, 5, -4, 3, 2, 1])
    plan = plan_of("breadcrumbs", [1.0], [density], gamma=gamma)
    assert moved(plan, expert, base=base) == kept


def test_blocks_without_overlap():
    """CABS, one of 64: the first takes its largest, the second the largest that the first left."""
    plan = plan_of("cabs", [1.0, 1.0], [1 / 64, 1 / 64], m="64")
    base = torch.zeros(128)
    first = torch.arange(128.0)  # largest at 63 and 127
    second = torch.where(first % 64 == 63, 1e6, -first)  # largest there as well: taken
    expected = [0.0] * 128
    expected[63], expected[127], expected[62], expected[126] = 63, 127, -62, -126
    assert moved(plan, first, second, base=base) == expected
    # By what survived in each place: the other source's weight does not count there.
    alone = plan_of("cabs", [2.0, 4.0], [1 / 64, 1 / 64], m="64", combine="survivors")
    assert moved(alone, first, second, base=base) == expected
    of_both = plan_of("cabs", [2.0, 2.0], [1 / 64, 1 / 64], m="64", combine="mean")
    assert moved(of_both, first, second, base=base) == [value / 2 for value in expected]


def test_nearswap():
    """The base moves to the other model, by 1.5 at most."""
    assert moved(plan_of("nearswap", [1.0], t=1.5), FIRST) == [[1.5, -1.0], [1.5, 0.5]]


def test_ram():
    """Deltas above 0.5 count: both at (0, 0), (0, 1) and (1, 0), where they are averaged."""
    plan = plan_of("ram", [1.0, 1.0], epsilon=0.5)
    assert moved(plan, FIRST, SECOND) == [[1.5, -2.0], [3.0, 0.0]]
    plan = plan_of("ram", [1.0, 1.0], epsilon=1.5)
    assert moved(plan, FIRST, SECOND) == [[4.0, -3.0], [3.0, 0.0]], "one alone is not halved"


def test_outlying_importance():
    """Arcee Fusion: a row (9, 2, 1, 1) of divergence d, and one that does not move.

    Importances are 0, 0, 0, 0, d, d, 2 d, 9 d; their quartiles, at places 1, 3 and 5 of 0 to 7, are
    0, 0 and d. Kept is what reaches 0 + 1.5 (d - 0).
    """
    base, row = torch.zeros(2, 4), torch.tensor([[9.0, 2, 1, 1], [0, 0, 0, 0]])
    assert moved(plan_of("arcee_fusion", [1.0]), row, base=base) == [[9.0, 2, 0, 0], [0] * 4]


# --- consensus ------------------------------------------------------------------------------------


def test_opposite_deltas_of_equal_weight_cancel_to_positive():
    """A product rounded into a fused sum used to leave +-1 ulp here, so order chose the sign."""
    delta = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for weights in ([0.3, 0.3], [0.7, 0.7]):
        plan = plan_of("ties", weights)
        base = torch.zeros(1000)
        result = merge_tensor(plan, base, [delta, -delta])
        torch.testing.assert_close(result, delta.abs())


def test_sign_of_most_and_sign_of_the_sum():
    """Two small positives outvote one large negative; a draw counts as positive."""
    base = torch.zeros(2)
    sources = [torch.tensor([1.0, 1.0]), torch.tensor([1.0, -5.0]), torch.tensor([-9.0, 0.0])]
    by_count = plan_of("task_arithmetic", [1.0] * 3, consensus="count")
    assert moved(by_count, *sources, base=base) == [2.0, 1.0]
    by_sum = plan_of("task_arithmetic", [1.0] * 3, consensus="sum")
    assert moved(by_sum, *sources, base=base) == [-9.0, -5.0]


def test_elements_that_enough_sources_need():
    """TALL masks: |tau_i| > support |tau - tau_i|, here 0.5, for the sums 3, -4, 6, 0.75.

    The first needs 4 > 0.5, -1 > 1.5 not, 2 > 2 not, 0.5 > 0.125; the second -1 > 2 not,
    -3 > 0.5, 4 > 1, 0.25 > 0.25 not. All four are needed by one, none by both.
    """
    one = plan_of("consensus", [1.0, 1.0], k=1, support=0.5)
    assert moved(one, FIRST, SECOND) == [[3.0, -4.0], [6.0, 0.75]]
    both = plan_of("consensus", [1.0, 1.0], k=2, support=0.5)
    assert moved(both, FIRST, SECOND) == [[0.0, 0.0], [0.0, 0.0]]
    both = plan_of("consensus", [1.0, 1.0], k=2, support=0.3)
    # -1 > 0.9, 2 > 1.2, 0.25 > 0.15 now; but -1 > 1.2 not at (0, 0)
    assert moved(both, FIRST, SECOND) == [[0.0, -4.0], [6.0, 0.75]]


# --- energies, angles, spectra --------------------------------------------------------------------


def test_sce():
    """Variances ((4+1)/2)^2, 1, 1, 1/64: half of four keeps the first two or, on a tie, three.

    Mean squares of (4, -1, 2, 0) and (-1, -3, 4, 0) are 21/4 and 26/4: shares 21/47, 26/47. The
    signs are +, -, +: only the first has + at (0, 0).
    """
    result = moved(plan_of("sce", [1.0, 1.0], select_topk=0.5), FIRST, SECOND)
    first, second = 21 / 47, 26 / 47
    agreed = [[4.0, -first - 3 * second], [2 * first + 4 * second, 0.0]]
    torch.testing.assert_close(torch.tensor(result), torch.tensor(agreed))
    one = plan_of("sce", [1.0, 1.0], select_topk=0.25)
    assert moved(one, FIRST, SECOND) == [[4.0, 0.0], [0.0, 0.0]]


def test_slerp():
    """Between (2, 0) and (0, 2), a third of a right angle: cos 30, sin 30."""
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    result = merge_tensor(plan_of("slerp", [1.0], t=1 / 3), first, [second])
    torch.testing.assert_close(result, torch.tensor([[3.0**0.5, 1.0]]))


@pytest.mark.parametrize(
    ("first", "second"),
    [([0.0, 0.0], [2.0, 4.0]), ([1.0, 2.0], [2.0, 4.0]), ([1.0, 2.0], [-2.0, -4.0])],
    ids=["zero", "parallel", "opposite"],
)
def test_slerp_where_no_angle_is_defined(first: list[float], second: list[float]):
    """Linear, but for a zero vector, which is at a right angle to all: the sine of t."""
    a, b = torch.tensor(first), torch.tensor(second)
    result = merge_tensor(plan_of("slerp", [1.0], t=0.25), a, [b])
    linear = 0.75 * a + 0.25 * b
    zero = torch.sin(torch.tensor(torch.pi / 8)) * b
    torch.testing.assert_close(result, linear if a.any() else zero)


def test_nuslerp_of_deltas_and_of_models():
    """Weights 1 and 2 put it at 2/3: from (1, 0) to (0, 1) that is (cos 60, sin 60)."""
    base, up, right = torch.tensor([5.0, 5.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    expected = torch.tensor([0.5, 0.75**0.5])
    plain = merge_tensor(plan_of("nuslerp", [1.0, 2.0]), None, [up, right])
    torch.testing.assert_close(plain, expected)
    plan = plan_of("nuslerp", [1.0, 2.0], based=True)
    torch.testing.assert_close(merge_tensor(plan, base, [base + up, base + right]), base + expected)


def test_means_on_the_sphere():
    """Half way between (2, 0) and (0, 4): 45 degrees, of the mean length 3."""
    sources = [torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])]
    expected = torch.full((2,), 3 / 2**0.5)
    for method in ("karcher", "multislerp"):
        result = merge_tensor(plan_of(method, [1.0, 1.0]), None, sources)
        torch.testing.assert_close(result, expected)


def test_model_stock():
    """Deltas (2, 0) and (1, 1) * 2^.5 at 45 degrees: t = 2 c / (1 + c) with c = 2^-.5."""
    base = torch.tensor([3.0, 3.0])
    sources = [base + torch.tensor([2.0, 0.0]), base + torch.full((2,), 2**0.5)]
    cosine = 0.5**0.5
    mean = torch.tensor([1 + cosine, cosine])
    result = merge_tensor(plan_of("model_stock", [1.0, 1.0]), base, sources)
    torch.testing.assert_close(result, base + 2 * cosine / (1 + cosine) * mean)


def test_spectra():
    """A delta of singular values 6, 3, 1: STAR keeps 6 of 10 and makes it 10, Iso-C has 10/3 each;
    CART keeps the first of three beyond the mean.
    """
    delta = torch.diag(torch.tensor([6.0, 3.0, 1.0]))
    base, moved_base = torch.ones(3, 3), torch.ones(3, 3) + delta
    star = merge_tensor(plan_of("star", [1.0], eta=0.5), base, [moved_base])
    torch.testing.assert_close(star, base + torch.diag(torch.tensor([10.0, 0.0, 0.0])))
    iso_c = merge_tensor(plan_of("iso_c", [1.0]), base, [moved_base])
    torch.testing.assert_close(iso_c, base + torch.eye(3) * 10 / 3)
    # The mean of these two is the base; weights 1 and 1/2 leave half of the first's 6.
    cart = merge_tensor(plan_of("cart", [1.0, 0.5], rank=0.4), base, [moved_base, base - delta])
    torch.testing.assert_close(cart, base + torch.diag(torch.tensor([3.0, 0.0, 0.0])))


# --- limits in which two methods coincide ---------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("breadcrumbs", {"gamma": 0.0}), ("task_arithmetic", {"sparsify": "magnitude"})),
        (("della_linear", {"epsilon": 0.0}), ("dare_linear", {})),
        (("della", {"epsilon": 0.0}), ("dare_ties", {"normalize": True})),
        (("breadcrumbs_ties", {"gamma": 0.0}), ("ties", {"normalize": False})),
        (("lines", {}), ("task_arithmetic", {})),
        (("chat_vector", {}), ("task_arithmetic", {})),
        (("consensus", {"k": 1, "support": 0.0}), ("task_arithmetic", {})),
        (("ties_whole", {}), ("ties", {})),  # of a model of one tensor
    ],
    ids=lambda pair: pair[0],
)
def test_coincide(one: tuple, other: tuple):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(9, 11, generator=generator)
    sources = [base + torch.randn(9, 11, generator=generator) for _ in range(2)]
    results = [
        merge_tensor(plan_of(method, [0.7, 0.4], [0.5, 0.3], **numbers), base, sources)
        for method, numbers in (one, other)
    ]
    assert torch.equal(*results)


def test_interpolations_coincide():
    """WiSE-FT is linear between base and source; a Karcher mean of two unit vectors is slerp's."""
    linear = merge_tensor(plan_of("linear", [0.7, 0.3]), None, [BASE, FIRST])
    torch.testing.assert_close(merge_tensor(plan_of("wise_ft", [0.3]), BASE, [FIRST]), linear)
    first, second = FIRST / FIRST.norm(), SECOND / SECOND.norm()
    half = merge_tensor(plan_of("slerp", [1.0], t=0.5), first, [second])
    for method in ("karcher", "multislerp", "nuslerp"):
        result = merge_tensor(plan_of(method, [1.0, 1.0]), None, [first, second])
        torch.testing.assert_close(result, half)


# --- over the whole model -------------------------------------------------------------------------


def test_trimming_over_the_whole_model(family: Callable[..., Family]):
    """ties_whole keeps a share of the model: the same threshold in every tensor, as in the paper."""
    made = family("llama", noise=0.01)
    weights = MergedWeights(open_sources(made.folders))
    recipe = recipe_of("ties_whole", {"a": {"weight": 1.0, "density": 0.2}})
    weights.prepare(recipe)
    sources = open_sources(made.folders)
    taus = {n: sources.tensor("a", n) - sources.tensor("base", n) for n in weights.names()}
    sizes = torch.cat([tau.abs().flatten() for tau in taus.values()]).sort(descending=True).values
    threshold = sizes[int(0.2 * len(sizes)) - 1]
    for name, tau in taus.items():
        expected = sources.tensor("base", name) + torch.where(tau.abs() >= threshold, tau, 0)
        assert torch.equal(weights.tensor(name), expected)
    per_tensor = MergedWeights(open_sources(made.folders))
    per_tensor.prepare(recipe_of("ties", {"a": {"weight": 1.0, "density": 0.2}}))
    assert any(not torch.equal(per_tensor.tensor(n), weights.tensor(n)) for n in taus)
