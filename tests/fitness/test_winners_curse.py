"""The correction of a picked score, by simulations in which the truth is known."""

import numpy as np
import pytest

from fitness.errors import FitnessError
from fitness.winners_curse import corrected_best, corrected_value, shared_error

TRIALS = 250

ABILITIES = {
    "equal": lambda rng, models: np.zeros(models),
    "normal": lambda rng, models: rng.normal(0, 0.3, models),
    "wide": lambda rng, models: rng.normal(0, 1.0, models),
    "failed merges": lambda rng, models: -rng.exponential(0.6, models) * (rng.random(models) < 0.8),
}


def chances(ability, difficulty):
    """[models, items], of a right answer."""
    return 1 / (1 + np.exp(-2 * (ability[:, None] + difficulty)))


def picks(kind, models, items):
    """Simulated picks of the best: (answers [models, items], the one picked, its true score)."""
    rng = np.random.default_rng(11)
    every = rng.normal(0, 1.5, 4000)
    for _ in range(TRIALS):
        ability = ABILITIES[kind](rng, models)
        answers = rng.random((models, items)) < chances(ability, rng.normal(0, 1.5, items))
        scores = answers.mean(1)
        picked = int(rng.choice(np.flatnonzero(scores == scores.max())))
        yield answers.astype(float), picked, chances(ability[[picked]], every).mean()


@pytest.mark.parametrize("kind", ABILITIES)
@pytest.mark.parametrize(("models", "items"), [(6, 60), (50, 30)])
def test_nearly_unbiased_where_the_plain_score_is_points_off(kind, models, items):
    plain, errors, held = [], [], 0
    for answers, picked, truth in picks(kind, models, items):
        found = corrected_best([answers], picked)
        plain.append(answers[picked].mean() - truth)
        errors.append(found.value - truth)
        held += found.low <= truth <= found.high
    noise = np.std(errors) / np.sqrt(TRIALS)
    assert abs(np.mean(errors)) < 0.012 + 3 * noise
    assert abs(np.mean(errors)) < abs(np.mean(plain)) + noise
    assert 0.90 <= held / TRIALS <= 0.99
    if models == 50 and kind != "wide":
        assert np.mean(plain) > 0.07, "the case is hard enough to need a correction"
        assert np.mean(np.square(errors)) < np.mean(np.square(plain))


def test_values_and_errors_alone_will_do():
    errors, held = [], 0
    for answers, picked, truth in picks("normal", 50, 100):
        ses = answers.std(1) / 10
        shared = shared_error(answers)
        found = corrected_value([answers.mean(1)], [ses], picked, shared=shared)
        errors.append(found.value - truth)
        held += found.low <= truth <= found.high
    assert abs(np.mean(errors)) < 0.012 + 3 * np.std(errors) / np.sqrt(TRIALS)
    assert 0.90 <= held / TRIALS <= 0.99


def test_nothing_is_taken_off_a_clear_winner_or_one_alone():
    rng = np.random.default_rng(1)
    answers = (rng.random((6, 100)) < 0.2).astype(float)
    answers[4] = rng.random(100) < 0.9
    assert corrected_best([answers], 4).luck == pytest.approx(0, abs=1e-9)
    alone = corrected_best([answers[[4]]], 0)
    assert (alone.luck, alone.value) == (0, answers[4].mean())
    far = corrected_value([[0.9, 0.2, 0.3]], [[0.03, 0.03, 0.03]], 0)
    assert far.luck == pytest.approx(0, abs=1e-9)


def test_copies_of_one_model_are_no_choice():
    answers = np.tile((np.arange(40) % 3 == 0).astype(float), (10, 1))
    found = corrected_best([answers], 2)
    assert found.luck == pytest.approx(0, abs=1e-9)


def test_two_tasks_weigh_as_they_are_told():
    rng = np.random.default_rng(2)
    tasks = [(rng.random((8, n)) < 0.5).astype(float) for n in (30, 90)]
    one = corrected_best(tasks, 3, [1, 0])
    assert one.value + one.luck == pytest.approx(tasks[0][3].mean())
    mean = corrected_best(tasks, 3, [3, 1])
    assert mean.value + mean.luck == pytest.approx(
        0.75 * tasks[0][3].mean() + 0.25 * tasks[1][3].mean()
    )


def test_the_rule_of_the_pick_counts():
    """Picked for the first task's score, the luck lies there and not in the second's."""
    rng = np.random.default_rng(3)
    tasks = [(rng.random((20, 60)) < 0.5).astype(float) for _ in range(2)]
    first = [
        corrected_best(tasks, 0, w, pick=lambda means: int(np.argmax(means[0])))
        for w in ([1, 0], [0, 1])
    ]
    assert first[0].luck > 0.06
    assert abs(first[1].luck) < 0.02
    least = corrected_best(tasks[:1], 0, pick=lambda means: int(np.argmin(means[0])))
    assert least.luck < -0.06, "the least of many, where lower is better, is too low"
    several = corrected_best(tasks[:1], 0, pick=lambda means: np.argsort(means[0])[-10:].tolist())
    assert 0.01 < several.luck < first[0].luck


def test_it_repeats():
    rng = np.random.default_rng(4)
    answers = (rng.random((5, 30)) < 0.5).astype(float)
    assert corrected_best([answers], 1, seed=5) == corrected_best([answers], 1, seed=5)


def test_what_models_share():
    rng = np.random.default_rng(5)
    items = rng.random(300)
    assert shared_error(rng.random((20, 300)) < 0.5) == pytest.approx(0, abs=0.02)
    same = np.tile(items, (20, 1))
    assert shared_error(same) == pytest.approx(1)
    half = (items - 0.5) + rng.uniform(-0.5, 0.5, (20, 300))  # item and rest of equal variance
    assert shared_error(half) == pytest.approx(0.5, abs=0.05)
    gaps = np.where(rng.random(half.shape) < 0.6, half, np.nan)
    gaps[7] = np.nan
    assert shared_error(gaps) == pytest.approx(0.5, abs=0.05)
    assert shared_error([[0.1, 0.2]]) == 0
    assert shared_error(np.full((3, 4), np.nan)) == 0


@pytest.mark.parametrize(
    ("scores", "picked", "match"),
    [
        ([np.ones((3, 1))], 0, "at least 2 items"),
        ([np.ones((3, 4)), np.ones((2, 4))], 0, "same models"),
        ([np.ones((3, 4))], 3, "picked"),
        ([np.ones(3)], 0, "same models"),
        ([], 0, "weights"),
    ],
)
def test_bad_arrays(scores, picked, match):
    with pytest.raises(FitnessError, match=match):
        corrected_best(scores, picked)


@pytest.mark.parametrize(
    ("values", "ses", "shared"),
    [([[1, 2]], [[1]], 0), ([[1, np.nan]], [[1, 1]], 0), ([[1, 2]], [[1, 1]], 1.5)],
)
def test_bad_values(values, ses, shared):
    with pytest.raises(FitnessError, match="finite error"):
        corrected_value(values, ses, 0, shared=shared)
