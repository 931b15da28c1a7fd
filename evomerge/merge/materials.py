"""What one output tensor is made of: the sources' tensors, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from evomerge.merge.bands import KthOverModel
from evomerge.merge.deltas import Delta, DeltaKey
from evomerge.merge.statistics import Exact, Statistics
from search_spaces.recipe import TensorPlan


@dataclass(frozen=True)
class Materials:
    """The tensors of one output tensor. Good for every plan over the same sources' tensors.

    Attributes:
        base: the base's tensor where plans name one.
        inputs: one tensor per `plan.inputs`. All are of one shape and any floating dtype.
        statistics: exact, or prepared tables.
        base_key: names the base's tensor in the statistics' tables, and
        input_keys: the inputs'; empty where nothing is to be remembered.
        over_model: per `plan.merged`, thresholds over the whole model; may be empty.
    """

    base: torch.Tensor | None
    inputs: Sequence[torch.Tensor]
    statistics: Statistics = field(default_factory=Exact)
    base_key: DeltaKey = ()
    input_keys: Sequence[DeltaKey] = ()
    over_model: Sequence[KthOverModel | None] = ()
    _deltas: dict[tuple[str, bool, int], list[Delta]] = field(
        default_factory=dict[tuple[str, bool, int], list[Delta]], repr=False, compare=False
    )

    def deltas(self, plan: TensorPlan) -> list[Delta]:
        """tau of each of `plan.merged`; made once per reference and seed."""
        reference = plan.rule.reference
        asked = (reference, len(plan.merged) > len(plan.inputs), plan.seed)
        if asked not in self._deltas:
            self._deltas.clear()  # a search asks for one again and again
            self._deltas[asked] = self._made(plan, reference)
        return self._deltas[asked]

    def _made(self, plan: TensorPlan, reference: str) -> list[Delta]:
        thetas, keys = list(self.inputs), list(self.input_keys)
        if len(plan.merged) > len(plan.inputs):  # from the base itself to a source
            assert self.base is not None
            thetas = [self.base, *thetas]
            keys = [self.base_key, *keys] if keys else keys
        parts: Sequence[torch.Tensor] = thetas if reference == "mean" else ()
        seen_from: DeltaKey = tuple(o for key in keys for o in key) if reference == "mean" else ()
        if reference == "base":
            assert self.base is not None
            parts, seen_from = (self.base,), self.base_key
        return [
            Delta(
                theta,
                parts,
                (plan.seed, i, plan.merged[i].tensor),
                (*keys[i], *seen_from) if keys else None,
            )
            for i, theta in enumerate(thetas)
        ]
