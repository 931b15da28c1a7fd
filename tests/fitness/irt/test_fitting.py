"""Item fits against the truth, an independent library, and cases worked by hand."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import girth
import numpy as np
import pytest
from scipy.special import expit

from fitness.errors import FitnessError
from fitness.irt import ItemModel, fit_items
from fitness.irt.marginal import fit_marginal
from fitness.irt.variational import fit_variational
from tests.fitness.irt.simulated import Array, rms, simulated

DIMS = pytest.mark.parametrize("dims", [1, 2])


def test_one_dimension_recovers_the_truth():
    truth = simulated(1000, 40)
    model = fit_items(truth.responses)
    assert rms(model.slopes - truth.slopes) < 0.2
    assert rms(model.intercepts - truth.intercepts) < 0.15
    assert np.corrcoef(model.abilities[:, 0], truth.theta[:, 0])[0, 1] > 0.9


def test_one_dimension_agrees_with_girth():
    # girth has another prior (none on items but bounds), so on the same answers both miss the
    # truth alike and differ from each other by less than from it.
    truth = simulated(600, 30, seed=1)
    model = fit_items(truth.responses)
    theirs = girth.twopl_mml(truth.responses.T.astype(int))
    slopes = theirs["Discrimination"]
    intercepts = -slopes * theirs["Difficulty"]
    assert np.corrcoef(model.slopes[:, 0], slopes)[0, 1] > 0.97
    assert np.corrcoef(model.intercepts, intercepts)[0, 1] > 0.99
    assert rms(model.slopes[:, 0] - slopes) < rms(slopes - truth.slopes[:, 0])
    assert rms(model.intercepts - intercepts) < 0.1
    grid = np.linspace(-2, 2, 9)[:, None]
    assert rms(model.probabilities(grid) - expit(grid * slopes + intercepts)) < 0.02


def test_two_dimensions_beat_one_where_there_are_two():
    truth = simulated(200, 150, dims=2, seed=2)
    errors = {}
    for dims in (1, 2, 3):
        model = fit_items(truth.responses, dims)
        errors[dims] = rms(model.probabilities(model.abilities) - truth.probabilities)
    assert errors[2] < 0.6 * errors[1]
    assert errors[3] < 1.1 * errors[2]  # a dimension too many is drawn to nothing


def test_several_dimensions_agree_with_the_marginal_fit_where_there_is_one():
    truth = simulated(300, 200, seed=3)
    one, two = fit_items(truth.responses, 1), fit_items(truth.responses, 2)
    assert rms(two.slopes[:, 1]) < 0.25 * rms(two.slopes[:, 0])
    grid = np.linspace(-2, 2, 9)
    flat = np.stack([grid, np.zeros(9)], axis=1)
    assert rms(one.probabilities(grid[:, None]) - two.probabilities(flat)) < 0.03


@DIMS
def test_calibration_models_are_standard(dims: int):
    model = fit_items(simulated(80, 100, dims).responses, dims)
    abilities = model.abilities
    second = abilities.T @ abilities / len(abilities) + model.ability_covariances.mean(axis=0)
    np.testing.assert_allclose(abilities.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(second, np.eye(dims), atol=1e-6)


def test_dimensions_are_ordered_and_point_to_where_more_is_solved():
    model = fit_items(simulated(200, 100, dims=3).responses, 3)
    products = model.slopes.T @ model.slopes
    sizes = products.diagonal()
    assert np.all(np.diff(sizes) <= 0)
    np.testing.assert_allclose(products, np.diag(sizes), atol=1e-8 * sizes[0])
    assert np.all(model.slopes.sum(axis=0) >= 0)


@DIMS
def test_responses_may_be_missing(dims: int):
    truth = simulated(300, 60, dims, seed=4)
    full = fit_items(truth.responses, dims)
    holes = np.where(np.random.default_rng(5).random((300, 60)) < 0.5, np.nan, truth.responses)
    half = fit_items(holes, dims)
    own = rms(full.probabilities(full.abilities) - truth.probabilities)
    error = rms(half.probabilities(half.abilities) - truth.probabilities)
    assert own < error < 2 * own
    # A hole is not a wrong answer.
    assert abs(half.intercepts.mean() - full.intercepts.mean()) < 0.15


@DIMS
def test_a_graded_score_is_a_fraction_of_a_right_answer(dims: int):
    truth = simulated(300, 60, dims, seed=6)
    model = fit_items(truth.probabilities, dims)
    drawn = fit_items(truth.responses, dims)
    errors = [rms(m.probabilities(m.abilities) - truth.probabilities) for m in (model, drawn)]
    assert errors[0] < 0.6 * errors[1]  # no noise in these answers


@DIMS
def test_items_that_nobody_or_everybody_solves_stay_finite(dims: int):
    responses = simulated(50, 30, dims, seed=7).responses
    responses[:, 3], responses[:, 4] = 0, 1
    model = fit_items(responses, dims)
    assert np.all(np.abs(model.intercepts) < 10)
    assert np.all(np.abs(model.slopes) < 5)
    p = model.probabilities(np.zeros(dims))
    assert p[3] == p.min() < 0.1
    assert p[4] == p.max() > 0.9


@DIMS
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_responses_that_are_all_alike(dims: int, value: float):
    model = fit_items(np.full((10, 8), value), dims)
    assert np.all(np.isfinite(model.slopes))
    p = model.probabilities(model.abilities)
    assert np.all(np.abs(p - value) < 0.2)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("shape", [(4, 4), (11, 12), (6, 40), (40, 6)])
@pytest.mark.parametrize("alike", ["models", "items"])
@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_fits_without_noise_stay_within_bounds(
    dims: int, shape: tuple[int, int], alike: str, gaps: float
):
    # Here the likelihood has no maximum: only the prior keeps the parameters from running away.
    rng = np.random.default_rng(12)
    across = (1, shape[1]) if alike == "models" else (shape[0], 1)
    responses = np.broadcast_to((rng.random(across) < 0.5).astype(float), shape).copy()
    holes = rng.random(shape) < gaps
    holes[0], holes[:, 0] = False, False
    responses[holes] = np.nan
    model = fit_items(responses, dims)
    assert np.abs(model.slopes).max() < 20
    assert np.abs(model.intercepts).max() < 20
    assert np.linalg.eigvalsh(model.covariances).min() > 0
    assert np.linalg.eigvalsh(model.ability_covariances).min() > 0
    given = ~np.isnan(responses)
    p = model.probabilities(model.abilities)
    assert rms((p - responses)[given]) < 0.4


@DIMS
def test_an_item_with_a_wrong_key_has_a_negative_slope(dims: int):
    responses = simulated(60, 80, seed=8).responses
    rate = responses.mean(axis=0)
    wrong = int(np.argmin(np.abs(rate - 0.5)))
    responses[:, wrong] = 1 - responses[:, wrong]
    model = fit_items(responses, dims)
    slope, error = model.slopes[wrong, 0], np.sqrt(model.covariances[wrong, 0, 0])
    assert slope < -2 * error
    assert (model.slopes[:, 0] < -2 * np.sqrt(model.covariances[:, 0, 0])).sum() == 1


@pytest.mark.parametrize("fit", [fit_marginal, partial(fit_variational, dims=1)])
def test_stated_errors_are_honest(fit: Callable[[Array], ItemModel]):
    truth = simulated(400, 200, seed=9)
    model = fit(truth.responses)
    found = np.column_stack([model.slopes, model.intercepts])
    off = found - np.column_stack([truth.slopes, truth.intercepts])
    z = off / np.sqrt(np.diagonal(model.covariances, axis1=1, axis2=2))
    assert np.all(z.std(axis=0) > 0.8)
    assert np.all(z.std(axis=0) < 1.25)


@DIMS
def test_twin_items_and_twin_models_get_the_same(dims: int):
    responses = simulated(40, 20, dims, seed=10).responses
    responses[:, 7], responses[9] = responses[:, 3], responses[5]
    model = fit_items(responses, dims)
    np.testing.assert_allclose(model.slopes[7], model.slopes[3], atol=1e-9)
    np.testing.assert_allclose(model.abilities[9], model.abilities[5], atol=1e-9)


def test_half_of_two_models_solve_half_of_two_items():
    # By symmetry (swap the models and the answers), the abilities and intercepts are opposite.
    model = fit_items([[1, 1], [0, 0]])
    assert model.abilities[0, 0] == pytest.approx(-model.abilities[1, 0])
    assert model.abilities[0, 0] > 0.3
    np.testing.assert_allclose(model.intercepts, 0, atol=1e-3)
    np.testing.assert_allclose(model.slopes[0], model.slopes[1])


def test_one_model_is_enough_to_rank_its_items():
    model = fit_items([[1, 0, 0.5]])
    assert model.intercepts[0] > model.intercepts[2] > model.intercepts[1]
    assert model.abilities.shape == (1, 1)


def test_probabilities_and_information_by_hand():
    model = ItemModel(
        slopes=np.array([[2.0, 0.0], [1.0, -1.0]]),
        intercepts=np.array([0.0, np.log(3)]),
        covariances=np.zeros((2, 3, 3)),
        abilities=np.zeros((1, 2)),
        ability_covariances=np.eye(2)[None],
    )
    np.testing.assert_allclose(model.probabilities([0, 0]), [0.5, 0.75])
    np.testing.assert_allclose(model.probabilities([[0, 0], [0, np.log(3)]])[1], [0.5, 0.5])
    expected = [[[1, 0], [0, 0]], [[3 / 16, -3 / 16], [-3 / 16, 3 / 16]]]
    np.testing.assert_allclose(model.information([0, 0]), expected)


@DIMS
def test_another_process_fits_the_same_bits(dims: int):
    code = (
        "from tests.fitness.irt.simulated import simulated; from fitness.irt import fit_items;"
        f"m = fit_items(simulated(30, 40, seed=11).responses, {dims});"
        "print((m.slopes.tobytes() + m.intercepts.tobytes() + m.abilities.tobytes()).hex())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    model = fit_items(simulated(30, 40, seed=11).responses, dims)
    here = model.slopes.tobytes() + model.intercepts.tobytes() + model.abilities.tobytes()
    assert run.stdout.strip() == here.hex()


@pytest.mark.parametrize(
    ("responses", "dims", "message"),
    [
        ([0.0, 1.0], 1, r"responses of shape \[2\]"),
        (np.zeros((0, 3)), 1, r"responses of shape \[0, 3\]"),
        ([[0.0, 1.5]], 1, r"they lie in \[0, 1\]"),
        ([[0.0, np.inf]], 1, r"they lie in \[0, 1\]"),
        ([[0.0, np.nan], [1.0, np.nan]], 1, "each model and each item has at least one"),
        (np.zeros((2, 9)), 2, "dims = 2: 2 models and 9 items carry 1 to 1"),
        (np.zeros((5, 9)), 0, "dims = 0"),
    ],
)
def test_bad_responses_are_refused(responses: object, dims: int, message: str):
    with pytest.raises(FitnessError, match=message):
        fit_items(responses, dims)  # pyright: ignore[reportArgumentType]
