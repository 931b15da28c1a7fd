"""The recipe: an immutable plan for one model, and what it says about each tensor.

A recipe is a stack of slices. A slice takes the same number of layers from each of its inputs and
merges them by the recipe's rule; its parameters may differ by tensor (a filter) and by depth (a
gradient). Tensors outside the stack belong to the first slice (embeddings) or to the last (final
norm, head); for both, a gradient has its first value, as in mergekit 0.1.5. Nothing here knows
about torch or files.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from search_spaces.agreement import copies
from search_spaces.plans import TensorInput, TensorPlan, plans
from search_spaces.reach import is_composed, needless, prune, reaches_of, without
from search_spaces.rules import RULES, Rule, rule_named
from search_spaces.settings import Clause, Parameters, Scalar, Setting, parameters
from search_spaces.validation import check_recipe

__all__ = [
    "Clause",
    "Input",
    "Parameters",
    "Recipe",
    "Scalar",
    "Setting",
    "Slice",
    "TensorInput",
    "TensorPlan",
    "parameters",
]

_VERSION, _RANDOM_VERSION = 1, 2
"""One of them enters every hash: raise it when the same content begins to mean another model. The
second is of recipes with random masks, whose generator has changed once."""


@dataclass(frozen=True, slots=True)
class Input:
    """A source's part in a slice.

    Attributes:
        source: the source's name, or its path or hub id in a recipe that stands alone.
        layers: first layer and the one after the last; None means all of them.
        parameters: this source's own settings.
    """

    source: str
    layers: tuple[int, int] | None = None
    parameters: Parameters = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive output layers made of the same inputs.

    Attributes:
        inputs: the sources, and which of their layers.
        parameters: settings for these layers.
        input_scale: factor on the hidden state that flows into the first of them; finite, not 0.
            It is no setting of the rule: it changes no weight's meaning, and is folded into the
            result's weights (`evomerge.merge.folding`).
    """

    inputs: tuple[Input, ...]
    parameters: Parameters = ()
    input_scale: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """An immutable, hashable plan for one model.

    Recipes that say the same in two ways become one on construction, so that their hashes agree:
    the base is no input of a rule on deltas (unless it enters with other layers than the first
    input); the two ends of `slerp` are base and other; the settings of the only slice are the
    recipe's. Settings written under the base of a rule that needs one are dropped: its delta is
    zero (mergekit ignores them as well). Where settings choose the method or stages, values that no
    rule in force reads are dropped, and a method that is in force everywhere is the recipe's.

    Attributes:
        method: a merge rule's name; the parameter `method` puts another in its place.
        slices: the output's layers, bottom first; one slice over all layers is the `models:` form.
        base: the base's name, or None for rules that need none.
        parameters: settings for every slice that does not say otherwise.
        dtype: storage type of the result (`float32`, `float16`, `bfloat16`); None: the base's
            (or first source's). Arithmetic is in float32 always.
        tokenizer: whose tokens the result has: a source, or `union` for those of all; embeddings
            are matched token by token. None: the sources have one vocabulary.
        seed: of the random masks, a non-negative integer.

    Raises:
        InputError: unknown method or parameter, a value out of its range, too few or too many
            sources, a missing base, slices whose inputs differ in length, methods that do not agree
            on what the base is, stages that cannot work together.
    """

    method: str
    slices: tuple[Slice, ...]
    base: str | None = None
    parameters: Parameters = ()
    dtype: str | None = None
    tokenizer: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_recipe(self)
        self._fold_lone_slice()
        method, slices, whole = folded(self.method, self.based, self.slices, self.parameters)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "slices", slices)
        object.__setattr__(self, "parameters", whole)
        if self.based:
            slices = tuple(_canonical(part, self.base, self.rule) for part in self.slices)
            object.__setattr__(self, "slices", slices)

    @cached_property
    def rule(self) -> Rule:
        """The declaration of `method`."""
        return rule_named(self.method, "merge_method")

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content, hexadecimal: the identity of a candidate."""
        text = json.dumps(_plain(self), separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def based(self) -> bool:
        """Whether there is a base that the sources are seen from, and that is none of them."""
        return self.base is not None and RULES[self.method].takes_base

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source's name, the base first, each once."""
        named = [i.source for s in self.slices for i in s.inputs]
        return tuple(dict.fromkeys(([self.base] if self.base else []) + named))

    def renamed(self, names: Mapping[str, str]) -> "Recipe":
        """The same recipe with sources renamed (names of a run to paths, say)."""

        def name(old: str | None) -> str | None:
            return None if old is None else names.get(old, old)

        slices = tuple(
            replace(
                part,
                inputs=tuple(replace(i, source=names.get(i.source, i.source)) for i in part.inputs),
            )
            for part in self.slices
        )
        return replace(self, slices=slices, base=name(self.base), tokenizer=name(self.tokenizer))

    def _fold_lone_slice(self) -> None:
        """Move the settings of a slice that is the whole recipe before the recipe's own."""
        lone, *others = self.slices
        if others or not lone.parameters:
            return
        whole = merged_settings(lone.parameters, self.parameters)
        object.__setattr__(self, "parameters", whole)
        object.__setattr__(self, "slices", (replace(lone, parameters=()),))

    def depth(self, layers: int) -> int:
        """Layers of the result, where each source has `layers`."""
        spans = [part.inputs[0].layers or (0, layers) for part in self.slices]
        return sum(last - first for first, last in spans)

    def plans(self, tensors: Iterable[str], layers: int) -> Iterator[TensorPlan]:
        """How each tensor of the *output* named in `tensors` is made, in that order.

        Args:
            tensors: output tensor names (layer indices count the output's layers).
            layers: number of layers of each source.

        Raises:
            InputError: a parameter without a value for a tensor, a `layer_range` beyond the
                sources' layers, a tensor of a layer that the result does not have.
        """
        return plans(self, tensors, layers)


