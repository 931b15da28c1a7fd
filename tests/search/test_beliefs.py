"""Beliefs: what candidates are worth once luck is discounted."""

import math

import numpy as np
import pytest

from evomerge.asking import Bar, Beliefs, Prior, chances
from evomerge.config import Constraint
from evomerge.evaluation import Evaluation, Outcome
from evomerge.search.beliefs import RECENT, believe, prior_of
from evomerge.search.standing import Candidate
from fitness.estimate import Estimate
from tests.runs.planted import goals

DRAWN = 0.02
"""Of a probability told by 512 draws: a standard error at most 0.022, beside it in the tests."""


def beliefs(*rows):
    """Of (mean, error) pairs, one row per candidate; scalars are one objective."""
    found = np.array(rows, dtype=float).reshape(len(rows), -1, 2)
    return Beliefs(found[..., 0], found[..., 1])


def candidate(number, *pairs, names=("first", "second")):
    estimates = {n: Estimate(*pair) for n, pair in zip(names, pairs, strict=True)}
    return Candidate(number, (), str(number), Evaluation(Outcome.SCORED, objectives=estimates))


def above(gap):
    """P(Z > -gap) of a standard normal Z."""
    return 0.5 * (1 + math.erf(gap / math.sqrt(2)))


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_the_prior_is_recovered_from_noisy_values(spread):
    rng = np.random.default_rng(1)
    errors = np.column_stack([rng.uniform(0.03, 0.08, 4000), np.full(4000, 0.05)])
    values = rng.normal([0.3, 0.6], [spread, 2 * spread], (4000, 2)) + rng.normal(0, errors)
    prior = prior_of(values, errors)
    assert prior.means == pytest.approx([0.3, 0.6], abs=0.02)
    assert prior.spreads == pytest.approx([spread, 2 * spread], rel=0.08)


def test_a_prior_is_never_sure_that_all_are_alike():
    errors = np.full((30, 1), 0.1)
    assert 0 < prior_of(np.full((30, 1), 0.5), errors).spreads[0] < 0.1
    assert prior_of(np.full((30, 1), 0.5), errors * 0).spreads[0] > 0
    assert prior_of(np.array([[0.5]]), np.array([[0.1]])).spreads[0] > 0


def test_the_posterior_is_that_of_two_normals():
    """Against numerical integration of prior times likelihood."""
    prior = Prior(np.array([0.4]), np.array([0.1]))
    found = prior.given(np.array([[0.7]]), np.array([[0.15]]))
    grid = np.linspace(-1, 2, 20001)
    density = np.exp(-((grid - 0.4) ** 2) / 0.02 - (grid - 0.7) ** 2 / 0.045)
    density /= density.sum()
    mean = (density * grid).sum()
    assert found.means[0, 0] == pytest.approx(mean)
    assert found.errors[0, 0] == pytest.approx(math.sqrt((density * (grid - mean) ** 2).sum()))


def test_what_is_known_exactly_is_not_shrunk():
    found = Prior(np.array([0.4]), np.array([0.1])).given(np.array([[0.9]]), np.array([[0.0]]))
    assert (found.means[0, 0], found.errors[0, 0]) == (0.9, 0.0)


@pytest.mark.parametrize(("gap", "mine", "theirs"), [(0.1, 0.1, 0.1), (-0.2, 0.1, 0.2), (0, 1, 3)])
def test_the_chance_against_one_rival_is_the_closed_form(gap, mine, theirs):
    found = chances(beliefs([0.5 + gap, mine]), beliefs([0.5, theirs]))
    assert found[0] == pytest.approx(above(gap / math.hypot(mine, theirs)), abs=3 * DRAWN)


def test_chances_are_those_of_slow_draws():
    rng = np.random.default_rng(2)
    front = Beliefs(rng.uniform(0.4, 0.6, (4, 2)), rng.uniform(0.02, 0.1, (4, 2)))
    several = Beliefs(rng.uniform(0.4, 0.6, (6, 2)), rng.uniform(0.02, 0.1, (6, 2)))
    bounds = ((1, 1, 0.45),)
    found = chances(several, front, bounds)
    for row in range(6):
        kept = 0
        for _ in range(4000):
            mine = rng.normal(several.means[row], several.errors[row])
            others = rng.normal(front.means, front.errors)
            beaten = any(all(o >= m for o, m in zip(other, mine, strict=True)) for other in others)
            kept += not beaten and mine[1] >= 0.45
        assert found[row] == pytest.approx(kept / 4000, abs=4 * DRAWN)


