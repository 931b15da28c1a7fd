"""Stacks: recipes whose layers come from a pool of models, in any order, as often as one likes.

A *path* is a list of hops, bottom first; a hop names a model of the pool and one of its layers, and
may scale what flows into that layer (Akiba et al. 2024, Evolutionary Optimization of Model Merging
Recipes, data flow space). A model of the pool is a source, or a recipe over sources, of which a hop
then takes a merged layer: so the parameter space and the data flow space are one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from search_spaces.agreement import COPIED
from search_spaces.errors import InputError, nearest
from search_spaces.recipe import Input, Recipe, Slice, merged_settings
from search_spaces.roles import COMPONENTS
from search_spaces.rules import METHOD
from search_spaces.settings import Clause, Parameters, Setting, parameters
from search_spaces.validation import check_scale

_WHERE = "path"


@dataclass(frozen=True, slots=True)
class Hop:
    """One layer of a stack.

    Attributes:
        model: a name in the pool.
        layer: which of that model's layers, from 0.
        input_scale: factor on the hidden state that flows into it, not 0.
    """

    model: str
    layer: int
    input_scale: float = 1.0


@dataclass(frozen=True)
class Pool:
    """The models that layers come from.

    Attributes:
        sources: names of sources.
        layers: number of layers of each.
        merged: further models by name: recipes over sources, as deep as `layers`.
        dtype: storage type of the result; None: the first source's.

    Raises:
        InputError: no models, a name twice, merged recipes that no one recipe can hold together
            (other bases, seeds, tokenizers) or of another depth.
    """

    sources: Sequence[str]
    layers: int
    merged: Mapping[str, Recipe]
    dtype: str | None = None

    def __post_init__(self) -> None:
        names = self.models
        if not names or len(set(names)) < len(names):
            raise InputError(
                f"models {', '.join(names) or '(none)'}",
                "a pool has at least one model, and each name once",
                "pool",
                "correct the names",
            )
        for name, recipe in self.merged.items():
            depth = recipe.depth(self.layers)
            if depth != self.layers:
                raise InputError(
                    f"merged model '{name}' of {depth} layers",
                    f"the models of a pool have {self.layers}",
                    "pool",
                    "merge the models layer by layer",
                )
        if len({(r.base, r.seed, r.tokenizer) for r in self.merged.values()}) > 1:
            raise InputError(
                f"merged models {', '.join(self.merged)}",
                "those of a pool have one base, seed and tokenizer: a recipe has one of each",
                "pool",
                "merge them over the same base",
            )

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models: sources first."""
        return (*self.sources, *self.merged)

    def stack(self, path: Sequence[Hop]) -> Recipe:
        """The recipe of `path`: hops that continue each other become one slice.

        Paths of the same model give the same recipe; one that goes straight through a model of the
        pool gives that model. The embeddings come from the first hop's model, the final norm and
        the head from the last's; where that model is merged otherwise by depth, they are merged as
        that hop's layer is.

        Raises:
            InputError: an empty path, a model that is not in the pool, a layer that it does not
                have, a scale that cannot be folded (see `validation.check_scale`).
        """
        self._check(path)
        whole = self._whole(path)
        if whole is not None:
            return whole
        merges = [hop.model for hop in path if hop.model in self.merged]
        slices = tuple(_joined([self._layer(hop, beside=bool(merges)) for hop in path]))
        if not merges:
            return Recipe("passthrough", slices, dtype=self.dtype)
        one = self.merged[merges[0]]
        slices = tuple(_without_method(part, one.method) for part in slices)
        return Recipe(one.method, slices, one.base, (), self.dtype, one.tokenizer, one.seed)

    def _check(self, path: Sequence[Hop]) -> None:
        if not path:
            raise InputError("an empty path", "a stack has layers", _WHERE, "add a hop")
        for place, hop in enumerate(path):
            where = f"hop {place}"
            if hop.model not in self.models:
                raise InputError(
                    f"model '{hop.model}'",
                    "it is not in the pool",
                    where,
                    nearest(hop.model, self.models),
                )
            if not 0 <= hop.layer < self.layers:
                raise InputError(
                    f"layer {hop.layer} of '{hop.model}'",
                    f"it has layers 0 to {self.layers - 1}",
                    where,
                    "name one of them",
                )
            check_scale(hop.input_scale, where)

    def _whole(self, path: Sequence[Hop]) -> Recipe | None:
        """The model that `path` goes straight through."""
        name = path[0].model
        if tuple(path) != tuple(Hop(name, layer) for layer in range(self.layers)):
            return None
        if name in self.merged:
            return replace(self.merged[name], dtype=self.dtype)
        return Recipe("passthrough", (Slice((Input(name),)),), dtype=self.dtype)

    def _layer(self, hop: Hop, beside: bool) -> Slice:
        """A slice of one layer; of a source `beside` merged layers, one that says so."""
        if hop.model in self.merged:
            return replace(self._merged(hop.model, hop.layer), input_scale=hop.input_scale)
        copied = ((METHOD, COPIED),) if beside else ()
        return Slice(
            (Input(hop.model, (hop.layer, hop.layer + 1)),), copied, input_scale=hop.input_scale
        )

    def _merged(self, model: str, layer: int) -> Slice:
        known = self._cut
        if (model, layer) not in known:
            known[model, layer] = _layer_of(self.merged[model], layer, self.layers)
        return known[model, layer]

    @cached_property
    def _cut(self) -> dict[tuple[str, int], Slice]:
        """The layers of merged models that paths have gone through so far."""
        return {}


