"""Whether two models answer alike, and how many of the neighbours do."""

import pytest

from fitness.consistency import agreement, same_answers
from fitness.estimate import mean_estimate
from fitness.items import Item, Reply, Request, Response
from fitness.objectives import Objectives, ObjectiveSpec

OPEN = Item("open", 0, (Request("generate", "a:"),), "d")
WITH_LOSS = Item("open", 1, (*OPEN.requests, Request("loglikelihood", "a:", "b")), "d")
CHOICE = Item("choice", 0, tuple(Request("loglikelihood", "a:", c) for c in "bcd"), "d")
ONE = Item("one", 0, (Request("loglikelihood", "a:", "b"),), "d")


def says(text, **more):
    return [Reply(text=text, **more)]


def scores(*logprobs):
    return [Reply(logprob=x, tokens=1) for x in logprobs]


CASES = [
    (OPEN, says("12"), says(" 12\n", tokens=5, truncated=True), True),
    (OPEN, says("12"), says("1 2"), False),
    (OPEN, says(""), says(" "), True),
    (WITH_LOSS, [*says("12"), *scores(-1.0)], [*says("12"), *scores(-9.0)], True),
    (WITH_LOSS, [*says("12"), *scores(-1.0)], [*says("13"), *scores(-1.0)], False),
    (CHOICE, scores(-3, -1, -2), scores(-9, -7, -8), True),
    (CHOICE, scores(-3, -1, -2), scores(-3, -2, -1), False),
    (ONE, [Reply(logprob=-1, greedy=True)], [Reply(logprob=-2, greedy=True)], True),
    (ONE, [Reply(logprob=-1, greedy=True)], [Reply(logprob=-1, greedy=False)], False),
]


@pytest.mark.parametrize(("item", "first", "second", "same"), CASES)
def test_same_answers(item, first, second, same):
    assert same_answers([first], [second], [item]) == [same]
    assert same_answers([second], [first], [item]) == [same]


def test_shares_of_neighbours_are_an_objective():
    items = [OPEN, CHOICE]
    own = [says("12"), scores(-1, -2, -3)]
    less = [says("12"), scores(-2, -1, -3)]
    more = [says("13"), scores(-3, -2, -1)]
    shares = agreement(own, [less, more], items)
    assert shares == {("open", 0): 0.5, ("choice", 0): 0.0}
    assert agreement(own, [own, own], items) == {("open", 0): 1.0, ("choice", 0): 1.0}
    spec = ObjectiveSpec("same", "consistency", tasks={"open": 1.0})
    found = Objectives([spec], {"open": 9, "choice": 9}, None).measure(
        [Response("open", 0, 0.0)], agreement=shares
    )
    assert found["same"] == mean_estimate([0.5], 9)


def test_replies_and_items_must_match():
    with pytest.raises(ValueError, match="zip"):
        same_answers([says("1")], [says("1"), says("2")], [OPEN])
