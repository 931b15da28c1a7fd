"""Ability posteriors against the slow obvious integral, the truth, and limits."""

import numpy as np
import pytest

from fitness.errors import FitnessError
from fitness.irt import Ability, ItemModel, Prior, ability
from tests.fitness.irt.simulated import logistic, simulated


def known(items: int, dims: int = 1, seed: int = 0, models: int = 1):
    """An item model of the true parameters, and who they were drawn with."""
    truth = simulated(models, items, dims, seed)
    covariances = np.zeros((items, dims + 1, dims + 1))
    spreads = np.tile(np.eye(dims), (models, 1, 1))
    return ItemModel(truth.slopes, truth.intercepts, covariances, truth.theta, spreads), truth


def by_sum(model: ItemModel, items: np.ndarray, scores: np.ndarray, prior: Prior) -> Ability:
    """The posterior by brute force: sums over a wide fine grid."""
    axis = np.linspace(-8, 8, 4001 if model.dims == 1 else 321)
    grid = np.stack(np.meshgrid(*[axis] * model.dims, indexing="ij"), -1).reshape(-1, model.dims)
    p = logistic(grid @ model.slopes[items].T + model.intercepts[items])
    off = grid - prior.mean
    log = np.log(p) @ scores + np.log(1 - p) @ (1 - scores)
    log -= np.einsum("ni,ij,nj->n", off, np.linalg.inv(prior.covariance), off) / 2
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    mean = weights @ grid
    return Ability(mean, (grid - mean).T @ ((grid - mean) * weights[:, None]))


@pytest.mark.parametrize("count", [1, 5, 60])
@pytest.mark.parametrize("prior", [None, Prior(np.array([1.5]), np.array([[0.25]]))])
def test_one_dimension_is_the_exact_posterior(count: int, prior: Prior | None):
    model, truth = known(60, models=20)
    items = np.random.default_rng(1).permutation(60)[:count]
    for scores in (truth.responses[3, items], np.ones(count), np.zeros(count)):
        found = ability(model, items, scores, prior)
        slow = by_sum(model, items, scores, prior or Prior(np.zeros(1), np.eye(1)))
        np.testing.assert_allclose(found.mean, slow.mean, atol=1e-4)
        np.testing.assert_allclose(found.covariance, slow.covariance, rtol=1e-3)


def test_two_dimensions_are_near_the_exact_posterior():
    model, truth = known(100, dims=2, models=5, seed=2)
    items = np.arange(100)
    prior = Prior(np.array([0.5, -0.5]), np.array([[1.0, 0.3], [0.3, 0.5]]))
    for scores in truth.responses:
        found, slow = ability(model, items, scores, prior), by_sum(model, items, scores, prior)
        np.testing.assert_allclose(found.mean, slow.mean, atol=0.06)
        np.testing.assert_allclose(found.covariance, slow.covariance, atol=0.015)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_posterior_covers_the_truth(dims: int):
    model, truth = known(200, dims, seed=3, models=400)
    items = np.arange(0, 200, 5)
    inside = []
    for theta, scores in zip(truth.theta, truth.responses[:, items], strict=True):
        found = ability(model, items, scores)
        off = (theta - found.mean) / np.sqrt(np.diagonal(found.covariance))
        inside.append(np.abs(off) < 1.645)
    assert np.all(np.abs(np.mean(inside, axis=0) - 0.9) < 0.05)


@pytest.mark.parametrize("dims", [1, 2])
def test_no_answers_leave_the_prior(dims: int):
    model, _ = known(5, dims)
    prior = Prior(np.full(dims, 0.7), 0.4 * np.eye(dims))
    found = ability(model, np.array([], dtype=np.intp), np.array([]), prior)
    np.testing.assert_allclose(found.mean, prior.mean)
    np.testing.assert_allclose(found.covariance, prior.covariance)


def test_every_further_right_answer_raises_the_ability():
    model, _ = known(30, seed=4)
    means = [
        ability(model, np.arange(30), (np.arange(30) < right).astype(np.float64)).mean[0]
        for right in range(31)
    ]
    assert np.all(np.diff(means) > 0)


def test_graded_scores_lie_between_wrong_and_right():
    model, _ = known(10, seed=5)
    means = [
        ability(model, np.arange(10), np.full(10, score)).mean[0] for score in (0, 0.3, 0.7, 1)
    ]
    assert means == sorted(set(means))


@pytest.mark.parametrize("dims", [1, 2])
def test_the_order_of_the_items_does_not_matter(dims: int):
    model, truth = known(50, dims, seed=6)
    items = np.arange(0, 50, 2)
    scores = truth.responses[0, items]
    there, back = ability(model, items, scores), ability(model, items[::-1], scores[::-1])
    np.testing.assert_allclose(there.mean, back.mean, atol=1e-9)
    np.testing.assert_allclose(there.covariance, back.covariance, atol=1e-9)


def test_newton_finds_the_mode_from_a_prior_far_away():
    # A full Newton step from 20 would overshoot to where the slope is flat as well.
    model, _ = known(200, dims=2, seed=7)
    prior = Prior(np.array([20.0, -20.0]), 100 * np.eye(2))
    scores = model.probabilities([0.5, 0.5])
    found = ability(model, np.arange(200), scores, prior)
    np.testing.assert_allclose(found.mean, [0.5, 0.5], atol=0.05)


def test_wrong_parents_are_left_behind_as_answers_come_in():
    model, truth = known(400, seed=8)
    parents = Prior(truth.theta[0] + 3, np.array([[0.25]]))
    errors = [
        abs(float(ability(model, np.arange(n), truth.responses[0, :n], parents).mean[0]) - t)
        for n in (1, 20, 400)
        for t in truth.theta[0]
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5


@pytest.mark.parametrize(
    ("items", "scores", "prior", "message"),
    [
        ([0, 1], [1.0], None, "there is one score per item"),
        ([0, 9], [1.0, 0.0], None, "items 0 to 9: the model has items 0 to 4"),
        ([-1], [1.0], None, "items -1 to -1"),
        ([0], [1.5], None, r"scores \[1.5\]: a score lies in \[0, 1\]"),
        ([0], [np.nan], None, r"scores \[nan\]"),
        ([0], [1.0], Prior(np.zeros(2), np.eye(2)), "the model has 1 dimensions"),
    ],
)
def test_bad_arguments_are_refused(
    items: list[int], scores: list[float], prior: Prior | None, message: str
):
    model, _ = known(5)
    with pytest.raises(FitnessError, match=message):
        ability(model, np.array(items), np.array(scores), prior)
