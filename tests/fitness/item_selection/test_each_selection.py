"""What makes each selection that selection."""

import itertools

import numpy as np
import pytest

from fitness.banks import ItemBank
from fitness.irt import Ability, ItemModel, fit_items
from fitness.item_selection import select_items
from fitness.item_selection.selection import completed
from fitness.item_selection.variance import shrunk_covariance
from tests.fitness.irt.simulated import logistic, simulated


def of_known(slopes: list[list[float]], intercepts: list[float]) -> tuple[ItemBank, ItemModel]:
    """An item model of these parameters, and a bank of its shape."""
    items, dims = np.shape(slopes)
    model = ItemModel(
        np.array(slopes),
        np.array(intercepts),
        np.zeros((items, dims + 1, dims + 1)),
        np.zeros((1, dims)),
        np.eye(dims)[None],
    )
    return ItemBank.of(np.full((1, items), 0.5)), model


def test_random_takes_every_item_equally_often():
    bank = ItemBank.of(simulated(5, 10).responses)
    drawn = [select_items("random", bank, 5, core=[0], seed=seed) for seed in range(500)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert counts[0] == 500
    assert np.all(np.abs(counts[1:] - 500 * 4 / 9) < 50)


def test_stratified_takes_one_item_of_each_stratum():
    means = np.random.default_rng(0).permutation(30) / 30
    bank = ItemBank.of(np.stack([means, means]))
    chosen = select_items("stratified", bank, 10)
    assert sorted((means[chosen] * 30).round().astype(int) // 3) == list(range(10))


def test_stratified_fills_the_strata_that_the_core_leaves_empty():
    means = np.arange(30) / 30
    bank = ItemBank.of(means[None])
    chosen = select_items("stratified", bank, 10, core=[0, 29, 15])
    assert sorted(chosen // 3) == list(range(10))
    # Three core items share a stratum: of the eight empty ones, two are left out.
    crowded = select_items("stratified", bank, 9, core=[0, 1, 2])
    assert len(set((crowded[3:] * 9 // 30).tolist())) == 6


def test_stratified_takes_every_item_equally_often_even_among_equals():
    bank = ItemBank.of(np.ones((2, 12)))
    drawn = [select_items("stratified", bank, 4, seed=seed) for seed in range(600)]
    counts = np.bincount(np.concatenate(drawn), minlength=12)
    assert np.all(np.abs(counts - 200) < 50)


def test_kmeans_responses_takes_one_item_of_each_kind():
    kinds = (np.random.default_rng(0).random((40, 6)) < 0.5).astype(float)
    which = np.repeat(np.arange(6), [12, 9, 7, 5, 4, 3])
    responses = kinds[:, which]
    bank = ItemBank.of(responses)
    chosen = select_items("kmeans_responses", bank, 6)
    assert which[chosen].tolist() == [0, 1, 2, 3, 4, 5]  # the largest cluster first
    core = [0, 13]
    assert set(which[select_items("kmeans_responses", bank, 6, core=core)]) == set(range(6))


def test_kmeans_parameters_takes_one_item_of_each_kind():
    kinds = np.array([[0.5, -2.0], [0.5, 2.0], [2.0, -2.0], [2.0, 2.0]])
    which = np.repeat(np.arange(4), [6, 5, 4, 3])
    near = kinds[which] + 0.1 * np.random.default_rng(0).standard_normal((18, 2))
    bank, model = of_known(near[:, :1].tolist(), near[:, 1].tolist())
    chosen = select_items("kmeans_parameters", bank, 4, model=model)
    assert which[chosen].tolist() == [0, 1, 2, 3]
    centre = near[which == 0].mean(axis=0)
    squares = ((near[which == 0] - centre) ** 2).sum(axis=1)
    assert chosen[0] == squares.argmin()


@pytest.mark.parametrize("theta", [-2.0, 0.0, 2.0])
def test_information_follows_the_search(theta: float):
    intercepts = np.linspace(-3, 3, 25)
    bank, model = of_known([[1.5]] * 25, intercepts.tolist())
    chosen = select_items("information", bank, 1, ability=np.array([[theta]]), model=model)
    nearest = np.abs(1.5 * theta + intercepts).argmin()
    assert chosen[0] == nearest
    posterior = Ability(np.array([theta]), np.array([[0.3]]))
    assert select_items("information", bank, 1, ability=posterior, model=model)[0] == nearest


def test_information_asks_about_the_dimension_that_is_not_known_yet():
    bank, model = of_known([[1, 0], [1, 0], [1, 0], [0, 0.9]], [0.0] * 4)
    known = Ability(np.zeros(2), np.diag([0.01, 1.0]))
    assert select_items("information", bank, 1, ability=known, model=model)[0] == 3
    other = Ability(np.zeros(2), np.diag([1.0, 0.01]))
    assert select_items("information", bank, 1, ability=other, model=model)[0] != 3


def test_information_is_the_greedy_minimum_of_what_stays_unknown():
    rng = np.random.default_rng(0)
    slopes, intercepts = rng.standard_normal((12, 2)), rng.standard_normal(12)
    bank, model = of_known(slopes.tolist(), intercepts.tolist())
    theta = np.array([0.3, -0.2])
    noise = logistic(slopes @ theta + intercepts)
    noise *= 1 - noise

    def unknown(items: list[int]) -> float:
        answered = np.isin(np.arange(12), items)
        weighted = slopes * noise[:, None]
        precision = np.eye(2) + slopes[answered].T @ weighted[answered]
        gradient = weighted[~answered].sum(axis=0)
        return float(gradient @ np.linalg.inv(precision) @ gradient + noise[~answered].sum())

    expected: list[int] = []
    for _ in range(6):
        rest = [item for item in range(12) if item not in expected]
        expected.append(min(rest, key=lambda item: unknown([*expected, item])))
    chosen = select_items("information", bank, 6, ability=theta[None], model=model)
    assert chosen.tolist() == expected


def test_variance_is_the_greedy_minimum_of_the_prediction_error():
    responses = simulated(30, 12, seed=1).responses
    covariance = shrunk_covariance(responses)

    def unknown(items: list[int]) -> float:
        inner = covariance[np.ix_(items, items)]
        across = covariance[items].sum(axis=1)
        return float(covariance.sum() - across @ np.linalg.solve(inner, across))

    expected: list[int] = []
    for _ in range(6):
        rest = [item for item in range(12) if item not in expected]
        expected.append(min(rest, key=lambda item: unknown([*expected, item])))
    assert select_items("variance", ItemBank.of(responses), 6).tolist() == expected


def test_shrinkage_is_that_of_the_slow_formula():
    responses = simulated(15, 6, seed=2).responses
    centred = responses - responses.mean(axis=0)
    plain = np.cov(responses.T)
    error = signal = 0.0
    for i, j in itertools.permutations(range(6), 2):
        w = centred[:, i] * centred[:, j]
        error += 15 / 14**3 * float(((w - w.mean()) ** 2).sum())
        signal += float(plain[i, j] ** 2)
    expected = plain * (1 - error / signal)
    np.fill_diagonal(expected, plain.diagonal())
    np.testing.assert_allclose(shrunk_covariance(responses), expected)


def test_gaps_are_filled_with_what_model_and_item_suggest():
    responses = np.array([[1.0, 0.5, np.nan], [0.5, 0.0, 0.25]])
    # Model mean 0.75, item mean 0.25, overall mean 0.45.
    np.testing.assert_allclose(completed(responses)[0], [1, 0.5, 0.55])
    np.testing.assert_array_equal(completed(responses)[1], responses[1])


@pytest.mark.parametrize("how", ["information", "variance", "stratified"])
def test_better_than_chance_where_it_should_be(how: str):
    """The mean of 15 of 150 items, read by the item model: root mean squared error."""
    truth = simulated(260, 150, seed=3)
    calibration, held_out = truth.responses[:60], truth.responses[60:]
    model = fit_items(calibration)
    grid = np.linspace(-4, 4, 81)[:, None]
    p = model.probabilities(grid)

    def error(chosen: np.ndarray) -> float:
        answers = held_out[:, chosen]
        log = answers @ np.log(p[:, chosen]).T + (1 - answers) @ np.log(1 - p[:, chosen]).T
        weights = np.exp(log - grid[:, 0] ** 2 / 2)
        expected = weights / weights.sum(axis=1, keepdims=True) @ p
        expected[:, chosen] = answers
        return float(np.sqrt(np.mean((expected.mean(axis=1) - held_out.mean(axis=1)) ** 2)))

    bank = ItemBank.of(calibration)
    own = np.mean([error(select_items(how, bank, 15, seed=seed)) for seed in range(5)])
    random = np.mean([error(select_items("random", bank, 15, seed=seed)) for seed in range(20)])
    assert own < (0.97 if how == "stratified" else 0.85) * random