def _layer_of(recipe: Recipe, layer: int, layers: int) -> Slice:
    """A slice that makes one output layer of `recipe` by itself, in whatever recipe it stands."""
    part, offset = recipe.slices[0], layer
    for part in recipe.slices:
        length = _length(part, layers)
        if offset < length:
            break
        offset -= length
    length = _length(part, layers)
    shared = dict(merged_settings(part.parameters, recipe.parameters))
    method = shared.get(METHOD, Setting(())).clauses
    shared[METHOD] = Setting((*method, Clause((recipe.method,))))
    within = offset / (length - 1) if length > 1 else 1.0
    inputs: list[Input] = []
    for entry in part.inputs:
        place = (entry.layers or (0, layers))[0] + offset
        inputs.append(Input(entry.source, (place, place + 1), _at(entry.parameters, within)))
    ramp = layer / max(recipe.depth(layers) - 1, 1)
    return Slice(tuple(inputs), _level(_at(parameters(shared), within), ramp))


def _length(part: Slice, layers: int) -> int:
    first, stop = part.inputs[0].layers or (0, layers)
    return stop - first


def _at(settings: Parameters, within: float) -> Parameters:
    """Settings without gradients: their values at one place of the slice."""
    return tuple(
        (name, Setting(tuple(_fixed(c, within) for c in s.clauses))) for name, s in settings
    )


def _fixed(clause: Clause, within: float) -> Clause:
    if len(clause.values) == 1:
        return clause
    return replace(clause, values=(clause.at(within),))


def _level(settings: Parameters, depth: float) -> Parameters:
    """Settings without a depth ramp: a layer keeps the scale it has where it comes from.

    Raises:
        InputError: the ramp differs by parts of tensors' names.
    """
    named = dict(settings)
    slope, start = named.pop("beta", None), named.get("alpha")
    if slope is None:
        return settings
    spoken = [clause.filter for s in (slope, start) if s for clause in s.clauses]
    if not {*spoken} <= {None, *COMPONENTS}:
        raise InputError(
            "alpha or beta with a filter that is no component",
            "a layer that moves takes its place on the ramp with it, by component",
            "parameters",
            f"filter by {', '.join(COMPONENTS)}, or leave the ramp out",
        )
    components = [None] if {*spoken} <= {None} else COMPONENTS
    clauses = [
        Clause((_said(start, c, 1.0) + _said(slope, c, 0.0) * depth,), c) for c in components
    ]
    return parameters(named | {"alpha": Setting(tuple(clauses))})


def _said(setting: Setting | None, component: str | None, default: float) -> float:
    clauses = setting.clauses if setting else ()
    found = (c.values[0] for c in clauses if c.filter in (None, component))
    return float(next(found, default))


def _without_method(part: Slice, method: str) -> Slice:
    """`part` of a recipe whose method is `method`: it need not say so."""
    named = dict(part.parameters)
    if named.get(METHOD) == Setting.constant(method):
        del named[METHOD]
    return replace(part, parameters=parameters(named))


def _joined(slices: Sequence[Slice]) -> Iterator[Slice]:
    """`slices` of one layer each, those that continue the one before joined to it."""
    last = slices[0]
    for part in slices[1:]:
        if _continues(last, part):
            inputs = tuple(
                replace(a, layers=(_span(a)[0], _span(b)[1]))
                for a, b in zip(last.inputs, part.inputs, strict=True)
            )
            last = replace(last, inputs=inputs)
        else:
            yield last
            last = part
    yield last


def _continues(last: Slice, part: Slice) -> bool:
    if part.input_scale != 1 or part.parameters != last.parameters:
        return False
    if len(part.inputs) != len(last.inputs):
        return False
    return all(
        a.source == b.source and a.parameters == b.parameters and _span(a)[1] == _span(b)[0]
        for a, b in zip(last.inputs, part.inputs, strict=True)
    )


def _span(entry: Input) -> tuple[int, int]:
    assert entry.layers is not None  # every slice of a stack says its layers
    return entry.layers
