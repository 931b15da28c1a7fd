"""What every selection keeps to."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitness.banks import ItemBank
from fitness.errors import FitnessError
from fitness.irt import ItemModel, fit_items
from fitness.item_selection import SELECTIONS, select_items
from tests.fitness.irt.simulated import simulated

EVERY = pytest.mark.parametrize("how", SELECTIONS)
NESTED = [how for how, selection in SELECTIONS.items() if selection.nested]


@cache
def model_of(bank: ItemBank) -> ItemModel:
    """The bank's item model, fitted once for all tests."""
    return fit_items(bank.responses)


def chosen_from(bank: ItemBank, how: str, count: int, **options: Any) -> list[int]:
    return select_items(how, bank, count, model=model_of(bank), **options).tolist()


def bank_of(models: int = 40, items: int = 60, gaps: float = 0.0) -> ItemBank:
    responses = simulated(models, items, seed=models).responses
    holes = np.random.default_rng(1).random(responses.shape) < gaps
    return ItemBank.of(np.where(holes, np.nan, responses))


BANKS = {
    "whole": bank_of(),
    "with gaps": bank_of(gaps=0.5),
    "three items": bank_of(20, 3),
    "one model": bank_of(1, 12),
    "graded": ItemBank.of(simulated(20, 30).probabilities),
    "items all alike": ItemBank.of(np.tile(simulated(20, 1).responses, 15)),
    "all right": ItemBank.of(np.ones((5, 7))),
}
EVERYWHERE = pytest.mark.parametrize("bank", BANKS.values(), ids=BANKS)


@EVERY
@EVERYWHERE
def test_as_many_distinct_positions_as_asked(how: str, bank: ItemBank):
    for count in range(1, len(bank) + 1, max(1, len(bank) // 9)):
        chosen = chosen_from(bank, how, count)
        assert len(set(chosen)) == len(chosen) == count
        assert set(chosen) <= set(range(len(bank)))


@EVERY
@EVERYWHERE
def test_all_items_is_the_whole_pool(how: str, bank: ItemBank):
    assert sorted(chosen_from(bank, how, len(bank))) == list(range(len(bank)))


@EVERY
@EVERYWHERE
def test_the_core_comes_first_in_its_order(how: str, bank: ItemBank):
    for count in {2, 3, (len(bank) + 2) // 2, len(bank)}:
        chosen = chosen_from(bank, how, count, core=[2, 0])
        assert chosen[:2] == [2, 0]
        assert len(set(chosen)) == len(chosen) == count


@EVERY
@EVERYWHERE
def test_the_same_call_chooses_the_same(how: str, bank: ItemBank):
    first, second = (chosen_from(bank, how, (len(bank) + 1) // 2, seed=3) for _ in range(2))
    assert first == second


@EVERY
def test_a_model_that_is_not_given_is_fitted(how: str):
    bank = BANKS["with gaps"]
    chosen = select_items(how, bank, 9)
    assert chosen.dtype == np.intp
    assert chosen.tolist() == chosen_from(bank, how, 9)


@pytest.mark.parametrize("how", NESTED)
@EVERYWHERE
def test_fewer_are_the_first_of_more(how: str, bank: ItemBank):
    all_of_them = chosen_from(bank, how, len(bank))
    for count in range(1, len(bank), 4):
        assert chosen_from(bank, how, count) == all_of_them[:count]


@pytest.mark.parametrize("how", NESTED)
def test_a_nested_selection_goes_on_from_its_own_core(how: str):
    bank = BANKS["whole"]
    more = chosen_from(bank, how, 30)
    assert chosen_from(bank, how, 30, core=more[:10]) == more


def test_another_process_chooses_the_same():
    code = (
        "from fitness.item_selection import SELECTIONS, select_items;"
        "from tests.fitness.item_selection.test_selections import BANKS;"
        "print([select_items(h, BANKS['with gaps'], 20).tolist() for h in SELECTIONS])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    here = [select_items(how, BANKS["with gaps"], 20).tolist() for how in SELECTIONS]
    assert told == {str(here)}


@EVERY
def test_the_bank_and_the_core_are_left_as_they_were(how: str):
    bank, core = bank_of(), np.array([5, 1, 9])
    before = bank.responses.copy()
    chosen = select_items(how, bank, 3, core=core)
    chosen[:] = 0
    np.testing.assert_array_equal(core, [5, 1, 9])
    select_items(how, bank, 12, core=core)
    np.testing.assert_array_equal(core, [5, 1, 9])
    np.testing.assert_array_equal(bank.responses, before)


@EVERY
def test_its_table_entry_says_what_it_is(how: str):
    entry = SELECTIONS[how]
    assert entry.needs in ("nothing", "responses", "item parameters")
    assert entry.summary.endswith(".")


@EVERY
@pytest.mark.parametrize(
    ("count", "core", "message"),
    [
        (0, [], r"count = 0: the bank has 60 items, 0 of them in the core; ask for 1 to 60"),
        (61, [], "count = 61"),
        (2, [1, 2, 3], "count = 2: the bank has 60 items, 3 of them in the core; ask for 3 to 60"),
        (5, [1, 1], r"core \[1, 1\]: it holds distinct positions from 0 to 59"),
        (5, [-1], r"core \[-1\]"),
        (5, [60], r"core \[60\]"),
    ],
)
def test_counts_and_cores_that_cannot_be_are_refused(
    how: str, count: int, core: list[int], message: str
):
    with pytest.raises(FitnessError, match=message):
        select_items(how, BANKS["whole"], count, core=core)


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(FitnessError, match=r"'stratify': unknown; did you mean 'stratified'\?"):
        select_items("stratify", BANKS["whole"], 3)