def test_a_member_is_not_beaten_by_itself():
    front = beliefs([0.5, 0.1], [0.2, 0.01])
    alone = chances(front, front, itself=np.array([0, 1]))
    assert alone[0] == pytest.approx(above(0.3 / math.hypot(0.1, 0.01)), abs=3 * DRAWN)
    assert chances(front, front)[0] < 0.6, "as a stranger it is beaten by its twin half of the time"


def test_nobody_beats_anybody_on_an_empty_front():
    nobody = Beliefs(np.empty((0, 1)), np.empty((0, 1)))
    assert chances(beliefs([0.1, 0.1]), nobody)[0] == 1
    bounded = chances(beliefs([0.5, 0.1]), nobody, ((0, 1, 0.5),))
    assert bounded[0] == pytest.approx(0.5, abs=3 * DRAWN)
    assert chances(Beliefs(np.empty((0, 1)), np.empty((0, 1))), beliefs([0.5, 0.1])).shape == (0,)


def test_chances_are_the_same_whenever_they_are_asked():
    front, several = beliefs([0.5, 0.1]), beliefs([0.4, 0.1], [0.6, 0.2])
    assert np.array_equal(chances(several, front), chances(several, front))
    one = chances(several.of(np.array([1])), front)
    assert one[0] == chances(several, front)[1], "whoever is looked at beside it"


def test_the_bar_turns_what_is_minimised():
    prior = Prior(np.array([-10.0]), np.array([5.0]))
    bar = Bar({"tokens": -1}, prior, beliefs([-10.0, 0.1]), (), 0.5)
    assert bar.passed({"tokens": Estimate(5.0, 0.5)})
    assert not bar.passed({"tokens": Estimate(15.0, 0.5)})


def test_bounds_are_kept_by_chance():
    at_most = Constraint(objective="second", sign="<=", bound=100.0)
    wants = goals(constraints=[at_most])
    wants = type(wants)(wants.names, ("maximize", "minimize"), wants.weights, wants.constraints)
    several = [candidate(n, (0.4 + n / 10, 0.01), (80.0 + 10 * n, 2.0)) for n in range(5)]
    believed = believe(several, wants)
    assert believed.front.tolist() == [0, 1, 2], "beyond the bound nobody is on the front"
    found = believed.chances()
    assert found[:2] == pytest.approx([1, 1], abs=0.02)
    assert found[2] == pytest.approx(0.5, abs=0.1), "on the bound, it may lie beyond"
    assert found[4] < 0.01
    bar = believed.bar(wants, 0.5)
    assert bar.passed({"first": Estimate(0.9, 0.01), "second": Estimate(90.0, 2.0)})
    assert not bar.passed({"first": Estimate(0.9, 0.01), "second": Estimate(115.0, 2.0)})


def test_the_luckiest_of_fifty_is_believed_less_than_a_solid_one():
    """Fifty alike answered 10 items each, and one of them 9 rightly; another answered 400."""
    rng = np.random.default_rng(1)
    several = [
        candidate(n, (score, 0.155), names=("first",))
        for n, score in enumerate(rng.binomial(10, 0.6, 50) / 10)
    ]
    luckiest = max(c.evaluation.objectives["first"].value for c in several)
    assert luckiest >= 0.85
    several.append(candidate(50, (0.7, 0.02), names=("first",)))
    believed = believe(several, goals(names=("first",)))
    assert believed.beliefs.means.argmax() == 50
    assert believed.front.tolist() == [50]
    bar = believed.bar(goals(names=("first",)), 0.5)
    assert not bar.passed({"first": Estimate(0.8, 0.155)}), "eight of ten is luck here"


def test_the_last_ones_say_what_their_like_are_worth():
    early = [candidate(n, (0.1, 0.01), (0.1, 0.01)) for n in range(200)]
    late = [candidate(200 + n, (0.6, 0.01), (0.7, 0.01)) for n in range(RECENT)]
    assert believe(early + late, goals()).prior.means == pytest.approx([0.6, 0.7])


def test_of_equals_one_is_on_the_front():
    several = [candidate(n, (0.5, 0.1), (0.5, 0.1)) for n in range(4)]
    assert believe(several, goals()).front.tolist() == [0]
