"""Rows of embeddings and heads matched by token, where sources have different vocabularies."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Alignment:
    """Which row of each source stands for which row of the result.

    A source without a token gets a row for it, so that merging has something to work on: the
    base's, if that has the token; else the mean of those that have it; else (a token of a tokenizer
    whose source has no row for it) zeros. A row of the result that no token has gets the mean of
    the source's other rows. These are mergekit 0.1.5's rules.

    Args:
        ids: token -> row in the result.
        tables: source -> token -> row there.
        rows: source -> rows of its embedding; tokens beyond them are missing.
        base: source that is asked first; None: no source is.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        tables: Mapping[str, Mapping[str, int]],
        rows: Mapping[str, int],
        base: str | None,
    ) -> None:
        self.rows = 1 + max(ids.values())
        self._base = base
        found: dict[int, torch.Tensor] = {}
        self._index: dict[str, torch.Tensor] = {}
        for source, table in tables.items():
            # A source without a tokenizer shares the first's table.
            if id(table) not in found:
                found[id(table)] = _index(ids, table, self.rows)
            index = found[id(table)]
            self._index[source] = index.where(index < rows[source], -1)
        self._named = torch.zeros(self.rows, dtype=torch.bool)
        self._named[list(ids.values())] = True

    def align(self, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The sources' tensors in the result's rows.

        Args:
            stored: source -> tensor of shape [rows, ...], for the sources that have it.

        Returns:
            Source -> tensor of shape [self.rows, ...] in the widest of the storage types; a
            source's own tensor where its rows are the result's already.
        """
        dtype = torch.bfloat16 if not stored else next(iter(stored.values())).dtype
        for tensor in stored.values():
            dtype = torch.promote_types(dtype, tensor.dtype)
        index = {source: self._index[source] for source in stored}
        lacking = torch.stack([i < 0 for i in index.values()]).any(0) & self._named
        wanted = lacking.nonzero().squeeze(1)
        default = self._defaults(stored, index, wanted).to(dtype)
        return {
            source: self._rearranged(tensor, index[source], wanted, default, dtype)
            for source, tensor in stored.items()
        }

    def _defaults(
        self,
        stored: Mapping[str, torch.Tensor],
        index: Mapping[str, torch.Tensor],
        wanted: torch.Tensor,
    ) -> torch.Tensor:
        """Rows, in float32, for the tokens that some source lacks."""
        shape = next(iter(stored.values())).shape[1:]
        total = torch.zeros(len(wanted), *shape)
        count = torch.zeros(len(wanted))
        for source, tensor in stored.items():
            rows = index[source][wanted]
            has = rows >= 0
            total[has] += tensor[rows[has]].float()
            count += has
        total /= count.clamp(min=1).view(-1, *[1] * len(shape))
        if self._base is not None and self._base in stored:
            rows = index[self._base][wanted]
            total[rows >= 0] = stored[self._base][rows[rows >= 0]].float()
        return total

    def _rearranged(
        self,
        tensor: torch.Tensor,
        index: torch.Tensor,
        wanted: torch.Tensor,
        default: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        if len(tensor) == self.rows and torch.equal(index, torch.arange(self.rows)):
            return tensor
        result = tensor.new_empty((self.rows, *tensor.shape[1:]), dtype=dtype)
        has = index >= 0
        result[has] = tensor[index[has]].to(dtype)
        missing = ~has[wanted]
        result[wanted[missing]] = default[missing]
        if not self._named.all():
            result[~self._named] = result[self._named].mean(0, dtype=torch.float32).to(dtype)
        return result


def _index(ids: Mapping[str, int], table: Mapping[str, int], rows: int) -> torch.Tensor:
    """The row in a source for each row of the result, or -1."""
    index = torch.full((rows,), -1)
    index[list(ids.values())] = torch.tensor([table.get(token, -1) for token in ids])
    return index
