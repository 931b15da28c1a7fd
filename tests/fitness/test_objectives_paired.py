"""Flips and consistency: what is known per item beside the candidate's own responses."""

import math

import numpy as np
import pytest

from fitness.errors import FitnessError
from fitness.estimate import mean_estimate, weighted
from fitness.items import Response
from fitness.objectives import Objectives, ObjectiveSpec

POOLS = {"maths": 100, "words": 50}
FLIPS = ObjectiveSpec("lost", "flips", "minimize")
AGREE = ObjectiveSpec("same", "consistency")


def responses(maths=(1, 0, 1, 0), words=(0, 1)):
    made = [Response("maths", i, float(s)) for i, s in enumerate(maths)]
    return made + [Response("words", i, float(s)) for i, s in enumerate(words)]


def by_item(maths, words):
    scores = {("maths", i): float(s) for i, s in enumerate(maths)}
    return scores | {("words", i): float(s) for i, s in enumerate(words)}


def measure(spec, answers=None, pools=POOLS, **beside):
    return Objectives([spec], pools, None).measure(answers or responses(), **beside)[spec.name]


def test_flips_are_right_answers_lost():
    """Of four, the second was gained, the third kept, the fourth lost: gains do not count."""
    found = measure(FLIPS, incumbent=by_item((0, 0, 1, 1), (1, 1)))
    parts = [mean_estimate([0, 0, 0, 1], 100), mean_estimate([1, 0], 50)]
    assert found == weighted(parts, [100, 50])
    assert found.value == pytest.approx((100 * 0.25 + 50 * 0.5) / 150)


def test_flips_of_graded_answers_are_what_was_lost():
    spec = ObjectiveSpec("lost", "flips", "minimize", {"maths": 1})
    found = measure(spec, responses(maths=(0.2, 0.9, 0.5)), incumbent=by_item((0.5, 0.4, 0.5), ()))
    assert found.value == pytest.approx(0.1)


def test_the_incumbent_loses_nothing():
    same = {(r.task, r.index): r.score for r in responses()}
    found = measure(FLIPS, incumbent=same)
    assert found.value == 0
    assert found.se > 0
    all_of_them = measure(FLIPS, incumbent=same, pools={"maths": 4, "words": 2})
    assert all_of_them.se == 0


def test_flips_speak_for_further_items_on_request():
    answers = [Response("maths", i, float(i % 2)) for i in range(4)]
    objectives = Objectives([FLIPS], {"maths": 4}, None)
    incumbent = {("maths", i): 1.0 for i in range(4)}
    assert objectives.measure(answers, incumbent=incumbent)["lost"].se == 0
    further = objectives.measure(answers, finite=False, incumbent=incumbent)["lost"]
    assert further == mean_estimate([1, 0, 1, 0], None)


@pytest.mark.parametrize(
    ("spec", "what"), [(FLIPS, "the incumbent's score"), (AGREE, "the neighbours' agreement")]
)
@pytest.mark.parametrize("known", [None, by_item((1, 1, 1), (1, 1))])
def test_every_item_must_have_its_number(spec, what, known):
    count = 6 if known is None else 1
    message = rf"objective '{spec.name}': {count} items without {what}, such as \[\('maths', \d\)\]"
    with pytest.raises(FitnessError, match=message):
        measure(spec, incumbent=known, agreement=known)


def test_agreement_is_a_mean_over_items():
    found = measure(AGREE, agreement=by_item((1, 0.5, 0, 0.5), (1, 1)))
    parts = [mean_estimate([1, 0.5, 0, 0.5], 100), mean_estimate([1, 1], 50)]
    assert found == weighted(parts, [100, 50])


def test_the_error_of_flips_covers_the_truth():
    """A pool of 400 items, of which candidates answer 40: nine of ten intervals hold the truth."""
    draw = np.random.default_rng(0)
    incumbent = draw.random(400) < 0.6
    candidate = np.where(draw.random(400) < 0.85, incumbent, ~incumbent)
    truth = np.mean(incumbent & ~candidate)
    spec = ObjectiveSpec("lost", "flips", "minimize", {"maths": 1})
    objectives = Objectives([spec], {"maths": 400}, None)
    scores = {("maths", i): float(s) for i, s in enumerate(incumbent)}
    covered = 0
    for _ in range(500):
        asked = draw.choice(400, 40, replace=False)
        answers = [Response("maths", int(i), float(candidate[i])) for i in asked]
        found = objectives.measure(answers, incumbent=scores)["lost"]
        assert math.isfinite(found.se)
        covered += abs(found.value - truth) <= 1.645 * found.se
    assert 0.88 < covered / 500 < 0.99
