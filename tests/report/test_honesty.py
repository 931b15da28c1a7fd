"""The honest winner, from records made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from evomerge.report.card import test_scores as card_scores
from evomerge.report.honesty import honesty, scores_of
from evomerge.report.luck import search_luck
from evomerge.report.summary import load_candidates, stored_goals
from evomerge.report.tables import honest_tables
from evomerge.search.goals import plain
from fitness.estimate import Estimate
from tests.report.planted_run import PlantedRun, full_run, responses

EVEN = {"words": 0.5, "sums": 0.5}
WORSE = {"words": 0.4, "sums": 0.4}


def report(run, measured):
    candidates, _ = load_candidates(run.database)
    return honesty(run, stored_goals(run), candidates, measured, True)


def test_equal_candidates_are_luck_and_the_report_takes_it_off(tmp_path, quickstart):
    """40 candidates of true score 0.5: plain scores are points above, corrected ones are not."""
    plain_, corrected, held = [], [], 0
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        rates = {"base": WORSE, "winner": EVEN}
        found = report(*full_run(tmp_path / str(seed), quickstart, rates=rates, seed=seed))
        mean = found["scores"]["mean"]
        for split, of in (("search", 40), ("selection", 8)):
            assert mean[split]["of"] == of
            taken = mean[split]["corrected"]
            assert taken["value"] == pytest.approx(mean[split]["value"] - taken["luck"])
        plain_.append(mean["selection"]["value"])
        corrected.append(mean["selection"]["corrected"]["value"])
        held += (
            mean["selection"]["corrected"]["low"] <= 0.5 <= mean["selection"]["corrected"]["high"]
        )
    assert np.mean(plain_) > 0.54
    assert abs(np.mean(corrected) - 0.5) < 0.02
    assert held >= 6


def test_luck_on_search_items_with_and_without_racing(tmp_path, quickstart):
    """Those who answered a third of the items have wider errors, and are corrected by them."""
    rates = {"base": WORSE, "winner": EVEN}
    found = {}
    for name, share in (("all", None), ("racing", 1 / 3)):
        values = []
        for seed in range(3):
            folder = tmp_path / f"{name}{seed}"
            folder.mkdir()
            mean = report(*full_run(folder, quickstart, rates=rates, seed=seed, share=share))
            values.append(mean["scores"]["mean"]["search"]["corrected"])
        found[name] = values
    for values in found.values():
        assert all(v["luck"] > 0 for v in values)
        assert all(v["low"] <= 0.5 <= v["high"] for v in values)
    luck = {name: np.mean([v["luck"] for v in values]) for name, values in found.items()}
    assert luck["racing"] > luck["all"]


def test_the_gain_over_the_best_source(tmp_path, quickstart):
    rates = {"base": WORSE, "expert": {"words": 0.9, "sums": 0.1}, "uniform": EVEN, "winner": EVEN}
    run, measured = full_run(tmp_path, quickstart, rates=rates, seed=1)
    found = report(run, measured)
    survived = {s["objective"]: s for s in found["survived"]}
    assert [*survived] == ["words", "sums", "mean"]
    assert survived["words"]["source"] == "expert"
    assert survived["sums"]["source"] == "base"
    words = survived["words"]
    selection = {
        d: e.objectives["words"].value for d, e in run.database.evaluations("selection").items()
    }
    assert words["selection"] == pytest.approx(selection[measured["winner"]] - selection["expert"])
    assert words["search"] is None, "the expert never answered the search items"
    assert words["test"] < 0
    assert words["share"] is None, "no gain was promised"
    sums = survived["sums"]
    assert sums["share"] == pytest.approx(sums["test"] / sums["selection"])
    # A source that is a candidate as well has answered the search items.
    run.measure("base", "search", [*run.database.responses("search")["c0"]])
    again = {s["objective"]: s for s in report(run, measured)["survived"]}["sums"]
    at = {d: e.objectives["sums"].value for d, e in run.database.evaluations("search").items()}
    assert again["search"] == pytest.approx(at[measured["winner"]] - at["base"])


def test_tables_and_card_say_the_same(tmp_path, quickstart):
    rates = {"base": WORSE, "uniform": EVEN, "winner": {"words": 0.8, "sums": 0.9}}
    run, measured = full_run(tmp_path, quickstart, rates=rates, unfinished={"base": 0.4}, seed=2)
    found = report(run, measured)
    console = Console(width=200, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    for table in honest_tables(found):
        console.print(table)
    shown = console.export_text()
    for words in ("winner over", "uniform merge", "search (of 40)", "selection (of 8)", "cut at"):
        assert words in shown
    evaluations = run.database.evaluations("test")
    card = card_scores(
        {
            "objectives": [{"name": n, "direction": "maximize"} for n in run.names],
            "baselines": {n: plain(evaluations[d].objectives) for n, d in measured.items()},
            "averaged": True,
            "honesty": found,
        }
    )
    assert "| winner over | words | sums | mean |" in card
    for sentence in found["sentences"]:
        assert f"- {sentence}" in card
    assert any("is clearly better than base, uniform merge" in s for s in found["sentences"])
    assert any(s.startswith("warning") and "over base" in s for s in found["sentences"])


def test_nothing_is_said_before_there_is_a_winner(tmp_path, quickstart):
    run, measured = full_run(tmp_path, quickstart, rates={"base": WORSE, "winner": EVEN})
    del measured["winner"]
    assert report(run, measured) is None


def test_a_winner_that_is_a_baseline(tmp_path, quickstart):
    run, measured = full_run(tmp_path, quickstart, rates={"base": WORSE, "winner": EVEN})
    measured["uniform"] = measured["winner"]
    found = report(run, measured)
    assert found["same"] == ["uniform"]
    assert {p["baseline"] for p in found["comparisons"]} == {"base"}
    assert "the winner is the same model as uniform merge" in found["sentences"]


def test_which_objectives_are_scores(tmp_path, quickstart):
    objectives = ["words", {"tasks": {"words": 3, "sums": 1}, "name": "all"}, {"cost": "tokens"}]
    run = PlantedRun(tmp_path, quickstart, objectives)
    scores = scores_of(run, stored_goals(run), False)
    assert [s.name for s in scores] == ["words", "all"]
    assert scores[1].tasks == {"words": 0.75, "sums": 0.25}
    costs = tmp_path / "costs"
    costs.mkdir()
    alone = PlantedRun(costs, quickstart, [{"cost": "tokens"}])
    assert honesty(alone, stored_goals(alone), [], {"winner": "w"}, False) is None


def test_who_was_stopped_early_adds_no_luck(tmp_path, quickstart):
    """Their errors are wide, but the race had seen that they were behind."""
    run, _ = full_run(tmp_path, quickstart, rates={"base": WORSE, "winner": EVEN}, candidates=12)
    rng = np.random.default_rng(9)
    choice = run.database.meta("choice")
    finalists = [f["recipe_hash"] for f in choice["finalists"]]
    goals = stored_goals(run)
    found = []
    for behind in (0, 100):
        for number in range(behind):
            run.measure(f"b{number}", "search", responses(rng, EVEN, asked=0.2))
        candidates, _ = load_candidates(run.database)
        answered = run.database.responses("search")
        scores = scores_of(run, goals, True)
        winner = choice["recipe_hash"]
        found.append(search_luck(scores, candidates, winner, finalists, answered, goals)[-1])
    assert [f["of"] for f in found] == [12, 112]
    assert found[0]["corrected"] == found[1]["corrected"]


def test_scores_by_an_item_bank_keep_their_value(tmp_path, quickstart):
    """Where a score is not the mean of the answers, the correction starts from the score."""
    run, _ = full_run(tmp_path, quickstart, rates={"base": WORSE, "winner": EVEN}, candidates=12)
    candidates, _ = load_candidates(run.database)
    shifted = [
        replace(
            c,
            evaluation=replace(
                c.evaluation,
                objectives={
                    n: Estimate(e.value + 0.1, e.se) for n, e in c.evaluation.objectives.items()
                },
            ),
        )
        for c in candidates
    ]
    choice = run.database.meta("choice")
    finalists = [f["recipe_hash"] for f in choice["finalists"]]
    goals = stored_goals(run)
    scores = scores_of(run, goals, True)
    answered = run.database.responses("search")
    found = search_luck(scores, shifted, choice["recipe_hash"], finalists, answered, goals)
    for score in found:
        corrected = score["corrected"]
        assert corrected["value"] + corrected["luck"] == pytest.approx(score["value"])
