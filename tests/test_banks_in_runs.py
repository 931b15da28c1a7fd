"""Run files with item banks, estimators and racing: what is refused, what falls back, what is shown."""

from dataclasses import replace

import numpy as np
import pytest

from evomerge.judging import build_judge
from evomerge.preflight import prepare
from evomerge.race_rules import rules_of
from evomerge.run_file import folder_of, load_run_file
from fitness.bank_files import write_bank
from fitness.banks import ItemBank
from fitness.errors import FitnessError
from search_spaces.errors import InputError

TASKS = {
    "lunari_words": {"items": 8, "selection": 8, "test": 16},
    "sums": {"items": 6, "selection": 6, "test": 12},
}
CHANGES = {"fitness.tasks": TASKS, "fitness.objectives": None}
RACING = {"rungs": [3, 8]}


def prepared(run_file):
    config = load_run_file(run_file)
    return prepare(config, folder_of(config, run_file), thorough=False)


@pytest.fixture
def with_banks(write_run, tmp_path):
    """Write banks of so many models beside a run file; `spoil` changes what is written."""

    def write(models=24, changes=None, spoil=None, bank="banks"):
        run_file = write_run(CHANGES | {"fitness.bank": bank} | (changes or {}))
        searched = prepared(write_run(CHANGES, "plain.yaml")).judge.items["search"]
        for number, task in enumerate(TASKS):
            items = [item for item in searched if item.task == task]
            rng = np.random.default_rng(number)
            right = rng.random((models, len(items))) < rng.uniform(0.1, 0.9, (models, 1))
            columns = {
                "responses": right.astype(float),
                "models": tuple(f"m{n}" for n in range(models)),
                "items": tuple(item.index for item in items),
                "digests": tuple(item.digest for item in items),
                "task": task,
                "metric": "exact_match",
            } | (spoil(items) if spoil else {})
            write_bank(tmp_path / bank / f"{task}.npz", ItemBank(**columns))
        return run_file

    return write


def refused(run_file, *words):
    with pytest.raises((InputError, FitnessError)) as error:
        prepared(run_file)
    for word in words:
        assert word in str(error.value)
    found = error.value
    assert all((found.passed, found.rule, found.where, found.remedy)), "all four parts"


def test_banks_are_matched_to_the_search_items(with_banks):
    found = prepared(with_banks())
    assert set(found.banks) == set(TASKS)
    facts = dict(found.facts)
    assert facts["estimator of sums"].startswith("p_irt: the best by measurement for 24")
    searched = found.judge.items["search"]
    for task, bank in found.banks.items():
        assert bank.items == tuple(item.index for item in searched if item.task == task)


def test_a_folder_without_banks(write_run):
    run_file = write_run(CHANGES | {"fitness.bank": "nowhere"})
    refused(run_file, "fitness.bank 'nowhere'", "no item bank of task 'lunari_words'", "calibrate")


def test_a_bank_of_another_task_version(with_banks):
    changed = with_banks(spoil=lambda items: {"digests": tuple("other" for _ in items)})
    refused(changed, "another digest", "task 'lunari_words'", "calibrate again")


def test_a_bank_of_another_metric(with_banks):
    refused(with_banks(spoil=lambda items: {"metric": "bleu"}), "bleu", "exact_match")


def test_a_bank_of_another_task(with_banks):
    refused(
        with_banks(spoil=lambda items: {"task": "mathematics"}), "'mathematics'", "lunari_words"
    )


def test_another_seed_takes_other_items(with_banks):
    run_file = with_banks(changes={"fitness.seed": 99})
    refused(run_file, "the bank has no responses to", "of the run's 8 items", "calibrate again")


def test_a_file_that_is_no_bank(with_banks, tmp_path):
    run_file = with_banks()
    (tmp_path / "banks" / "sums.npz").write_text("not a bank")
    refused(run_file, "sums.npz")


def test_an_unknown_estimator(with_banks):
    refused(with_banks(changes={"fitness.estimator": "p_itr"}), "p_itr", "did you mean 'p_irt'")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"fitness.estimator": "gp_irt"}, "fitness.estimator"),
        ({"fitness.racing": RACING | {"select": "stratified"}}, "fitness.racing.select"),
        ({"fitness.racing": RACING | {"reselect": 3}}, "fitness.racing.reselect"),
    ],
)
def test_what_reads_banks_needs_one(changes, where, write_run):
    refused(write_run(CHANGES | changes), where, "names none", "evomerge calibrate")


@pytest.mark.parametrize("changes", [{"fitness.estimator": "mean"}, {"fitness.racing": RACING}])
def test_what_needs_no_bank(changes, write_run):
    assert prepared(write_run(CHANGES | changes)).banks == {}


@pytest.mark.parametrize(
    ("racing", "words"),
    [
        ({"rungs": [8, 3]}, ["rungs [8, 3]", "greater than the last"]),
        ({"rungs": [3, 3]}, ["rungs [3, 3]"]),
        ({"rungs": [1, 3]}, ["rungs [1, 3]", "2 or more"]),
        ({"select": "stratified"}, ["nobody races without `rungs`"]),
        ({"again": 1.0}, ["nobody races without `rungs`"]),
        (RACING | {"again": -1}, ["fitness.racing.again"]),
        (RACING | {"doubt": 0.5}, ["fitness.racing.doubt"]),
        (RACING | {"reselect": 0}, ["fitness.racing.reselect"]),
        (RACING | {"rung": [3]}, ["did you mean 'rungs'"]),
    ],
)
def test_bad_racing(racing, words, write_run):
    refused(write_run(CHANGES | {"fitness.racing": racing}), *words)


