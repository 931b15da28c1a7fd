"""Batched scoring of continuations: log probability, and whether greedy decoding gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fitness.engines.batching import pack, pad_right
from fitness.engines.generation import check_finite
from fitness.items import Reply

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a context and of its continuation, neither empty."""

ROWS_OF_LOGITS = 512
"""Positions normalised at once: bounds the float32 copy of the logits."""


@torch.inference_mode()
def loglikelihoods(model: Any, pairs: Sequence[Pair], pad: int, batch_tokens: int) -> list[Reply]:
    """Score each continuation after its context.

    Continuations that differ in their last token only (the letters of a multiple choice) share
    one row. The softmax is in float32 whatever the model's dtype.

    Args:
        model: a causal language model of `transformers` in evaluation mode.
        pairs: what to score.
        pad: token to fill short rows with, on the right, where causal attention never looks.
        batch_tokens: most tokens in a padded batch.

    Returns:
        One reply per pair.

    Raises:
        FitnessError: the model's logits are not finite.
    """
    sharing: dict[tuple[int, ...], list[int]] = {}
    for index, (head, tail) in enumerate(pairs):
        sharing.setdefault((*head, *tail[:-1]), []).append(index)
    rows = list(sharing)
    replies: list[Reply] = [Reply()] * len(pairs)
    for batch in pack([len(row) for row in rows], batch_tokens):
        asked = [(at, index) for at, row in enumerate(batch) for index in sharing[rows[row]]]
        tails = [pairs[index][1] for _, index in asked]
        spots = [
            (at, len(rows[batch[at]]) - len(tail) + k)
            for (at, _), tail in zip(asked, tails, strict=True)
            for k in range(len(tail))
        ]
        inputs = pad_right([rows[row] for row in batch], pad, model.device)
        targets = [token for tail in tails for token in tail]
        scored = _score(model, inputs, spots, targets)
        start = 0
        for (_, index), tail in zip(asked, tails, strict=True):
            logprobs, greedy = zip(*scored[start : start + len(tail)], strict=True)
            start += len(tail)
            replies[index] = Reply(logprob=sum(logprobs), greedy=all(greedy), tokens=len(tail))
    return replies


def _score(
    model: Any, inputs: torch.Tensor, spots: Sequence[tuple[int, int]], targets: Sequence[int]
) -> list[tuple[float, bool]]:
    """Log probability of each target at its (row, position), and whether it is the likeliest."""
    device = inputs.device
    at, position = torch.tensor(spots, device=device).unbind(1)
    target = torch.tensor(targets, device=device)
    kept, column = torch.unique(position, return_inverse=True)
    logits = model(input_ids=inputs, use_cache=False, logits_to_keep=kept).logits
    logprobs: list[float] = []
    greedy: list[bool] = []
    for part in torch.arange(len(spots), device=device).split(ROWS_OF_LOGITS):
        chosen = logits[at[part], column[part]].float()
        check_finite(chosen)
        picked = chosen.gather(1, target[part, None])[:, 0]
        logprobs += (picked - chosen.logsumexp(-1)).tolist()
        greedy += (chosen.argmax(-1) == target[part]).tolist()
    return list(zip(logprobs, greedy, strict=True))
