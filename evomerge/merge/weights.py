"""A candidate's weights, one tensor at a time: what engines load and the writer exports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch

from evomerge.merge.bands import KthOverModel
from evomerge.merge.boxes import boxed, region_of
from evomerge.merge.checkpoint import text_config
from evomerge.merge.deltas import Delta, Origin
from evomerge.merge.depths import LayerKinds, at_layers, origins_of
from evomerge.merge.folding import Fold, folds, write_folded
from evomerge.merge.materials import Materials
from evomerge.merge.pipeline import ReadyTensor, ready
from evomerge.merge.placement import Placed, Placement, place_here
from evomerge.merge.resolve import parts_of, resolve
from evomerge.merge.sources import Sources
from evomerge.merge.statistics import Exact, Statistics
from fitness.engine import Box, ShapeError, Stack
from search_spaces.errors import InputError, nearest
from search_spaces.recipe import Recipe, TensorInput, TensorPlan
from search_spaces.roles import role

Contents: TypeAlias = Callable[[tuple[Path, ...]], str]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class MergeError(RuntimeError):
    """A candidate's arithmetic failed. The evaluator's outcome is then "merge failed".

    Args:
        tensor: the output tensor.
        reason: what is wrong with it.
        finite: whether the numbers are not what is wrong.
    """

    def __init__(self, tensor: str, reason: str, *, finite: bool = False) -> None:
        self.tensor, self.reason, self.finite = tensor, reason, finite
        super().__init__(f"tensor {tensor}: {reason}")


@dataclass(frozen=True, slots=True)
class Exactly:
    """A recipe whose thresholds and norms are not to be looked up but computed, as in an export."""

    recipe: Recipe


class MergedWeights:
    """Implements `fitness.engine.WeightProvider` for recipes over opened sources.

    Tensors are rounded to the recipe's storage dtype, so that what is scored is, bit for bit, what
    is exported; an engine copies them up to the type it computes in.

    Args:
        sources: opened and compatible; they stay mapped while this lives.
        statistics: what is known of the sources as wholes: exact (an export), or tables (a search).
        place: decides where the sources live, and with it the device that merges, when the first
            candidate comes; None: mapped files, and the CPU.
        contents: what stands for the contents of files in tables that outlive the process.
    """

    def __init__(
        self,
        sources: Sources,
        statistics: Statistics | None = None,
        *,
        place: Callable[[], Placement] | None = None,
        contents: Contents | None = None,
    ) -> None:
        self._opened = sources
        self._kinds = LayerKinds(sources)
        self._decide = place or partial(place_here, sources.held_bytes(), torch.device("cpu"))
        self._contents = contents
        self._places: dict[int, Placed] = {}
        self._sources = sources
        self._tables = self._statistics = statistics or Exact()
        self._model_thresholds: dict[tuple[str, tuple[str, ...], float], float] = {}
        self._plans: dict[str, TensorPlan] = {}
        self._folds: dict[str, Fold] = {}
        self._last: tuple[TensorPlan, ReadyTensor] | None = None
        self._after: dict[str, str] = {}
        self._asked: list[str] = []
        self._origins: dict[tuple[int, str, str], Origin] = {}
        self._kept: dict[tuple[int, bool, tuple[tuple[str, str], ...]], Materials] = {}
        self._recipe: Recipe | None = None

    def prepare(self, payload: object) -> None:
        """Resolve a recipe into one plan per output tensor. Touches no weight.

        Args:
            payload: a `Recipe`, or one to be merged `Exactly`.

        Raises:
            InputError: a source that is not open, layers beyond the sources', a parameter without a
                value, weights that cannot be normalised, input scales that cannot be folded.
            TypeError: `payload` is no recipe.
        """
        exactly = isinstance(payload, Exactly)
        if isinstance(payload, Exactly):
            payload = payload.recipe
        if not isinstance(payload, Recipe):
            raise TypeError(f"a {type(payload).__name__} was passed where a Recipe is needed")
        self._statistics = Exact() if exactly else self._tables
        self._recipe = self._last = None
        self._model_thresholds.clear()
        for name in payload.sources:
            if name not in self._opened.names:
                raise InputError(
                    f"source '{name}'",
                    "it is not open",
                    "recipe",
                    nearest(name, self._opened.names),
                )
        self._sources = self._opened.with_tokenizer(payload.tokenizer, payload.base)
        self._plans = resolve(payload, self._sources)
        self._folds = folds(payload, self._sources)
        # Engines ask in an order of their own, the same for every candidate.
        self._after, self._asked = dict(pairwise(self._asked)), []
        for placed in self._places.values():
            placed.forget()
        self._recipe = payload

    def stack(self) -> Stack:
        """How many layers the prepared recipe's result has, and of what kinds.

        Raises:
            InputError: layers of different kinds are merged with each other, or layers move of which
                the configuration does not say how they are built.
        """
        return self._kinds.stack(self._prepared())

    def names(self) -> tuple[str, ...]:
        """The output's tensors: embeddings, layers from the bottom, final norm and head."""
        self._prepared()
        return tuple(self._plans)

    @property
    def dtype(self) -> torch.dtype:
        """The storage dtype of the result."""
        recipe = self._prepared()
        if recipe.dtype:
            return DTYPES[recipe.dtype]
        stored = self._sources.dtype(recipe.sources[0])
        return stored if stored in DTYPES.values() else torch.float32

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of output tensor `name`."""
        return self._sources.shapes[self._plans[name].inputs[0].tensor]

    def storage_dtype(self, name: str) -> torch.dtype:
        """The dtype `tensor(name)` has: tensors that do not merge keep their own."""
        source = parts_of(self._plans[name])[0]
        if self._sources.floating(source.tensor):
            return self.dtype
        return self._sources.tensor(source.source, source.tensor).dtype

    def tensor(self, name: str, box: Box = ()) -> torch.Tensor:
        """The candidate's tensor `name` in storage dtype, or the part `box` of it.

        Where the head is tied to the embedding, its name gives the embedding. Norms, thresholds and
        masks are those of the whole tensor, so a part is the same numbers as in the whole.

        Raises:
            MergeError: the result holds NaN or infinity in the storage dtype.
            KeyError: the model has no such tensor.
        """
        self._prepared()
        plan = self._plans[self._tied_name(name)]
        shape = boxed(self.shape(plan.tensor), box)
        device = torch.device(self._placement.device)
        out = torch.empty(shape, dtype=self.storage_dtype(plan.tensor), device=device)
        self._merge(plan, out, box)
        return out

    def write(self, name: str, out: torch.Tensor, box: Box = ()) -> None:
        """Put the candidate's tensor `name`, or the part `box` of it, into `out`, in place.

        The numbers are those of `tensor`, copied up or down where `out` has another dtype; where it
        has the same, nothing of the tensor's size is made on the way.

        Raises:
            MergeError, KeyError: see `tensor`.
            ShapeError: `out` has another shape.
        """
        self._prepared()
        plan = self._plans[self._tied_name(name)]
        found = boxed(self.shape(plan.tensor), box)
        if found != tuple(out.shape):
            raise ShapeError(name, found, out.shape)
        place = torch.device(self._placement.device)
        at_hand = out.device.type == place.type and place.index in (None, out.device.index)
        if at_hand and out.dtype == self.storage_dtype(plan.tensor) and out.is_contiguous():
            self._merge(plan, out, box)
        else:
            out.copy_(self.tensor(name, box))

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the result, made when it is asked for: what an engine's loader takes."""
        return ((name, self.tensor(name)) for name in self.names())

    def check_finite(self, name: str) -> None:
        """Look for NaN and infinity in what tensor `name` is made of: some rules would drop them.

        Raises:
            InputError: names the tensor, its file and its source.
        """
        for part in self._parts(name):
            self._sources.check_finite_tensor(part.source, part.tensor)

    def mapped(self, name: str) -> list[torch.Tensor]:
        """What is read of mapped files for tensor `name`. Do not write to it."""
        plain = [
            i for i in self._parts(name) if len(self._sources.origin(i.source, i.tensor)[0]) == 1
        ]
        return [self._sources.tensor(part.source, part.tensor) for part in plain]

    def _parts(self, name: str) -> tuple[TensorInput, ...]:
        return parts_of(self._plans[self._tied_name(name)])

    def output_config(self) -> dict[str, Any]:
        """The result's config.json: the base's (or first source's), at its depth and dtype.

        Raises:
            InputError: layers of different kinds are merged with each other, or layers move of which
                the configuration does not say how they are built.
        """
        recipe = self._prepared()
        self._kinds.check_merges(recipe)
        owner = recipe.sources[0]
        origins = origins_of(recipe, self._sources.layers)
        config = at_layers(self._sources.config(owner), owner, origins, self._kinds)
        text = text_config(config)
        for part in (config, text):
            for name in ("dtype", "torch_dtype"):
                if name in part or (
                    part is config and name == "torch_dtype" and "dtype" not in part
                ):
                    part[name] = str(self.dtype).removeprefix("torch.")
        return config

    def _prepared(self) -> Recipe:
        if self._recipe is None:
            raise RuntimeError("prepare() comes first, and must have succeeded")
        return self._recipe

    def _tied_name(self, name: str) -> str:
        embedding = self._sources.embedding
        tied_head = self._sources.tied and role(name).component == "lm_head"
        return embedding if tied_head and name not in self._plans and embedding else name

    def _merge(self, plan: TensorPlan, out: torch.Tensor, box: Box) -> None:
        source = parts_of(plan)[0]
        if not self._sources.floating(source.tensor):
            out.copy_(self._sources.tensor(source.source, source.tensor)[box])
            return
        region = region_of(self.shape(plan.tensor), box)
        if region is None:
            whole = torch.empty(self.shape(plan.tensor), dtype=out.dtype, device=out.device)
            self._merge(plan, whole, ())
            out.copy_(whole[box])
            return
        try:
            made, fold = self._made_ready(plan), self._folds.get(plan.tensor)
            finite = write_folded(made, fold, out, region) if fold else made.write(out, region)
        except ValueError as error:  # no such merge of these sources: opposite vectors, say
            raise MergeError(plan.tensor, str(error), finite=True) from error
        if not finite:
            kind = str(self.dtype).removeprefix("torch.")
            raise MergeError(plan.tensor, f"the merged tensor holds NaN or infinity in {kind}")

    def _made_ready(self, plan: TensorPlan) -> ReadyTensor:
        """The last tensor is kept at hand: it may be asked for in parts."""
        if self._last is None or self._last[0] is not plan:
            self._last = None
            self._asked.append(plan.tensor)
            self._last = plan, ready(plan, self._materials(plan))
        return self._last[1]

    def _materials(self, plan: TensorPlan) -> Materials:
        """What `plan` merges; kept for the next candidates where the tensors are kept anyway."""
        names = tuple((part.source, part.tensor) for part in parts_of(plan))
        exact = self._statistics is not self._tables
        asked = (id(self._sources), plan.base is None, names)
        if exact or asked not in self._kept:
            materials = self._gathered(plan)
            if exact or not self._placed.keeps or not all(self._is_view(*name) for name in names):
                return materials
            self._kept[asked] = materials
        found = self._kept[asked]
        over = self._over(plan)
        return replace(found, over_model=over) if over else found

    def _gathered(self, plan: TensorPlan) -> Materials:
        base = plan.base
        materials = Materials(
            None if base is None else self._placed.tensor(base.source, base.tensor),
            [self._placed.tensor(i.source, i.tensor) for i in plan.inputs],
            self._statistics,
            () if base is None else (self._origin(base.source, base.tensor),),
            [(self._origin(i.source, i.tensor),) for i in plan.inputs],
            self._over(plan),
        )
        coming = self._plans.get(self._after.get(plan.tensor, ""))
        if coming is not None:
            self._placed.announce([(part.source, part.tensor) for part in parts_of(coming)])
        return materials

    def _over(self, plan: TensorPlan) -> Sequence[KthOverModel]:
        if plan.parameters.get("scope") != "model":
            return ()
        return [partial(self._over_model, i.source, _seen_from(plan)) for i in plan.merged]

    def _is_view(self, source: str, name: str) -> bool:
        """Whether the tensor is not made anew whenever it is asked for."""
        return len(self._sources.origin(source, name)[0]) <= 1

    @cached_property
    def _placement(self) -> Placement:
        return self._decide()

    @property
    def _placed(self) -> Placed:
        if id(self._sources) not in self._places:
            self._places[id(self._sources)] = Placed(self._sources, self._placement)
        return self._places[id(self._sources)]

    def _origin(self, source: str, name: str) -> Origin:
        """What stands for a tensor's numbers in tables."""
        asked = (id(self._sources), source, name)
        if asked not in self._origins:
            files, inside = self._sources.origin(source, name)
            if files and self._contents is not None:
                self._origins[asked] = Origin(self._contents(files), inside, lasting=True)
            else:
                self._origins[asked] = Origin(f"{id(self._sources)} {source}", name)
        return self._origins[asked]

    def _over_model(self, source: str, reference: tuple[str, ...], density: float) -> float:
        """The least |tau| kept when `density` of a source's elements is kept over all tensors."""
        asked = (source, reference, density)
        if asked not in self._model_thresholds:
            deltas = (
                self._own_deltas(source, reference)
                if self._moved
                else [
                    self._delta(part, plan)
                    for plan in self._plans.values()
                    for part in plan.merged
                    if part.source == source
                    and _seen_from(plan) == reference
                    and self._sources.floating(part.tensor)
                ]
            )
            kept = max(1, int(density * sum(delta.count for delta in deltas)))
            self._model_thresholds[asked] = self._statistics.threshold_over(deltas, kept)
        return self._model_thresholds[asked]

    @property
    def _moved(self) -> bool:
        """Whether layers, each of like ones of the sources, are left out, repeated or moved."""
        recipe, layers = self._prepared(), self._sources.layers
        if [layer for _, layer in origins_of(recipe, layers)] == list(range(layers)):
            return False
        return all(len({p.tensor for p in parts_of(plan)}) == 1 for plan in self._plans.values())

    def _own_deltas(self, source: str, reference: tuple[str, ...]) -> list[Delta]:
        """All of a source's own tensors, each once: a layer keeps its threshold wherever it stands."""
        deltas: list[Delta] = []
        for name in self._sources.shapes:
            together = (source, *reference)
            if self._sources.floating(name) and all(self._sources.holds(o, name) for o in together):
                key = tuple(self._origin(o, name) for o in together)
                parts = [self._sources.tensor(o, name) for o in reference]
                deltas.append(Delta(self._sources.tensor(source, name), parts, key=key))
        return deltas

    def _delta(self, part: TensorInput, plan: TensorPlan) -> Delta:
        """A source's part in another tensor than the one that is merged: read where it is stored."""
        seen_from = plan.merged if plan.rule.reference == "mean" else (plan.base,)
        others = [o for o in seen_from if o is not None and plan.rule.reference != "none"]
        key = tuple(self._origin(o.source, o.tensor) for o in (part, *others))
        parts = [self._sources.tensor(o.source, o.tensor) for o in others]
        return Delta(self._sources.tensor(part.source, part.tensor), parts, key=key)


def _seen_from(plan: TensorPlan) -> tuple[str, ...]:
    """The sources that the reference is the mean of."""
    if plan.rule.reference == "base":
        assert plan.base is not None
        return (plan.base.source,)
    return tuple(i.source for i in plan.merged) if plan.rule.reference == "mean" else ()