def test_too_few_models_fall_back_and_check_says_so(with_banks):
    found = prepared(with_banks(models=5, changes={"fitness.estimator": "gp_irt"}))
    for task in TASKS:
        said = dict(found.facts)[f"estimator of {task}"]
        assert said.startswith("stratified: 'gp_irt' was asked for, but it needs 20")
        assert "the bank has 5" in said


def test_an_estimator_of_merges_without_known_parents_falls_back(with_banks):
    found = prepared(with_banks(changes={"fitness.estimator": "mp_irt"}))
    said = dict(found.facts)["estimator of sums"]
    assert said.startswith("p_irt: 'mp_irt' was asked for, but it needs the names of at least 2")


def test_consistency_does_not_race(write_run):
    objectives = ["sums", {"consistency": {}}]
    changes = {"fitness.objectives": objectives, "fitness.racing": RACING}
    refused(write_run(CHANGES | changes), "consistency", "racing.rungs", "asked a second time")


def test_rungs_beyond_the_items_end_with_them(with_banks):
    found = prepared(with_banks(changes={"fitness.racing": {"rungs": [3, 7, 100]}}))
    rules = rules_of(found.config, found.banks, found.judge.items["search"], None)
    assert [len(rung) for rung in rules.rungs] == [6, 7, 1]
    assert sorted(sum(rules.rungs, ())) == list(range(14))


@pytest.mark.parametrize("models", [5, 24])
def test_a_score_of_every_item_is_exact(models, with_banks):
    """Whatever the bank says."""
    found = prepared(with_banks(models))
    judge = found.judge
    banked = build_judge(found.config, found.folder, found.folder, banks=found.banks)
    items = judge.items["search"]
    responses = judge.tasks.score(items, judge.tasks.blank_replies(items))
    responses = [replace(r, score=float(n % 3 == 0)) for n, r in enumerate(responses)]
    whole = banked.measure("search", dict(enumerate(responses)))
    for task in TASKS:
        mine = [r.score for r in responses if r.task == task]
        assert whole[task].value == pytest.approx(np.mean(mine))
        assert whole[task].se == pytest.approx(0, abs=1e-12)
    few = banked.measure("search", {p: responses[p] for p in (0, 3, 9, 12)})
    assert all(0 < e.se < 1 and 0 <= e.value <= 1 for e in few.values())


NAN = float("nan")


@pytest.mark.parametrize(
    ("responses", "models", "words"),
    [
        (np.zeros((0, 3)), (), "shape [0, 3]"),
        (np.zeros((2, 0)), (), "shape [2, 0]"),
        (np.zeros(3), (), "shape [3]"),
        (np.zeros((2, 3, 1)), (), "shape [2, 3, 1]"),
        (np.zeros((2, 3)), ("a",), "[models, items] = [1, 3]"),
        ([[0, 1.5]], (), "response 1.5 of model 'model 0' to item 1"),
        ([[0, -0.1]], (), "response -0.1"),
        ([[0, float("inf")]], (), "response inf"),
        ([[0, 1], [0, 1]], ("a", "a"), "model 'a': it is there twice"),
        ([[0, NAN], [1, NAN]], (), "item 1: it has no response at all"),
        ([[0, 1], [NAN, NAN]], (), "model 'model 1': it has no response at all"),
    ],
)
def test_what_is_no_bank(responses, models, words):
    with pytest.raises(FitnessError) as error:
        ItemBank.of(responses, models, "sums")
    assert words in str(error.value)
    assert "task 'sums'" in str(error.value)
    assert all((error.value.passed, error.value.rule, error.value.where, error.value.remedy))


def test_items_given_twice_and_digests_of_others():
    with pytest.raises(FitnessError, match="item 4: it is there twice"):
        ItemBank([[0, 1]], ("a",), (4, 4), ("", ""))
    with pytest.raises(FitnessError, match="shape"):
        ItemBank([[0, 1]], ("a",), (4, 5), ("",))


def test_a_bank_keeps_its_own_matrix():
    given = np.array([[0.0, 1.0, NAN], [NAN, NAN, 0.5]])
    bank = ItemBank.of(given)
    given[0, 0] = 1
    assert bank.responses[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        bank.responses[0, 0] = 1
    part = bank.subset([1, 0])
    assert (part.models, part.items) == (("model 0",), (1, 0))
    assert part.responses.tolist() == [[1, 0]]
    assert len(part) == 2


def test_an_unknown_selection_is_refused_by_check(with_banks):
    run_file = with_banks(changes={"fitness.racing": RACING | {"select": "stratfied"}})
    refused(run_file, "'stratfied'", "did you mean 'stratified'", "racing.select")


def test_a_selection_that_misleads_is_refused_by_check(with_banks):
    """Few models: scores are read by difficulty alone, and need items that are like the others."""
    racing = RACING | {"select": "information"}
    refused(with_banks(5, {"fitness.racing": racing}), "'information'", "misleads", "stratified")


def test_choosing_anew_where_it_misleads_is_refused_by_check(with_banks):
    refused(with_banks(5, {"fitness.racing": RACING | {"reselect": 2}}), "reselect", "misleads")


@pytest.mark.parametrize(("cost", "misleads"), [("layers", False), ("tokens", True)])
def test_a_cost_of_the_model_is_no_mean_over_items(cost, misleads, with_banks):
    """Bounding the layers made every run fall back to items chosen by difficulty."""
    objectives = ["lunari_words", "sums", {"cost": cost}]
    racing = RACING | {"select": "information"}
    run_file = with_banks(changes={"fitness.racing": racing, "fitness.objectives": objectives})
    if misleads:
        refused(run_file, "'information' together with 'tokens'", "misleads")
    else:
        assert dict(prepared(run_file).facts)["items"] == "chosen by `information`"
