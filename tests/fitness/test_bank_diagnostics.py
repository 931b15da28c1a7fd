"""Diagnostics on banks whose faults were put in by hand, and on banks without any."""

import numpy as np
import pytest

from fitness.bank_diagnostics import diagnose
from fitness.banks import ItemBank


def simulated(seed: int, models: int = 50, items: int = 80, slope: float = 1.5) -> np.ndarray:
    """[models, items] answers of a two-parameter logistic model, 0 or 1."""
    rng = np.random.default_rng(seed)
    ability, difficulty = rng.normal(size=models), rng.normal(size=items)
    slopes = slope * np.exp(0.3 * rng.normal(size=items))
    chance = 1 / (1 + np.exp(-slopes * (ability[:, None] - difficulty)))
    return (rng.random((models, items)) < chance).astype(float)


def test_by_hand():
    """Three models, three items: one solved by all, one by none, one by a model."""
    found = diagnose(ItemBank.of([[1, 0, 1], [1, 0, 0], [1, 0, 0]]))
    assert [facts.mean for facts in found.items] == pytest.approx([1, 0, 1 / 3])
    assert [facts.models for facts in found.items] == [3, 3, 3]
    assert (found.solved_by_all, found.solved_by_none) == ((0,), (1,))
    assert found.informative
    assert found.negative == found.duplicates == found.suspicious == ()
    assert found.sentences() == []


def test_discrimination_is_the_correlation_with_the_other_items():
    responses = simulated(3)
    found = diagnose(ItemBank.of(responses))
    for column in (0, 17, 79):
        rest = np.delete(responses, column, axis=1).mean(axis=1)
        expected = np.corrcoef(responses[:, column], rest)[0, 1]
        assert found.items[column].discrimination == pytest.approx(expected)


def test_wrong_keys_are_found_and_little_else():
    found, named = 0, 0
    for seed in range(20):
        responses = simulated(seed, slope=2)
        wrong = np.random.default_rng(seed).choice(80, 4, replace=False)
        responses[:, wrong] = 1 - responses[:, wrong]
        negative = set(diagnose(ItemBank.of(responses)).negative)
        found += len(negative & set(wrong.tolist()))
        named += len(negative)
    assert found >= 0.6 * 80
    assert named - found <= 0.1 * named


def test_clean_banks_name_nothing():
    names = [diagnose(ItemBank.of(simulated(seed))) for seed in range(20)]
    assert sum(len(found.negative) for found in names) <= 1
    assert sum(len(found.duplicates) for found in names) <= 1


def test_the_most_striking_item_comes_first_and_its_sentence_says_what_to_do():
    responses = simulated(1, slope=3)
    responses[:, [5, 9]] = 1 - responses[:, [5, 9]]
    found = diagnose(ItemBank.of(responses))
    assert set(found.negative) == {5, 9}
    worst = min((5, 9), key=lambda item: found.items[item].discrimination)
    assert found.negative[0] == worst
    assert (
        "do well on the other items fail here; usually the answer key is wrong"
        in (found.sentences()[0])
    )


def test_duplicates_are_found_by_their_items_names():
    responses = simulated(2)
    half = int(np.argmin(np.abs(responses.mean(axis=0) - 0.5)))
    responses = np.concatenate([responses, responses[:, [half]]], axis=1)
    names = tuple(range(100, 181))
    bank = ItemBank(responses, tuple(map(str, range(50))), names, ("",) * 81)
    found = diagnose(bank)
    assert found.duplicates == ((100 + half, 180),)
    assert found.suspicious == (180,)
    assert f"items {100 + half} and 180: every model answers them alike" in found.sentences()[0]


def test_equal_columns_that_chance_explains_are_no_duplicates():
    """Solved by nearly all; and items that part the models at one ability (a Guttman scale)."""
    easy = simulated(4)
    easy[:, :5] = 1
    easy[7, :5] = 0
    assert diagnose(ItemBank.of(easy)).duplicates == ()
    steps = (np.arange(60)[:, None] > np.repeat([15, 30, 45], 2)).astype(float)
    assert diagnose(ItemBank.of(steps)).duplicates == ()


def test_few_models_say_nothing_of_keys_and_duplicates():
    responses = np.array([[1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 0]] * 3)
    found = diagnose(ItemBank.of(responses))
    assert found.negative == found.duplicates == ()
    assert all(np.isnan(facts.discrimination) for facts in found.items)


def test_answers_that_were_not_asked_for_count_nowhere():
    responses = simulated(5, models=60)
    responses[:30, 0] = np.nan
    responses[30:, 0] = 1
    found = diagnose(ItemBank.of(responses))
    assert (found.items[0].mean, found.items[0].models) == (1, 30)
    assert found.solved_by_all[0] == 0


def test_a_task_whose_items_all_score_alike():
    """Items differ, models do not: nothing can be learnt of any model."""
    found = diagnose(ItemBank.of([[1, 0, 0.3]] * 12))
    assert not found.informative
    assert (
        "all 12 models score alike on every item: the task tells none of them apart"
        in (found.sentences()[0])
    )
    assert (found.solved_by_all, found.solved_by_none) == ((0,), (1,))
    assert found.items[2].mean == 0.3
