"""Comparisons on test items and what unfinished answers have to do with them, by hand."""

import pytest

from evomerge.report.honest_gain import Score, answers, comparisons, of_gain, score_matrix
from evomerge.report.honest_text import answers_table, sentences
from fitness.comparison import holm
from fitness.items import Response

BOTH = Score("both", {"a": 0.25, "b": 0.75}, 1, ("both",))
ONLY_A = Score("a", {"a": 1.0}, 1, ("a",))


def answered(a, b, cut_a=(), unread_b=()):
    """Responses to items of two tasks; `b` in reverse, since only task and index say which it is."""
    first = [Response("a", i, s, 5, truncated=i in cut_a) for i, s in enumerate(a)]
    second = [Response("b", i, s, 5, parse_failure=i in unread_b) for i, s in enumerate(b)]
    return first + second[::-1]


MODELS = {
    "base": answered([0, 0, 0, 1], [1, 0], cut_a=(0, 1)),
    "uniform": answered([1, 1, 0, 1], [0, 1], unread_b=(0,)),
    "winner": answered([1, 1, 1, 0], [1, 1]),
}


def test_gains_by_hand():
    found = comparisons([BOTH, ONLY_A], MODELS, set())
    assert [(p["objective"], p["baseline"]) for p in found] == [
        ("both", "base"), ("both", "uniform"), ("a", "base"), ("a", "uniform"),
    ]  # fmt: skip
    first = found[0]
    assert first["gain"] == pytest.approx(0.25 * 2 / 4 + 0.75 * 1 / 2)
    assert (first["gained"], first["lost"], first["items"]) == (4, 1, 6)
    assert found[2]["p"] == pytest.approx(10 / 16)  # 3 against 1
    for score in (found[:2], found[2:]):
        assert [p["p_holm"] for p in score] == pytest.approx(holm([p["p"] for p in score]))


def test_where_less_is_better_the_gain_is_still_positive():
    down = Score("a", {"a": 1.0}, -1, ("a",))
    up, turned = (comparisons([s], MODELS, set())[0] for s in (ONLY_A, down))
    assert turned["gain"] == -up["gain"]
    assert (turned["gained"], turned["lost"]) == (up["lost"], up["gained"])
    assert turned["gain_finished"] == -up["gain_finished"]


def test_of_a_gain_from_unfinished_answers():
    found = of_gain(BOTH, MODELS["base"], MODELS["winner"])
    assert found["unfinished"] == 2
    assert found["gain_unfinished"] == pytest.approx(0.25 * 2 / 4)
    assert found["gain_finished"] == pytest.approx(0.75 * 1 / 2)
    other = of_gain(BOTH, MODELS["uniform"], MODELS["winner"])
    assert other["gain_unfinished"] == pytest.approx(0.75 / 2)


def test_the_winner_is_not_compared_with_itself():
    assert [p["baseline"] for p in comparisons([BOTH], MODELS, {"uniform"})] == ["base"]


def test_counts_of_unfinished_answers():
    found = answers(MODELS)
    assert found["base"] == {
        "items": 6, "generated": 6, "truncated": 2, "parse_failures": 0, "unfinished": 2,
    }  # fmt: skip
    head, rows = answers_table({"answers": found})
    assert rows[1] == ["uniform merge", "0 of 6 (0.0 %)", "1 of 6 (16.7 %)"]
    assert len(head) == 3
    assert answers_table({"answers": {"winner": found["winner"]}})[1] == []


def test_matrix():
    found = score_matrix("a", [MODELS["base"], MODELS["winner"][1:]])
    assert found[0].tolist() == [0, 0, 0, 1]
    assert found[1].tolist()[1:] == [1, 1, 0]
    assert found[1][0] != found[1][0], "not answered"


def _report(models):
    corrected = {"value": 0.5, "se": 0.1, "low": 0.3, "high": 0.7, "luck": 0.1}
    items = {"value": 0.6, "se": 0.1, "of": 8, "corrected": corrected}
    return {
        "comparisons": comparisons([ONLY_A], models, set()),
        "answers": answers(models),
        "scores": {"a": {"search": items, "selection": items, "test": {"value": 0.9, "se": 0.1}}},
        "survived": [
            {"objective": "a", "source": "base", "search": None, "selection": 0.4, "test": 0.1,
             "share": 0.25}
        ],
        "same": [],
        "judged": ["a"],
        "missing": [],
    }  # fmt: skip


def test_a_gain_that_is_finished_answers_is_warned_of():
    report = _report({name: MODELS[name] for name in ("base", "winner")})
    said = sentences(report)
    warning = next(s for s in said if s.startswith("warning"))
    assert "+50.0 of the +50.0 points of a over base come from 2 items" in warning
    assert "(2 of its answers, 0 of the winner's)" in warning
    assert "where both answered, the gain is +0.0" in warning
    finished = {
        "base": answered([0, 0, 0, 1], [1, 0]),
        "winner": MODELS["winner"],
    }
    assert not any(s.startswith("warning") for s in sentences(_report(finished)))


def test_sentences_say_what_is_not_clear():
    said = sentences(_report({name: MODELS[name] for name in ("base", "winner")}))
    assert "p = 0.62 (3 of 4 items gained, 1 lost)" in said[0]
    assert said[1] == "a: the winner is within luck of base"
    assert "+40.0 on selection items, +10.0 on test items: 25 % of the first is left" in said[2]
    assert "the pick of 8; without the luck of the pick 0.500" in said[3]
    assert said[3].endswith("on test items 0.900, outside that interval")