def merged_settings(own: Parameters, whole: Parameters) -> Parameters:
    """Settings that say what `own` says, and of all other tensors what `whole` says."""
    merged = {name: setting.clauses for name, setting in own}
    for name, setting in whole:
        first = merged.get(name, ())
        decided = any(clause.filter is None for clause in first)
        merged[name] = first if decided else (*first, *setting.clauses)
    return parameters({name: Setting(clauses) for name, clauses in merged.items()})


def folded(
    method: str, based: bool, slices: tuple[Slice, ...], whole: Parameters
) -> tuple[str, tuple[Slice, ...], Parameters]:
    """Method, slices and settings without what no rule in force reads.

    A method that is in force everywhere is named as the method; a stage's choice that its rule has
    anyway is left out. Settings that choose no method and no stage stay as they are.
    """
    wholes = tuple(part.parameters for part in slices)
    if not is_composed((whole, *wholes)):
        return method, slices, whole
    reaches = reaches_of(method, based, wholes, whole)
    slices = tuple(
        replace(
            part,
            inputs=tuple(replace(i, parameters=prune(i.parameters, [found])) for i in part.inputs),
            parameters=prune(part.parameters, [found]),
        )
        for part, found in zip(slices, reaches, strict=True)
    )
    whole = prune(whole, reaches)
    methods = list(dict.fromkeys(r.name for s in reaches for c in s.values() for r in c.rules))
    if len(methods) == 1:
        left_out = needless([whole, *(s.parameters for s in slices)], RULES[methods[0]])
        slices = tuple(replace(s, parameters=without(s.parameters, left_out)) for s in slices)
        whole = without(whole, left_out)
    if method not in methods:
        # What copies layers says nothing of whether the others are seen from a base.
        method = next((name for name in methods if RULES[name].base != "either"), methods[0])
    return method, slices, whole


def _canonical(part: Slice, base: str | None, rule: Rule) -> Slice:
    """`part` in the one form that recipes of the same meaning share (see `Recipe`)."""
    if copies(part.parameters):
        return part
    others = tuple(i for i in part.inputs if i.source != base)
    listed = next((i for i in part.inputs if i.source == base), None)
    span = others[0].layers
    if rule.combine != "slerp":
        if listed is None or listed.layers == span:
            return replace(part, inputs=others) if listed else part
        return replace(part, inputs=(Input(listed.source, listed.layers), *others))
    assert base is not None  # the recipe is based
    end = Input(base, listed.layers if listed else span)
    return replace(part, inputs=(end, *others))


def _plain(recipe: Recipe) -> list[object]:
    """The content as nested lists: what is hashed. Equal numbers look the same (1, 1.0; 0, -0)."""

    def settings(items: Parameters) -> list[object]:
        return [
            [name, [[c.filter, [_number(v) for v in c.values]] for c in setting.clauses]]
            for name, setting in items
        ]

    slices = [
        [[[i.source, i.layers, settings(i.parameters)] for i in s.inputs], settings(s.parameters)]
        + ([] if s.input_scale == 1 else [float(s.input_scale)])
        for s in recipe.slices
    ]
    head = [recipe.method, recipe.base, recipe.dtype, recipe.tokenizer, recipe.seed]
    version = _RANDOM_VERSION if _draws(recipe) else _VERSION
    return [version, head, slices, settings(recipe.parameters)]


def _draws(recipe: Recipe) -> bool:
    """Whether random masks may enter the model."""
    places = (recipe.parameters, *(part.parameters for part in recipe.slices))
    composed = {name for place in places for name, _ in place} & {"method", "sparsify"}
    return recipe.rule.sparsify in ("random", "della") or bool(composed)


def _number(value: Scalar) -> Scalar:
    return value if isinstance(value, (bool, str)) else float(value) + 0.0
