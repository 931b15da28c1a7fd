"""Batched decoding: greedy or sampled, stopped per row, equal to `model.generate`.

Why not `model.generate` itself: it keeps computing rows that are finished until the last one is,
and its stop strings come out differently in different batches. Without stop strings and with every
row running to its limit the two take the same time (measured: 160 prompts, 6 tokens, 0.12 s).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fitness.engines.batching import pad_left
from fitness.engines.decoding import Decoding, answer_text, not_finite
from fitness.engines.encoding import Encoder
from fitness.items import Reply


class _Chooser:
    """Picks the next token of every row."""

    def __init__(
        self, decoding: Decoding, prompts: Sequence[Sequence[int]], device: torch.device
    ) -> None:
        from transformers.generation import logits_process as warp

        self._warpers: list[Any] = []
        self._uniform = None
        if not decoding.temperature:
            return
        self._warpers.append(warp.TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_k:
            self._warpers.append(warp.TopKLogitsWarper(decoding.top_k))
        if decoding.top_p:
            self._warpers.append(warp.TopPLogitsWarper(decoding.top_p))
        if decoding.min_p:
            self._warpers.append(warp.MinPLogitsWarper(decoding.min_p))
        self._uniform = torch.stack([_uniform(p, decoding) for p in prompts]).to(device)

    def __call__(self, logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Next tokens [rows] from `logits` [rows, vocabulary], float32."""
        if self._uniform is None:
            return logits.argmax(-1)
        for warper in self._warpers:
            logits = warper(None, logits)
        # The inverse of the distribution function at one uniform number per token and row.
        cumulative = logits.softmax(-1).cumsum(-1)
        drawn = self._uniform[rows, step][:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp_(
            max=logits.shape[1] - 1
        )


def _uniform(prompt: Sequence[int], decoding: Decoding) -> torch.Tensor:
    """The uniform numbers of one prompt [new_tokens], keyed by seed and prompt alone."""
    generator = torch.Generator().manual_seed(decoding.seed_of(prompt))
    return torch.rand(decoding.new_tokens, generator=generator)


class _Answers:
    """The tokens generated so far, and which rows are finished."""

    def __init__(self, count: int, encoder: Encoder, decoding: Decoding) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.open = [True] * count
        self._encoder, self._decoding = encoder, decoding
        # A token is at least one byte, so the stop string lies in its last tokens; two more
        # because a token may begin before it or end after it.
        self._window = max((len(s.encode()) for s in decoding.until), default=0) + 2

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Append one token per row and close the rows it finishes."""
        added = [(row, token) for row, token in zip(rows, tokens, strict=True) if self.open[row]]
        for row, token in added:
            self.tokens[row].append(token)
            self.open[row] = token not in self._encoder.eos
        if not self._decoding.until:
            return
        running = [row for row, _ in added if self.open[row]]
        tails = self._encoder.raw_texts([self.tokens[row][-self._window :] for row in running])
        for row, tail in zip(running, tails, strict=True):
            self.open[row] = not any(stop in tail for stop in self._decoding.until)

    def replies(self) -> list[Reply]:
        """What was generated, cut before the first stop string."""
        return [
            Reply(
                text=answer_text(self._encoder, tokens, self._decoding.until),
                tokens=len(tokens),
                truncated=still_open,
            )
            for tokens, still_open in zip(self.tokens, self.open, strict=True)
        ]


@torch.inference_mode()
def generate(
    model: Any, encoder: Encoder, prompts: Sequence[Sequence[int]], decoding: Decoding
) -> list[Reply]:
    """Continue a batch of prompts.

    Args:
        model: a causal language model of `transformers` in evaluation mode.
        encoder: its tokenizer.
        prompts: tokens of each prompt, none empty.
        decoding: how to continue all of them.

    Returns:
        One reply per prompt. `tokens` counts the end-of-text token and the stop string's.

    Raises:
        FitnessError: the model's logits are not finite.
    """
    device = model.device
    choose = _Chooser(decoding, prompts, device)
    answers = _Answers(len(prompts), encoder, decoding)
    inputs, mask = pad_left(prompts, encoder.pad, device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    rows = torch.arange(len(prompts), device=device)
    cache = None
    for step in range(decoding.new_tokens):
        output = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        logits = output.logits[:, -1].float()
        check_finite(logits)
        tokens = choose(logits, rows, step)
        answers.add(rows.tolist(), tokens.tolist())
        positions = positions[:, -1:] + 1
        keep = [i for i, row in enumerate(rows.tolist()) if answers.open[row]]
        if not keep:
            break
        if 2 * len(keep) <= len(rows):
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            rows, tokens, mask, positions = (t[index] for t in (rows, tokens, mask, positions))
        inputs = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
    return answers.replies()


def check_finite(logits: torch.Tensor) -> None:
    """Refuse a candidate whose logits hold NaN or infinity: a choice among them means nothing."""
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise not_finite()
