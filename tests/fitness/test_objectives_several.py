"""Worst task, spread over tasks, and losses: by hand, and their errors against simulations."""

import math

import numpy as np
import pytest

from fitness.errors import FitnessError
from fitness.estimate import Estimate, mean_estimate, weighted
from fitness.items import Response
from fitness.objectives import Objectives, ObjectiveSpec
from fitness.objectives.loss import loss_estimate
from fitness.objectives.several_tasks import spread_of, worst_of

POOLS = {"maths": 100, "words": 50}
BOTH = {"maths": 1.0, "words": 1.0}


def measure(spec, answers, **options):
    return Objectives([spec], POOLS, None, **options).measure(answers)[spec.name]


def answers(maths, words):
    made = [Response("maths", i, float(s), loss=3 - s) for i, s in enumerate(maths)]
    return made + [Response("words", i, float(s), loss=1.5) for i, s in enumerate(words)]


def test_the_worst_is_the_least_score():
    given = answers([1, 0, 1, 1], [0, 1])
    parts = [mean_estimate([1, 0, 1, 1], 100), mean_estimate([0, 1], 50)]
    assert measure(ObjectiveSpec("w", "worst", tasks=BOTH), given) == worst_of(parts)
    assert measure(ObjectiveSpec("w", "worst", tasks=BOTH), given).value == 0.5
    errors = measure(ObjectiveSpec("w", "worst", "minimize", BOTH), given)
    assert errors.value == 0.75


def test_the_worst_takes_the_tasks_estimators():
    known = {"maths": lambda given: Estimate(0.1, 0.02)}
    found = measure(
        ObjectiveSpec("w", "worst", tasks=BOTH), answers([1] * 4, [1] * 4), estimators=known
    )
    assert found.value == 0.1
    assert found.se == pytest.approx(0.02, rel=0.01)


def test_two_equal_tasks_by_hand():
    """Of two normal variables alike, E(min) = -s / sqrt(pi) and Var(min) = s^2 (1 - 1 / pi)."""
    found = worst_of([Estimate(0.5, 0.1), Estimate(0.5, 0.1)])
    bias, variance = -0.1 / math.sqrt(math.pi), 0.01 * (1 - 1 / math.pi)
    assert found.value == 0.5
    assert found.se == pytest.approx(math.sqrt(variance + bias**2))


def test_a_worst_far_below_the_others_has_its_own_error():
    apart = [Estimate(0.2, 0.03), Estimate(0.8, 0.1), Estimate(0.9, 0.05)]
    found = worst_of(apart)
    assert (found.value, found.se) == (0.2, pytest.approx(0.03))
    found = worst_of(apart, highest=True)
    assert found.value == 0.9
    assert found.se > 0.05  # the second is close, and less sure


def test_clark_against_drawing():
    """Four tasks that a test cannot tell apart: the error is that of the least of four alike."""
    draw = np.random.default_rng(1).normal(0, (0.02, 0.04, 0.06, 0.05), (200_000, 4)).min(1)
    found = worst_of([Estimate(0.5, s) for s in (0.02, 0.04, 0.06, 0.05)])
    assert found.se == pytest.approx(math.sqrt((draw**2).mean()), rel=0.05)


def test_known_scores_have_a_known_worst_and_spread():
    known = [Estimate(0.25, 0.0), Estimate(0.75, 0.0), Estimate(0.25, 0.0)]
    assert worst_of(known) == Estimate(0.25, 0.0)
    spread = spread_of(known)
    assert spread.value == pytest.approx(float(np.std([0.25, 0.75, 0.25])))
    assert spread.se == pytest.approx(0.0, abs=1e-8)
    assert spread_of([Estimate(0.3, 0.0)] * 3) == Estimate(0.0, 0.0)


def test_noise_is_taken_out_of_the_spread():
    found = spread_of([Estimate(0.4, 0.06), Estimate(0.6, 0.08)])
    # Deviations of 0.1; the mean of two loses half of each one's noise.
    assert found.value == pytest.approx(math.sqrt(0.01 - 0.5 * (0.06**2 + 0.08**2) / 2))
    alike = spread_of([Estimate(0.49, 0.06), Estimate(0.5, 0.08)])
    assert alike.value == 0
    assert 0.03 < alike.se < 0.1


def test_the_variance_of_spread_far_from_nothing_is_the_delta_methods():
    values, ses = [0.1, 0.5, 0.9], [0.01, 0.004, 0.007]
    found = spread_of([Estimate(v, s) for v, s in zip(values, ses, strict=True)])
    spread = float(np.std(values))
    slopes = [(v - 0.5) / (3 * spread) for v in values]
    delta = math.sqrt(sum((k * s) ** 2 for k, s in zip(slopes, ses, strict=True)))
    assert found.se == pytest.approx(delta, rel=0.02)


