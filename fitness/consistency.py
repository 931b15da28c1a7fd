"""Whether two models answer alike: for prompts whose right answers nobody knows.

Candidates whose answers change little when a little less or more is merged tend to be the better
ones (Du et al. 2025, AdaMMS): a search among them takes prompts but no labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fitness.items import Item, Reply

Replies = Sequence[Sequence[Reply]]


def same_answers(first: Replies, second: Replies, items: Sequence[Item]) -> list[bool]:
    """Whether two models gave an item the same answer.

    Generated texts are the same if they are equal but for whitespace at their ends; of items that
    only score continuations, the likeliest one must be the same, as lm-eval's `acc` chooses. An item
    with one continuation alone is answered alike if both models would, or both would not, say it.

    Args:
        first, second: per item, one reply per request, in order.
        items: what was asked.

    Returns:
        One truth per item.
    """
    return [
        _answer(a, item) == _answer(b, item)
        for a, b, item in zip(first, second, items, strict=True)
    ]


def _answer(replies: Sequence[Reply], item: Item) -> object:
    asked = list(zip(replies, item.requests, strict=True))
    texts = [reply.text.strip() for reply, request in asked if request.kind == "generate"]
    if texts:
        return texts
    if len(replies) == 1:
        return replies[0].greedy
    return max(range(len(replies)), key=lambda i: replies[i].logprob)


def agreement(
    replies: Replies, neighbours: Sequence[Replies], items: Sequence[Item]
) -> Mapping[tuple[str, int], float]:
    """Share of the neighbours that answer as the candidate does, by task and item.

    Args:
        replies: the candidate's, per item.
        neighbours: of each neighbour, the same; at least one.
        items: what was asked.
    """
    found = [same_answers(replies, others, items) for others in neighbours]
    return {
        (item.task, item.index): math.fsum(votes) / len(neighbours)
        for item, *votes in zip(items, *found, strict=True)
    }
