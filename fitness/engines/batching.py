"""How token rows become padded batches. No model, no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows into batches of similar length, longest first.

    Args:
        lengths: tokens per row.
        batch_tokens: most tokens in a padded batch (rows x longest row). A row longer than that
            gets a batch of its own.

    Returns:
        Positions in `lengths`, each exactly once.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * longest <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = lengths[row]
    return batches


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> torch.Tensor:
    """Rows as one tensor [rows, longest], filled with `pad` on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one tensor [rows, longest], `pad` on the left, and its mask (1 = token)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*[pad] * (width - len(row)), *row] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(width, device=device)[None, :] >= (width - lengths)[:, None]
    return ids, mask.long()