TRUTHS = [
    [0.5, 0.5],
    [0.5, 0.6],
    [0.5, 0.65],
    [0.5, 0.9],
    [0.5] * 5,
    [0.5, 0.55, 0.6, 0.65, 0.7],
    [0.5, 0.6, 0.6, 0.6, 0.6],
    [0.5] * 10,
]


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("kind", ["worst", "highest", "spread"])
def test_intervals_cover_the_truth(kind, truth):
    """With ten tasks alike, the least one with its own error holds the truth in 0.6 of the cases."""
    draw = np.random.default_rng(2)
    ses = 0.03 + 0.04 * draw.random(len(truth))
    exact = {"worst": np.min, "highest": np.max, "spread": np.std}[kind](truth)
    covered = 0
    for values in truth + ses * draw.standard_normal((1500, len(truth))):
        estimates = [Estimate(float(v), float(s)) for v, s in zip(values, ses, strict=True)]
        found = (
            spread_of(estimates)
            if kind == "spread"
            else worst_of(estimates, highest=kind == "highest")
        )
        covered += abs(found.value - exact) <= 1.645 * found.se
    assert covered / 1500 > 0.86


def test_the_loss_is_a_mean_over_items_and_tasks():
    given = answers([1, 0, 1, 1], [0, 1])
    found = measure(ObjectiveSpec("l", "loss", "minimize", {"maths": 1, "words": 3}), given)
    assert found.value == pytest.approx((2.25 + 3 * 1.5) / 4)
    parts = [loss_estimate(given[:4], 100, ""), loss_estimate(given[4:], 50, "")]
    assert found == weighted(parts, [1, 3])


@pytest.mark.parametrize(
    ("n", "t"), [(2, 6.3138), (3, 2.9200), (4, 2.3534), (5, 2.1318), (11, 1.8125), (31, 1.6973)]
)
def test_the_interval_of_a_loss_is_students(n, t):
    """Points of Student's distribution from a table."""
    losses = [1.0 + (-1) ** i * 0.5 for i in range(n)]
    found = loss_estimate([Response("m", i, 0.0, loss=x) for i, x in enumerate(losses)], None, "")
    half = t * float(np.std(losses, ddof=1)) / math.sqrt(n)
    assert 1.6449 * found.se == pytest.approx(half, rel=0.01)


def test_losses_of_a_whole_pool_are_known():
    given = [Response("m", i, 0.0, loss=float(i)) for i in range(5)]
    assert loss_estimate(given, 5, "") == Estimate(2.0, 0.0)
    half = loss_estimate(given, 10, "").se / loss_estimate(given, None, "").se
    assert half == pytest.approx(math.sqrt(0.5))
    assert loss_estimate(given[1:2], None, "") == Estimate(1.0, 1.0)


@pytest.mark.parametrize("n", [3, 10, 40])
def test_intervals_of_losses_cover_the_truth(n):
    """Losses as language models have them: skewed, never below nothing."""
    draw = np.random.default_rng(3)
    pool = draw.gamma(2.0, 0.7, 500)
    covered = 0
    for _ in range(1000):
        losses = draw.choice(pool, n, replace=False)
        given = [Response("m", i, 0.0, loss=float(x)) for i, x in enumerate(losses)]
        found = loss_estimate(given, 500, "")
        covered += abs(found.value - pool.mean()) <= 1.645 * found.se
    assert 0.83 < covered / 1000 < 0.94


def test_losses_must_be_there():
    spec = ObjectiveSpec("l", "loss", "minimize", {"maths": 1})
    message = "objective 'l': 2 responses of task 'maths' without a loss: it was not asked for"
    given = [Response("maths", 0, 1.0, loss=0.5), *(Response("maths", i, 1.0) for i in (1, 2))]
    with pytest.raises(FitnessError, match=message):
        measure(spec, given)
    with pytest.raises(FitnessError, match="task 'maths': a loss that is not finite"):
        measure(spec, [Response("maths", 0, 1.0, loss=math.inf)])


SPECS = [
    (ObjectiveSpec("m", "worst", tasks={"maths": 1}), r"tasks \['maths'\]: name at least two"),
    (ObjectiveSpec("m", "spread", "minimize"), r"objective 'm': tasks \[\]: name at least two"),
    (ObjectiveSpec("m", "loss", "minimize"), "objective 'm': no tasks: name at least one"),
    (ObjectiveSpec("m", "flip"), "kind 'flip': unknown; did you mean 'flips'"),
    (
        ObjectiveSpec("m", "worst", tasks=dict.fromkeys(("maths", "word"), 1)),
        "did you mean 'words'",
    ),
]


@pytest.mark.parametrize(("spec", "message"), SPECS)
def test_specs_are_checked(spec, message):
    with pytest.raises(FitnessError, match=message):
        Objectives([spec], POOLS, None)
