"""Which estimator is used, and what is said of it."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.irt import simulated
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.estimators import ESTIMATORS, build_estimator, choose_estimator
from fitness.item_selection import SELECTIONS

PAGE = Path(__file__).parents[3] / "docs" / "estimators.md"


def bank(models: int) -> ItemBank:
    return ItemBank.of(simulated(1, models, 20))


@pytest.mark.parametrize(
    ("models", "name"), [(1, "mean"), (3, "stratified"), (19, "stratified"), (20, "p_irt")]
)
def test_auto_goes_by_the_number_of_calibration_models(models: int, name: str):
    chosen = choose_estimator("auto", bank(models))
    assert chosen.name == name
    assert f"{models} calibration models" in chosen.reason


@pytest.mark.parametrize("name", [name for name, spec in ESTIMATORS.items() if spec.least > 1])
def test_with_too_few_models_another_is_used_and_it_is_said(name: str):
    least = ESTIMATORS[name].least
    small = bank(least - 1)
    chosen = choose_estimator(name, small)
    assert chosen.name in ("mean", "stratified")
    assert f"'{name}' was asked for, but it needs {least} calibration models" in chosen.reason
    assert f"the bank has {least - 1}" in chosen.reason
    build_estimator(chosen.name, small)
    with pytest.raises(FitnessError, match=f"it needs {least} calibration models"):
        build_estimator(name, small)


def test_what_was_asked_for_is_used_where_it_can_be():
    for name, spec in ESTIMATORS.items():
        parents = ("model 0", "model 1") if spec.parents else ()
        assert choose_estimator(name, bank(25), parents).name == name


def test_no_parents_falls_back():
    chosen = choose_estimator("soft_mp_irt", bank(25))
    assert chosen.name == "p_irt"
    assert "at least 2 parents" in chosen.reason


def test_misspelt_names_are_errors():
    for use in (choose_estimator, build_estimator):
        with pytest.raises(FitnessError, match="'pirt': unknown; did you mean 'p_irt'"):
            use("pirt", bank(25))


def test_the_page_names_every_estimator_and_selection():
    text = PAGE.read_text()
    for name in [*ESTIMATORS, *SELECTIONS]:
        assert f"| `{name}` |" in text, name
    for name, spec in ESTIMATORS.items():
        assert f"| `{name}` | {spec.least} | {spec.good_for} |" in text, name


def test_the_example_of_the_page_runs():
    code = PAGE.read_text().split("```python\n")[1].split("```")[0]
    names: dict = {"responses": simulated(1, 45, 60)[:40], "answers": simulated(1, 45, 60)[44]}
    exec(code, names)
    assert 0 <= names["estimate"].value <= 1
    assert names["estimate"].se > 0
    assert np.ndim(names["items"]) == 1


@pytest.mark.parametrize("wanted", ["auto", "p_irt", "ridge"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_models_that_hardly_differ_tell_nothing(wanted, share):
    """Their bank said 0.897 +- 0.0005 of a model that was right in 6 of 10."""
    chosen = choose_estimator(wanted, ItemBank.of(np.full((25, 40), share)))
    assert chosen.name == "mean"
    assert "hardly differ" in chosen.reason
